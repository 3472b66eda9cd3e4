"""Sampling: step functions, and the one loop that runs them.

A step goes from time t to s < t in the DCT basis. The state stays there, so that a step costs two transforms: one for
the network's input and one for its output. The loop is traced: it is the same eagerly, in a `tf.function` and in a
SavedModel.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from tf_blurdiff.errors import UserError
from tf_blurdiff.process import posterior_freq


def ancestral_step(z_freq, x0_freq, eps_freq, noise_freq, at_t, at_s, eta):
    """Draws `z_s` from `q(z_s | z_t, x0_hat)`; the arguments are those of `ddim_step`, of which eta is not used.

    Reference: Ho et al., 2020, algorithm 2; Hoogeboom and Salimans, 2023, equation 20.
    """
    mean_freq, variance = posterior_freq(z_freq, x0_freq, at_t, at_s)
    return mean_freq + ops.sqrt(variance) * noise_freq


def ddim_step(z_freq, x0_freq, eps_freq, noise_freq, at_t, at_s, eta):
    """DDIM: deterministic for `eta = 0`, the ancestral step for `eta = 1`.

    `u_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 var) eps + eta sqrt(var) noise`, with var the posterior's variance.

    Args:
        z_freq: the state at time t, `[B, H, W, C]` in the DCT basis.
        x0_freq, eps_freq: what the network says of it, the same shape.
        noise_freq: standard normal noise, the same shape; 0 where none is wanted.
        at_t, at_s: the process's `Marginal` at both times.
        eta: number in [0, 1].

    Returns:
        The state at time s.

    Reference: Song et al., Denoising Diffusion Implicit Models, 2021, equation 12, for each frequency.
    """
    # var = -sigma_s^2 expm1(D) with D = logsnr_t - logsnr_s: both roots have the factor sigma_s^2.
    expm1_logsnr_fall = ops.expm1(at_t.logsnr - at_s.logsnr)
    eps_scale = ops.sqrt(1.0 + eta**2 * expm1_logsnr_fall)
    noise_scale = eta * ops.sqrt(-expm1_logsnr_fall)
    return at_s.alpha * x0_freq + at_s.sigma * (eps_scale * eps_freq + noise_scale * noise_freq)


class Sampler(NamedTuple):
    """A step function, and whether it draws noise for a given eta."""

    step: Callable
    draws_noise: Callable


SAMPLERS = {
    "ancestral": Sampler(ancestral_step, lambda eta: True),
    "ddim": Sampler(ddim_step, lambda eta: eta > 0.0),
}


def get_sampler(name):
    """The `Sampler` of that name; a UserError lists the names there are."""
    if name not in SAMPLERS:
        raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}. Received: {name!r}")
    return SAMPLERS[name]


def uniform_times(num_steps):
    """The decreasing grid 1, 1 - 1/num_steps, ..., 0, `[num_steps + 1]`.

    Example:
        >>> uniform_times(4).numpy().tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    num_steps = ops.convert_to_tensor(num_steps, "int32")
    return 1.0 - ops.cast(ops.arange(num_steps + 1), "float32") / ops.cast(num_steps, "float32")


def run_steps(step, denoise, process, draw_noise, z_freq, times, first, last):
    """Runs the steps number `first` to `last - 1` of the grid `times`.

    Args:
        step: `(z_freq, x0_freq, eps_freq, noise_freq, at_t, at_s) -> z_freq`.
        denoise: `(z_freq, t [B], at_t) -> (x0_freq, eps_freq)`.
        process: a `Process`.
        draw_noise: `step number -> [B, H, W, C]`, or None for a deterministic step. The grid's last step goes without
            noise: the result is the mean.
        z_freq: the state at `times[first]`, `[B, H, W, C]` in the DCT basis.
        times: decreasing, `[num_steps + 1]`.
        first, last: integers, which steps to run.

    Returns:
        The state at `times[last]`.
    """
    size = z_freq.shape[1:3]
    final_step = ops.shape(times)[0] - 2

    def noise(i):
        if draw_noise is None:
            return 0.0
        return ops.cast(i < final_step, "float32") * draw_noise(i)

    def body(i, z_freq):
        t, s = ops.take(times, i), ops.take(times, i + 1)
        at_t, at_s = (process.marginal(ops.reshape(time, (1,)), *size) for time in (t, s))
        x0_freq, eps_freq = denoise(z_freq, ops.broadcast_to(t, ops.shape(z_freq)[:1]), at_t)
        return i + 1, step(z_freq, x0_freq, eps_freq, noise(i), at_t, at_s)

    start = ops.convert_to_tensor(first, "int32")
    return ops.while_loop(lambda i, z_freq: i < last, body, (start, z_freq))[1]


def check_sampling(sampler, num_steps, eta=0.0, batch_size=None):
    """Raises a UserError that says what is allowed, unless a sampling loop can run with these."""
    get_sampler(sampler)
    for name, value in {"num_steps": num_steps, "batch_size": 1 if batch_size is None else batch_size}.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value < 2**31:
            raise UserError(f"{name} must be an integer of 1 or more, below 2^31. Received: {value!r}")
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must be in [0, 1]. Received: {eta!r}")


def checked_seeds(seeds):
    """Seeds as int64 `[B]`, or a UserError: B is at least 1, and no seed is rounded or wrapped."""
    given, seeds = seeds, np.asarray(seeds)
    if seeds.ndim != 1 or not len(seeds) or not np.can_cast(seeds.dtype, np.int64):
        raise UserError(f"seeds must be a list of at least one integer of 64 bits. Received: {given!r}")
    return seeds.astype(np.int64)


def checked_labels(labels, num_classes, count):
    """Labels as int64 `[count]`, zeros for a model without; or a UserError."""
    if num_classes is None:
        if labels is not None:
            raise UserError("This model has no labels (its network's num_classes is None). Received: labels")
        return np.zeros(count, np.int64)
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise UserError(f"labels must be {count} integers, one for each seed. Received: {labels!r}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels must be in [0, {num_classes}). Received: {labels!r}")
    return labels.astype(np.int64)
