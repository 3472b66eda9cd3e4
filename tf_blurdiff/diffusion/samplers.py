"""Sampling: step functions, and the one loop that runs them.

A step goes from time t to s < t in the DCT basis. The state stays there, so that a step costs two transforms: one for
the network's input and one for its output. The loop is traced: it is the same eagerly, in a `tf.function` and in a
SavedModel.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from tf_blurdiff.diffusion.process import posterior_freq
from tf_blurdiff.errors import UserError

# Four give the integrals of a step to a thousandth of its error.
_GAUSS_NODES = 4


class Sampling(NamedTuple):
    """How to sample: the sampler's name, steps and grid, the noise of "ddim" and, as a standard deviation, of
    "heat"."""

    sampler: str
    num_steps: int
    grid: str
    eta: float = 0.0
    delta: float = 0.0


class Step(NamedTuple):
    """What a step from t to s works on; tensors are `[B, H, W, C]` in the DCT basis."""

    z_freq: object
    estimate: object  # predictions.Estimate at z_freq
    noise_freq: object  # standard normal, or 0 where none is wanted
    at_t: object  # process.Marginal
    at_s: object
    marginal_of: Callable = None  # log(a / sigma) -> the Marginal with that
    earlier: tuple = ()  # of samplers of a higher order: (answer_freq, at, is_there) of the steps before, newest first


def ancestral_step(step, settings):
    """Draws `z_s` from `q(z_s | z_t, x0_hat)`.

    Reference: Ho et al., 2020, algorithm 2; Hoogeboom and Salimans, 2023, equation 20.
    """
    mean_freq, variance = posterior_freq(step.z_freq, step.estimate.x0_freq, step.at_t, step.at_s)
    return mean_freq + ops.sqrt(variance) * step.noise_freq


def ancestral2_step(step, settings):
    """The ancestral step of second order: `z_s` from `q(z_s | z_t, x0_middle)`.

    `x0_middle` is x0_hat continued to the middle of the step along the line through the last two answers, as a function
    of `w = log(a / sigma)`. The first step has no answer before it and is the ancestral one.

    Reference: Lu et al., DPM-Solver++, 2023, the multistep solver of the stochastic equation, here for each frequency.
    """
    ((x0_before_freq, at_before, is_there),) = step.earlier
    length, length_before = step.at_s.half_logsnr - step.at_t.half_logsnr, step.at_t.half_logsnr - at_before.half_logsnr
    x0_freq = step.estimate.x0_freq
    slope = (x0_freq - x0_before_freq) / ops.where(is_there, length_before, 1.0)
    middle_freq = x0_freq + ops.where(is_there, 0.5 * length * slope, 0.0)
    mean_freq, variance = posterior_freq(step.z_freq, middle_freq, step.at_t, step.at_s)
    return mean_freq + ops.sqrt(variance) * step.noise_freq


def ddim_step(step, settings):
    """DDIM: deterministic for `eta = 0`, the ancestral step for `eta = 1`.

    `u_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 var) eps + eta sqrt(var) noise`, with var the posterior's variance.

    Reference: Song et al., Denoising Diffusion Implicit Models, 2021, equation 12, for each frequency.
    """
    # var = -sigma_s^2 expm1(D) with D = logsnr_t - logsnr_s: both roots have the factor sigma_s^2.
    expm1_logsnr_fall = ops.expm1(step.at_t.logsnr - step.at_s.logsnr)
    eps_scale = ops.sqrt(1.0 + settings.eta**2 * expm1_logsnr_fall)
    noise_scale = settings.eta * ops.sqrt(-expm1_logsnr_fall)
    noise_freq = eps_scale * step.estimate.eps_freq + noise_scale * step.noise_freq
    return step.at_s.alpha * step.estimate.x0_freq + step.at_s.sigma * noise_freq


def multistep_step(step, settings, order):
    """A deterministic step that continues the network's eps as a polynomial through the last `order` calls.

    With `y = u / alpha` and `rho = sigma / alpha`, per frequency, the deterministic process is `dy = eps d(rho)`. Here
    eps is a polynomial in `w = log(a / sigma)`, which is the same for all frequencies, and is integrated against the
    rho of each: by parts, that is DDIM's step less the integral of eps' times `rho / rho_s - 1`. The first steps have
    fewer calls behind them and a lower order; order 1 is DDIM.

    Reference: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, 2023, section 3, with
    another variable for the polynomial; Hochbruck and Ostermann, Exponential multistep methods of Adams-type, 2011.
    """
    w_t, length = step.at_t.half_logsnr, step.at_s.half_logsnr - step.at_t.half_logsnr
    nodes, slopes, change = [w_t], [step.estimate.eps_freq], 0.0
    for number, (eps_freq, at, is_there) in enumerate(step.earlier[: order - 1]):
        # Newton's divided differences: the last of the slopes is that over all calls so far.
        nodes.append(at.half_logsnr)
        newer, slopes = slopes, [eps_freq]
        for k, value in enumerate(newer):
            distance = ops.where(is_there, nodes[number - k] - nodes[number + 1], 1.0)
            slopes.append((value - slopes[-1]) / distance)
        # The derivative of Newton's basis polynomial, (w - w_t) or (w - w_t)(w - w_1).
        derivative = (lambda w: 1.0) if number == 0 else (lambda w: 2.0 * w - nodes[0] - nodes[1])
        weight = _integral_with_noise(step, w_t, length, derivative)
        change = change + ops.where(is_there, weight * slopes[-1], 0.0)
    eps_freq = step.estimate.eps_freq - change
    return step.at_s.alpha * step.estimate.x0_freq + step.at_s.sigma * eps_freq


def _integral_with_noise(step, w_t, length, function):
    """The integral over w from t to s of `function(w) (rho(w) / rho_s - 1)`, for each frequency, `[B, H, W, 1]`."""
    total = 0.0
    for place, weight in zip(*np.polynomial.legendre.leggauss(_GAUSS_NODES)):
        w = w_t + float(0.5 * (place + 1.0)) * length
        excess = ops.expm1(0.5 * (step.at_s.logsnr - step.marginal_of(w).logsnr))
        total = total + float(0.5 * weight) * function(w) * excess
    return total * length


def heat_step(step, settings):
    """The less blurred mean, and noise of standard deviation `delta`; after the last step the mean is the image.

    Reference: Rissanen et al., Generative Modelling With Inverse Heat Dissipation, 2023, algorithm 2.
    """
    return step.estimate.mean_freq + settings.delta * step.noise_freq


def cold_step(step, settings):
    """Cold diffusion's improved sampling: adds what x0_hat loses from s to t, whatever else is in the state.

    Reference: Bansal et al., Cold Diffusion, 2022, algorithm 2.
    """
    return step.z_freq + (step.at_s.alpha - step.at_t.alpha) * step.estimate.x0_freq


def cold_naive_step(step, settings):
    """Cold diffusion's naive sampling: x0_hat, blurred anew.

    Reference: Bansal et al., Cold Diffusion, 2022, algorithm 1.
    """
    return step.estimate.mean_freq


class Sampler(NamedTuple):
    """A step function, and what it draws and remembers.

    `allowed(process, prediction)` says whether it fits a process and a prediction's name, which `needs` puts in words.
    """

    step: Callable
    allowed: Callable
    needs: str
    draws_noise: Callable = lambda settings: False
    order: int = 1
    grid: str = "uniform"  # unless told otherwise
    remembers: str = "eps_freq"  # which of an Estimate the steps after it are given


def _has_eps(process, prediction):
    return process.has_noise and prediction != "less_blurred"


def _falls_into_noise(process, prediction):
    return _has_eps(process, prediction) and process.ends_in_noise and process.keeps_every_frequency


def _only_blurs(process, prediction):
    return not process.ends_in_noise


def _only_blurs_x0(process, prediction):
    return not process.ends_in_noise and prediction == "x0"


_NOISE = "a process with noise, and the prediction eps, v or x0"
_FALL = "a process that ends in noise and keeps every frequency (min_gain > 0, or no blur)"
_BLUR = "a process that blurs without ending in noise (heat_dissipation, cold)"
SAMPLERS = {
    "ancestral": Sampler(ancestral_step, _has_eps, _NOISE, draws_noise=lambda settings: True),
    "ancestral2": Sampler(
        ancestral2_step, _falls_into_noise, _FALL, lambda settings: True, order=2, grid="quadratic", remembers="x0_freq"
    ),
    "ddim": Sampler(ddim_step, _has_eps, _NOISE, draws_noise=lambda settings: settings.eta > 0),
    "multistep2": Sampler(
        functools.partial(multistep_step, order=2), _falls_into_noise, _FALL, order=2, grid="quadratic"
    ),
    "multistep3": Sampler(
        functools.partial(multistep_step, order=3), _falls_into_noise, _FALL, order=3, grid="quadratic"
    ),
    "heat": Sampler(heat_step, _only_blurs, _BLUR, draws_noise=lambda settings: settings.delta > 0),
    "cold": Sampler(cold_step, _only_blurs_x0, f"{_BLUR}, and the prediction x0"),
    "cold_naive": Sampler(cold_naive_step, _only_blurs_x0, f"{_BLUR}, and the prediction x0"),
}


def get_sampler(name, process=None, prediction=None):
    """The `Sampler` of that name; a UserError lists the names there are, or says what it needs of the process."""
    if name not in SAMPLERS:
        raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}. Received: {name!r}")
    if process is not None and not SAMPLERS[name].allowed(process, prediction):
        fitting = [other for other, sampler in SAMPLERS.items() if sampler.allowed(process, prediction)]
        raise UserError(
            f"sampler {name!r} needs {SAMPLERS[name].needs}; with this process and prediction {prediction!r} it must "
            f"be one of {', '.join(fitting)}"
        )
    return SAMPLERS[name]


def run_steps(step, denoise, process, draw_noise, state, times, first, last, remembers="eps_freq"):
    """Runs the steps number `first` to `last - 1` of the grid `times`.

    Args:
        step: `Step -> z_freq`.
        denoise: `(z_freq, t [B], at_t, at_s) -> predictions.Estimate`.
        process: a `Process`.
        draw_noise: `step number -> [B, H, W, C]`, or None for a deterministic step. The grid's last step goes without
            noise: the result is the mean.
        state: `(z_freq, *earlier answers, newest first)` at `times[first]`, each `[B, H, W, C]` in the DCT basis.
            The answers of steps that are not there yet may have any value.
        times: decreasing along the first axis, `[num_steps + 1, 1]`, or `[num_steps + 1, B]` for times of each image.
        first, last: integers, which steps to run.
        remembers: the answer: "eps_freq" or "x0_freq" of the Estimate.

    Returns:
        The state at `times[last]`.
    """
    size = state[0].shape[1:3]
    final_step = ops.shape(times)[0] - 2

    def marginal(i):
        return process.marginal(ops.take(times, ops.maximum(i, 0), axis=0), *size)

    def marginal_of(half_logsnr):
        return process.marginal_of(half_logsnr, *size)

    def noise(i):
        if draw_noise is None:
            return 0.0
        return ops.cast(i < final_step, "float32") * draw_noise(i)

    def body(i, z_freq, *before):
        at_t, at_s = marginal(i), marginal(i + 1)
        t = ops.broadcast_to(ops.take(times, i, axis=0), ops.shape(z_freq)[:1])
        estimate = denoise(z_freq, t, at_t, at_s)
        earlier = tuple((answer, marginal(i - k), i >= k) for k, answer in enumerate(before, start=1))
        z_s_freq = step(Step(z_freq, estimate, noise(i), at_t, at_s, marginal_of, earlier))
        return i + 1, z_s_freq, *(getattr(estimate, remembers), *before)[: len(before)]

    start = ops.convert_to_tensor(first, "int32")
    return ops.while_loop(lambda i, *state: i < last, body, (start, *state))[1:]
