"""What the network predicts: the training target, its loss, and the estimate that a sampling step needs.

A prediction is a pair of pure functions in the DCT basis. `at_t` and `at_s` are the process's `Marginal` at time t and
at the time s < t that a step goes to.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from tf_blurdiff.diffusion.process import Marginal, Process
from tf_blurdiff.errors import UserError, one_of


class Estimate(NamedTuple):
    """What the network's output makes of `z_freq`, each `[B, H, W, C]` in the DCT basis; None where it gives none.

    `mean_freq` is the expectation of the blurred image at time s, without its noise: `alpha_s x0`.
    """

    x0_freq: Any
    eps_freq: Any
    mean_freq: Any

    def with_x0(self, x0_freq: Any, z_freq: Any, at_t: Marginal, at_s: Marginal) -> "Estimate":
        """The estimate with another image: `alpha_t x0 + sigma_t eps` is z_freq again."""
        # Where the image is the same the network's own eps is the more exact.
        eps_freq = ops.where(x0_freq == self.x0_freq, self.eps_freq, eps_from_x0(x0_freq, z_freq, at_t))
        return Estimate(x0_freq, eps_freq, at_s.alpha * x0_freq)


class Prediction(NamedTuple):
    """`target(x0_freq, z_freq, eps_freq, at_t, at_s)` and `estimate(output_freq, z_freq, at_t, at_s) -> Estimate`.

    `spread(at_t)` is what an error of 1 in the network's output makes of `x0_freq`, None where it grows nowhere.
    `allowed(process)` says whether the process has what the prediction needs, which `needs` puts in words.
    A prediction `by_level` is of the next level: its s is that level, in training and in sampling.
    """

    target: Callable
    estimate: Callable
    spread: Callable
    allowed: Callable
    needs: str
    by_level: bool = False


def x0_from_eps(eps_freq: Any, z_freq: Any, at_t: Marginal) -> Any:
    """`x0_freq` if the noise in `z_freq` is `eps_freq`: `(u_t - sigma_t eps) / alpha_t`."""
    return ops.exp(-at_t.log_alpha) * (z_freq - at_t.sigma * eps_freq)


def eps_from_x0(x0_freq: Any, z_freq: Any, at_t: Marginal) -> Any:
    """`eps_freq` if the image in `z_freq` is `x0_freq`: `(u_t - alpha_t x0) / sigma_t`; infinite without noise."""
    return ops.exp(-at_t.log_sigma) * (z_freq - at_t.alpha * x0_freq)


def _no_spread(at_t):
    return None


def _eps_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    return eps_freq


def _eps_estimate(output_freq, z_freq, at_t, at_s):
    x0_freq = x0_from_eps(output_freq, z_freq, at_t)
    return Estimate(x0_freq, output_freq, at_s.alpha * x0_freq)


def _eps_spread(at_t):
    return ops.exp(at_t.log_sigma - at_t.log_alpha)


def _v_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    # Salimans and Ho, 2022, equation 11, for each frequency.
    return at_t.alpha * eps_freq - at_t.sigma * x0_freq


def _v_norm(at_t):
    # 1 without blur and at least sigma_t^2.
    return ops.square(at_t.alpha) + ops.square(at_t.sigma)


def _v_estimate(output_freq, z_freq, at_t, at_s):
    # u = alpha x0 + sigma eps and v = alpha eps - sigma x0, solved.
    norm = _v_norm(at_t)
    x0_freq = (at_t.alpha * z_freq - at_t.sigma * output_freq) / norm
    eps_freq = (at_t.sigma * z_freq + at_t.alpha * output_freq) / norm
    return Estimate(x0_freq, eps_freq, at_s.alpha * x0_freq)


def _v_spread(at_t):
    return at_t.sigma / _v_norm(at_t)


def _x0_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    return x0_freq


def _x0_estimate(output_freq, z_freq, at_t, at_s):
    return Estimate(output_freq, eps_from_x0(output_freq, z_freq, at_t), at_s.alpha * output_freq)


def _less_blurred_target(x0_freq, z_freq, eps_freq, at_t, at_s):
    # Rissanen et al., 2023, equation 8: the next level without its noise, as a residual.
    return at_s.alpha * x0_freq - z_freq


def _less_blurred_estimate(output_freq, z_freq, at_t, at_s):
    return Estimate(None, None, z_freq + output_freq)


def _noise_and_every_frequency(process):
    return process.has_noise and process.keeps_every_frequency


_NEEDS_NOISE = "a process with noise that keeps every frequency (min_gain > 0, or no blur)"
PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(_eps_target, _eps_estimate, _eps_spread, _noise_and_every_frequency, _NEEDS_NOISE),
    "v": Prediction(_v_target, _v_estimate, _v_spread, _noise_and_every_frequency, _NEEDS_NOISE),
    "x0": Prediction(_x0_target, _x0_estimate, _no_spread, lambda process: True, "any process"),
    "less_blurred": Prediction(
        _less_blurred_target,
        _less_blurred_estimate,
        _no_spread,
        lambda process: process.num_levels is not None,
        "a process with levels (heat_dissipation, cold)",
        by_level=True,
    ),
}
LOSSES = {"squared_error": ops.square, "absolute_error": ops.abs}


def default_prediction(process: Process) -> str:
    """The prediction of a model that names none: "eps" if the process allows it, else the one it was published with.

    Example:
        >>> import tf_blurdiff as bd
        >>> [default_prediction(process()) for process in (bd.process.heat_dissipation, bd.process.cold)]
        ['less_blurred', 'x0']
    """
    if PREDICTIONS["eps"].allowed(process):
        return "eps"
    return "less_blurred" if process.has_noise and process.num_levels is not None else "x0"


def default_loss_type(process: Process) -> str:
    """The loss of a model that names none: "squared_error", and "absolute_error" for a process without noise.

    Example:
        >>> import tf_blurdiff as bd
        >>> default_loss_type(bd.process.cold())
        'absolute_error'

    Reference: Bansal et al., Cold Diffusion, 2022, section 3.1.
    """
    return "squared_error" if process.has_noise else "absolute_error"


def get_loss(name: str) -> Callable:
    """The loss of that name, a function of the error in the prediction; a UserError lists the names there are."""
    one_of("loss_type", name, LOSSES)
    return LOSSES[name]


def get_prediction(name: str, process: Process | None = None) -> Prediction:
    """The `Prediction` of that name; a UserError lists the names there are, or says what it needs of the process."""
    one_of("prediction", name, PREDICTIONS)
    prediction = PREDICTIONS[name]
    if process is not None and not prediction.allowed(process):
        fitting = [other for other, candidate in PREDICTIONS.items() if candidate.allowed(process)]
        raise UserError(
            f"prediction {name!r} needs {prediction.needs}; with this process it must be one of {', '.join(fitting)}"
        )
    return prediction
