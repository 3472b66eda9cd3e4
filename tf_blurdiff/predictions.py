"""What the network predicts: the training target, and the way back to (x0, eps).

A prediction is a pair of pure functions in the DCT basis. `at_t` is the process's `Marginal` at time t.
"""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from tf_blurdiff.errors import UserError


class Prediction(NamedTuple):
    """`target(x0_freq, eps_freq, at_t)` and `to_x0_eps(output_freq, z_freq, at_t)`, all `[B, H, W, C]`."""

    target: Callable
    to_x0_eps: Callable


def x0_from_eps(eps_freq, z_freq, at_t):
    """`x0_freq` if the noise in `z_freq` is `eps_freq`: `(u_t - sigma_t eps) / alpha_t`."""
    return ops.exp(-at_t.log_alpha) * (z_freq - at_t.sigma * eps_freq)


def eps_from_x0(x0_freq, z_freq, at_t):
    """`eps_freq` if the image in `z_freq` is `x0_freq`: `(u_t - alpha_t x0) / sigma_t`."""
    return ops.exp(-at_t.log_sigma) * (z_freq - at_t.alpha * x0_freq)


def _eps_target(x0_freq, eps_freq, at_t):
    return eps_freq


def _eps_to_x0_eps(output_freq, z_freq, at_t):
    return x0_from_eps(output_freq, z_freq, at_t), output_freq


def _v_target(x0_freq, eps_freq, at_t):
    # Salimans and Ho, 2022, equation 11, for each frequency.
    return at_t.alpha * eps_freq - at_t.sigma * x0_freq


def _v_to_x0_eps(output_freq, z_freq, at_t):
    # u = alpha x0 + sigma eps and v = alpha eps - sigma x0, solved. The norm is 1 without blur and at least sigma_t^2.
    norm = ops.square(at_t.alpha) + ops.square(at_t.sigma)
    x0_freq = (at_t.alpha * z_freq - at_t.sigma * output_freq) / norm
    eps_freq = (at_t.sigma * z_freq + at_t.alpha * output_freq) / norm
    return x0_freq, eps_freq


PREDICTIONS = {
    "eps": Prediction(_eps_target, _eps_to_x0_eps),
    "v": Prediction(_v_target, _v_to_x0_eps),
}


def get_prediction(name):
    """The `Prediction` of that name; a UserError lists the names there are."""
    if name not in PREDICTIONS:
        raise UserError(f"prediction must be one of {', '.join(PREDICTIONS)}. Received: {name!r}")
    return PREDICTIONS[name]
