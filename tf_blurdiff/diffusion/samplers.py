"""Sampling: step functions, and the one loop that runs them.

A step goes from time t to s < t in the DCT basis. The state stays there, so that a step costs two transforms: one for
the network's input and one for its output. The loop is traced: it is the same eagerly, in a `tf.function` and in a
SavedModel.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tf_blurdiff.compilation import compiled
from tf_blurdiff.diffusion.grids import get_grid
from tf_blurdiff.diffusion.predictions import Estimate, get_prediction
from tf_blurdiff.diffusion.process import Marginal, Process, posterior_freq
from tf_blurdiff.errors import UserError, check_count, is_number, one_of

# Rissanen et al., 2023: what sampling adds is best a little above what training did.
_DELTA_OVER_SIGMA = 1.25
# Four give the integrals of a step to a thousandth of its error.
_GAUSS_NODES = 4


class Step(NamedTuple):
    """What a step from t to s works on; tensors are `[B, H, W, C]` in the DCT basis."""

    z_freq: Any
    estimate: Estimate  # at z_freq
    noise_freq: Any  # standard normal, or 0 where none is wanted
    at_t: Marginal
    at_s: Marginal
    marginal_of: Callable[[Any], Marginal] | None = None  # log(a / sigma) -> the Marginal with that
    # Of samplers of a higher order: (answer_freq, at, is_there) of the steps before, newest first.
    earlier: tuple[tuple[Any, Marginal, Any], ...] = ()
    eta: float = 0.0  # the noise of "ddim"
    delta: float = 0.0  # the noise of "heat", a standard deviation


def ancestral_step(step: Step) -> Any:
    """Draws `z_s` from `q(z_s | z_t, x0_hat)`.

    Reference: Ho et al., 2020, algorithm 2; Hoogeboom and Salimans, 2023, equation 20.
    """
    mean_freq, variance = posterior_freq(step.z_freq, step.estimate.x0_freq, step.at_t, step.at_s)
    return mean_freq + ops.sqrt(variance) * step.noise_freq


def ancestral2_step(step: Step) -> Any:
    """The ancestral step of second order: `z_s` from `q(z_s | z_t, x0_middle)`.

    `x0_middle` is x0_hat continued to the middle of the step along the line through the last two answers, as a function
    of `w = log(a / sigma)`. The first step has no answer before it and is the ancestral one.

    Reference: Lu et al., DPM-Solver++, 2023, the multistep solver of the stochastic equation, here for each frequency.
    """
    ((x0_before_freq, at_before, is_there),) = step.earlier
    length, length_before = (
        step.at_s.log_a_over_sigma - step.at_t.log_a_over_sigma,
        step.at_t.log_a_over_sigma - at_before.log_a_over_sigma,
    )
    x0_freq = step.estimate.x0_freq
    slope = (x0_freq - x0_before_freq) / _distance(length_before, is_there)
    middle_freq = x0_freq + ops.where(is_there, 0.5 * length * slope, 0.0)
    mean_freq, variance = posterior_freq(step.z_freq, middle_freq, step.at_t, step.at_s)
    return mean_freq + ops.sqrt(variance) * step.noise_freq


def _distance(difference, is_there):
    """What a difference quotient is divided by: 1 without a step before, and where float32 cannot tell two times."""
    return ops.where(ops.logical_and(is_there, difference != 0.0), difference, 1.0)


def ddim_step(step: Step) -> Any:
    """DDIM: deterministic for `eta = 0`, the ancestral step for `eta = 1`.

    `u_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 var) eps + eta sqrt(var) noise`, with var the posterior's variance.

    Reference: Song et al., Denoising Diffusion Implicit Models, 2021, equation 12, for each frequency.
    """
    # var = -sigma_s^2 expm1(D) with D = logsnr_t - logsnr_s: both roots have the factor sigma_s^2.
    expm1_logsnr_fall = ops.expm1(step.at_t.logsnr - step.at_s.logsnr)
    eps_scale = ops.sqrt(1.0 + step.eta**2 * expm1_logsnr_fall)
    noise_scale = step.eta * ops.sqrt(-expm1_logsnr_fall)
    noise_freq = eps_scale * step.estimate.eps_freq + noise_scale * step.noise_freq
    return step.at_s.alpha * step.estimate.x0_freq + step.at_s.sigma * noise_freq


def multistep_step(step: Step, order: int) -> Any:
    """A deterministic step that continues the network's eps as a polynomial through the last `order` calls.

    With `y = u / alpha` and `rho = sigma / alpha`, per frequency, the deterministic process is `dy = eps d(rho)`. Here
    eps is a polynomial in `w = log(a / sigma)`, which is the same for all frequencies, and is integrated against the
    rho of each: by parts, that is DDIM's step less the integral of eps' times `rho / rho_s - 1`. The first steps have
    fewer calls behind them and a lower order; order 1 is DDIM.

    Reference: Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, 2023, section 3, with
    another variable for the polynomial; Hochbruck and Ostermann, Exponential multistep methods of Adams-type, 2011.
    """
    w_t, length = step.at_t.log_a_over_sigma, step.at_s.log_a_over_sigma - step.at_t.log_a_over_sigma
    nodes, slopes, change = [w_t], [step.estimate.eps_freq], 0.0
    for number, (eps_freq, at, is_there) in enumerate(step.earlier[: order - 1]):
        # Newton's divided differences: the last of the slopes is that over all calls so far.
        nodes.append(at.log_a_over_sigma)
        newer, slopes = slopes, [eps_freq]
        for k, value in enumerate(newer):
            slopes.append((value - slopes[-1]) / _distance(nodes[number - k] - nodes[number + 1], is_there))
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


def heat_step(step: Step) -> Any:
    """The less blurred mean, and noise of standard deviation `delta`; after the last step the mean is the image.

    Reference: Rissanen et al., Generative Modelling With Inverse Heat Dissipation, 2023, algorithm 2.
    """
    return step.estimate.mean_freq + step.delta * step.noise_freq


def cold_step(step: Step) -> Any:
    """Cold diffusion's improved sampling: adds what x0_hat loses from s to t, whatever else is in the state.

    Reference: Bansal et al., Cold Diffusion, 2022, algorithm 2.
    """
    return step.z_freq + (step.at_s.alpha - step.at_t.alpha) * step.estimate.x0_freq


def cold_naive_step(step: Step) -> Any:
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
    draws_noise: Callable = lambda eta, delta: False
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


_NOISE = "a process with noise, and the prediction eps, v, x0 or preconditioned"
_FALL = "a process that ends in noise and keeps every frequency (min_gain > 0, or no blur)"
_BLUR = "a process that blurs without ending in noise (heat_dissipation, cold)"
SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler(ancestral_step, _has_eps, _NOISE, draws_noise=lambda eta, delta: True),
    "ancestral2": Sampler(
        ancestral2_step,
        _falls_into_noise,
        _FALL,
        draws_noise=lambda eta, delta: True,
        order=2,
        grid="quadratic",
        remembers="x0_freq",
    ),
    "ddim": Sampler(ddim_step, _has_eps, _NOISE, draws_noise=lambda eta, delta: eta > 0),
    "multistep2": Sampler(
        functools.partial(multistep_step, order=2), _falls_into_noise, _FALL, order=2, grid="quadratic"
    ),
    "multistep3": Sampler(
        functools.partial(multistep_step, order=3), _falls_into_noise, _FALL, order=3, grid="quadratic"
    ),
    "heat": Sampler(heat_step, _only_blurs, _BLUR, draws_noise=lambda eta, delta: delta > 0),
    "cold": Sampler(cold_step, _only_blurs_x0, f"{_BLUR}, and the prediction x0"),
    "cold_naive": Sampler(cold_naive_step, _only_blurs_x0, f"{_BLUR}, and the prediction x0"),
}


def get_sampler(name: str, process: Process | None = None, prediction: str | None = None) -> Sampler:
    """The `Sampler` of that name; a UserError lists the names there are, or says what it needs of the process."""
    one_of("sampler", name, SAMPLERS)
    if process is not None and not SAMPLERS[name].allowed(process, prediction):
        fitting = [other for other, sampler in SAMPLERS.items() if sampler.allowed(process, prediction)]
        raise UserError(
            f"sampler {name!r} needs {SAMPLERS[name].needs}; with this process and prediction {prediction!r} it must "
            f"be one of {', '.join(fitting)}"
        )
    return SAMPLERS[name]


def default_sampler(process: Process, prediction: str) -> str:
    """The sampler of a model that names none when it is made; a saved model keeps the name.

    Restoring has a default of its own, in `model.restoration`.

    Example:
        >>> import tf_blurdiff as bd
        >>> default_sampler(bd.process.blurring(), "eps"), default_sampler(bd.process.cold(), "x0")
        ('ancestral2', 'cold')
    """
    if get_prediction(prediction).by_level:
        return "heat"
    if get_sampler("ancestral2").allowed(process, prediction):
        return "ancestral2"
    return "ddim" if process.has_noise else "cold"


def default_num_steps(process: Process, prediction: str) -> int:
    """How often a model that names no number calls its network for an image.

    Example:
        >>> import tf_blurdiff as bd
        >>> default_num_steps(bd.process.blurring(), "eps")
        20
    """
    if get_prediction(prediction).by_level:
        assert process.num_levels is not None
        return process.num_levels
    return 20 if process.ends_in_noise else 50


def default_delta(process: Process, sampler: str) -> float:
    """The standard deviation of what "heat" draws, 1.25 times the process's sigma; 0 for other samplers."""
    noise: Any = process.noise  # Has a sigma where it is the same at all times.
    return _DELTA_OVER_SIGMA * noise.sigma if sampler == "heat" and not process.ends_in_noise else 0.0


class SamplingSettings(NamedTuple):
    """How to sample: the sampler's name, steps and grid, and the noise of "ddim" (eta) and "heat" (delta)."""

    sampler: str
    num_steps: int
    grid: str
    eta: float = 0.0
    delta: float = 0.0

    def times(self, process: Process, strength: float = 1.0) -> np.ndarray:
        """The grid from t = strength to 0, float32 `[num_steps + 1, 1]`."""
        return np.float32(strength) * get_grid(self.grid)(self.num_steps, process)[:, None]


def checked_settings(settings: SamplingSettings, process: Process, prediction: str) -> SamplingSettings:
    """The settings, in types of Python; or a UserError that says what is allowed for a process and a prediction."""
    sampler, num_steps, grid, eta, delta = settings
    get_sampler(sampler, process, prediction)
    check_count("num_steps", num_steps)
    grid_times = get_grid(grid)
    if get_prediction(prediction).by_level and (num_steps, grid) != (process.num_levels, "uniform"):
        raise UserError(
            f"prediction {prediction!r} goes from level to level: num_steps must be {process.num_levels} and grid "
            f"uniform. Received: {num_steps}, {grid}"
        )
    grid_times(1, process)  # Raises where the process has no such times.
    if not is_number(eta) or not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must be in [0, 1]. Received: {eta!r}")
    if not is_number(delta) or not 0.0 <= delta < math.inf:
        raise UserError(f"delta must be a number of 0 or more. Received: {delta!r}")
    for name, value, owner in (("eta", eta, "ddim"), ("delta", delta, "heat")):
        if value and sampler != owner:
            raise UserError(f"{name} is for the sampler {owner}; with {sampler} it must be 0. Received: {value!r}")
    return SamplingSettings(sampler, int(num_steps), grid, float(eta), float(delta))


def first_state(z_freq: Any, sampler: Sampler) -> tuple:
    """What `run_steps` begins with: `(z_freq, *answers of earlier steps, newest first)`, each `[B, H, W, C]`."""
    return z_freq, *[ops.zeros_like(z_freq)] * (sampler.order - 1)


def run_steps(
    sampler: Sampler,
    denoiser: Callable,
    process: Process,
    draw_noise: Callable,
    state: tuple,
    times: Any,
    first: Any,
    last: Any,
    eta: float = 0.0,
    delta: float = 0.0,
    compile: bool = False,
) -> tuple:
    """Runs the steps number `first` to `last - 1` of the grid `times`.

    Args:
        sampler: a `Sampler`.
        denoiser: `(z_freq, t [B], at_t, at_s) -> predictions.Estimate`.
        process: a `Process`.
        draw_noise: `step number -> [B, H, W, C]`, called if the sampler draws noise. The grid's last step goes without
            noise: the result is the mean.
        state: from `first_state`, at `times[first]`. The answers of steps that are not there yet may have any value.
        times: decreasing along the first axis, `[num_steps + 1, 1]`, or `[num_steps + 1, B]` for times of each image.
        first, last: integers, which steps to run.
        eta, delta: the noise of "ddim" and of "heat".
        compile: whether each step runs through XLA, once compiled for any number of steps.

    Returns:
        The state at `times[last]`.
    """
    draws_noise = sampler.draws_noise(eta, delta)
    size = state[0].shape[1:3]
    num_steps = ops.shape(times)[0] - 1

    def marginal_of(log_a_over_sigma):
        return process.marginal_of(log_a_over_sigma, *size)

    def step(i, is_final, nearby, z_freq, *before):
        """Step i, with the times at its end, at its start, and at the starts of the steps before."""
        at_s, at_t, *at_earlier = [process.marginal(nearby[k], *size) for k in range(len(before) + 2)]
        t = ops.broadcast_to(nearby[1], ops.shape(z_freq)[:1])
        estimate = denoiser(z_freq, t, at_t, at_s)
        noise_freq = ops.where(is_final, 0.0, draw_noise(i)) if draws_noise else 0.0
        earlier = tuple((answer, at, i >= k) for k, (answer, at) in enumerate(zip(before, at_earlier), start=1))
        z_s_freq = sampler.step(Step(z_freq, estimate, noise_freq, at_t, at_s, marginal_of, earlier, eta, delta))
        return z_s_freq, *(getattr(estimate, sampler.remembers), *before)[: len(before)]

    run = compiled(step) if compile else step

    def body(i, *state):
        # Gathered out here: XLA compiles for shapes, and not anew for another number of steps.
        nearby = ops.take(times, ops.maximum(i + 1 - ops.arange(len(state) + 1, dtype="int32"), 0), axis=0)
        return i + 1, *run(i, i == num_steps - 1, nearby, *state)

    start = ops.convert_to_tensor(first, "int32")
    return ops.while_loop(lambda i, *state: i < last, body, (start, *state))[1:]
