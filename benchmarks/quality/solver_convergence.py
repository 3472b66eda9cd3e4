"""How far deterministic samplers are from the exact result, by sampler, grid and calls of the network.

    python benchmarks/quality/solver_convergence.py

The data are Gaussian and diagonal in the DCT basis, with standard deviation 0.6 / (1 + eigenvalue), so that the
denoiser is exact and the final variance known. Printed is its relative error in percent, the mean over all coefficients
of its absolute value, and the slope of its fall on a log scale between 20 and 160 calls. What a network gets wrong is
not in it: `digits.py --part solvers` shows that. It takes about a minute.
"""

import functools

import numpy as np
import tensorflow as tf
from keras import ops

import tf_blurdiff as bd
from tf_blurdiff import command_line
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.predictions import Estimate, eps_from_x0
from tf_blurdiff.diffusion.samplers import first_state, get_sampler, run_steps

PROCESSES = {
    "gaussian, 8x8": (bd.process.gaussian(), 8),
    "blurring, 8x8, sigma_blur_max 4": (bd.process.blurring(sigma_blur_max=4.0), 8),
    "blurring, 32x32, sigma_blur_max 20": (bd.process.blurring(sigma_blur_max=20.0), 32),
}
SAMPLERS = ("ddim", "multistep2", "multistep3")
CALLS = (5, 10, 20, 50, 200)
_SLOPE_CALLS = (20, 40, 80, 160)


def main():
    """Prints one table for each process."""
    for name, (process, size) in PROCESSES.items():
        print(f"\n{name}\n\n| sampler | grid | {' | '.join(map(str, CALLS))} | slope |")
        print("|---" * (len(CALLS) + 3) + "|")
        for sampler in SAMPLERS:
            error = _error_function(sampler, process, size)
            for grid in GRIDS:
                errors = " | ".join(f"{100 * error(calls, grid):.3g}" for calls in CALLS)
                slope = np.polyfit(np.log(_SLOPE_CALLS), np.log([error(n, grid) for n in _SLOPE_CALLS]), 1)[0]
                print(f"| {sampler} | {grid} | {errors} | {-slope:.2f} |", flush=True)


def _error_function(name, process, size):
    """`(calls, grid) -> the final variance's mean relative error`."""
    sampler = get_sampler(name)
    std = (0.6 / (1.0 + bd.laplacian_eigenvalues(size, size)))[None, :, :, None].astype(np.float32)
    at_1, at_0 = (process.marginal([t], size, size) for t in (1.0, 0.0))
    start, final = (np.sqrt(np.square(at.alpha * std) + np.square(at.sigma)) for at in (at_1, at_0))

    def denoise(z_freq, t, at_t, at_s):
        gain = at_t.alpha * std**2 / (ops.square(at_t.alpha * std) + ops.square(at_t.sigma))
        return Estimate(gain * z_freq, eps_from_x0(gain * z_freq, z_freq, at_t), None)

    @tf.function(autograph=False, reduce_retracing=True)
    def run(state, times):
        return run_steps(sampler, denoise, process, None, state, times, 0, ops.shape(times)[0] - 1)[0]

    @functools.cache
    def error(calls, grid):
        # The sampler is linear: where one standard deviation goes says all.
        state = first_state(tf.constant(start), sampler)
        end = run(state, tf.constant(GRIDS[grid](calls, process)[:, None])).numpy().astype(np.float64)
        return np.abs(np.square(end / final) - 1.0).mean()

    return error


if __name__ == "__main__":
    command_line.run(main)
