"""What the network predicts: the training target, and the way back to what a step needs.

A prediction is a pair of pure functions in the DCT basis. `at_t` and `at_s` are the process's `Marginal` at time t and
at the time s < t that a step goes to.
"""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from tf_blurdiff.errors import UserError


class Estimate(NamedTuple):
    """What the network says of `z_freq`, each `[B, H, W, C]` in the DCT basis, or None where it does not say.

    `mean_freq` is the expectation of the blurred image at time s, without its noise: `alpha_s x0`.
    """

    x0_freq: object
    eps_freq: object
    mean_freq: object


class Prediction(NamedTuple):
    """`target(x0_freq, z_freq, eps_freq, at_t, at_s)` and `estimate(output_freq, z_freq, at_t, at_s, shrink)`.

    `shrink(freq, scale, spread)` pulls an estimate of `scale * x0_freq` towards the data; `spread` is what an error of
    1 in the network's output makes of it, None where it grows nowhere. See `SamplingMethods`.
    `allowed(process)` says whether the process has what the prediction needs, which `needs` puts in words.
    A prediction `by_level` is of the next level: its s is that level, in training and in sampling.
    """

    target: Callable
    estimate: Callable
    allowed: Callable
    needs: str
    by_level: bool = False


def x0_from_eps(eps_freq, z_freq, at_t):
    """`x0_freq` if the noise in `z_freq` is `eps_freq`: `(u_t - sigma_t eps) / alpha_t`."""
    return ops.exp(-at_t.log_alpha) * (z_freq - at_t.sigma * eps_freq)


def eps_from_x0(x0_freq, z_freq, at_t):
    """`eps_freq` if the image in `z_freq` is `x0_freq`: `(u_t - alpha_t x0) / sigma_t`; infinite without noise."""
    return ops.exp(-at_t.log_sigma) * (z_freq - at_t.alpha * x0_freq)


def _estimate(x0_freq, eps_freq, spread, z_freq, at_t, at_s, shrink):
    shrunk = shrink(x0_freq, 1.0, spread)
    # Where nothing was shrunk the network's own eps is the more exact.
    eps_freq = ops.where(shrunk == x0_freq, eps_freq, eps_from_x0(shrunk, z_freq, at_t))
    return Estimate(shrunk, eps_freq, at_s.alpha * shrunk)


def _eps_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    return eps_freq


def _eps_estimate(output_freq, z_freq, at_t, at_s, shrink):
    x0_freq, spread = x0_from_eps(output_freq, z_freq, at_t), ops.exp(at_t.log_sigma - at_t.log_alpha)
    return _estimate(x0_freq, output_freq, spread, z_freq, at_t, at_s, shrink)


def _v_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    # Salimans and Ho, 2022, equation 11, for each frequency.
    return at_t.alpha * eps_freq - at_t.sigma * x0_freq


def _v_estimate(output_freq, z_freq, at_t, at_s, shrink):
    # u = alpha x0 + sigma eps and v = alpha eps - sigma x0, solved. The norm is 1 without blur and at least sigma_t^2.
    norm = ops.square(at_t.alpha) + ops.square(at_t.sigma)
    x0_freq = (at_t.alpha * z_freq - at_t.sigma * output_freq) / norm
    eps_freq = (at_t.sigma * z_freq + at_t.alpha * output_freq) / norm
    return _estimate(x0_freq, eps_freq, at_t.sigma / norm, z_freq, at_t, at_s, shrink)


def _x0_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    return x0_freq


def _x0_estimate(output_freq, z_freq, at_t, at_s, shrink):
    x0_freq = shrink(output_freq, 1.0, None)
    return Estimate(x0_freq, eps_from_x0(x0_freq, z_freq, at_t), at_s.alpha * x0_freq)


def _less_blurred_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    # Rissanen et al., 2023, equation 8: the next level without its noise, as a residual.
    return at_s.alpha * x0_freq - z_freq


def _less_blurred_estimate(output_freq, z_freq, at_t, at_s, shrink):
    return Estimate(None, None, shrink(z_freq + output_freq, at_s.alpha, None))


def _noise_and_every_frequency(process):
    return process.has_noise and process.keeps_every_frequency


_NEEDS_NOISE = "a process with noise that keeps every frequency (min_gain > 0, or no blur)"
PREDICTIONS = {
    "eps": Prediction(_eps_target, _eps_estimate, _noise_and_every_frequency, _NEEDS_NOISE),
    "v": Prediction(_v_target, _v_estimate, _noise_and_every_frequency, _NEEDS_NOISE),
    "x0": Prediction(_x0_target, _x0_estimate, lambda process: True, "any process"),
    "less_blurred": Prediction(
        _less_blurred_target,
        _less_blurred_estimate,
        lambda process: process.num_levels is not None,
        "a process with levels (heat_dissipation, cold)",
        by_level=True,
    ),
}


def get_prediction(name, process=None):
    """The `Prediction` of that name; a UserError lists the names there are, or says what it needs of the process."""
    if name not in PREDICTIONS:
        raise UserError(f"prediction must be one of {', '.join(PREDICTIONS)}. Received: {name!r}")
    prediction = PREDICTIONS[name]
    if process is not None and not prediction.allowed(process):
        fitting = [other for other, candidate in PREDICTIONS.items() if candidate.allowed(process)]
        raise UserError(
            f"prediction {name!r} needs {prediction.needs}; with this process it must be one of {', '.join(fitting)}"
        )
    return prediction
