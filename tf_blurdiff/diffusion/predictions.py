"""What the network predicts: the training target, its loss, and the estimate that a sampling step needs.

A prediction is a pair of pure functions in the DCT basis. `at_t` and `at_s` are the process's `Marginal` at time t and
at the time s < t that a step goes to.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from keras import ops

from tf_blurdiff.diffusion.process import Marginal, Process
from tf_blurdiff.errors import UserError, is_number, one_of

# A standard deviation of a coefficient that is less than this is taken for rounding.
LEAST_STD = 1e-4
_DEFAULT_LOSS_EXPONENT = 0.5


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


class Spectrum(NamedTuple):
    """What is known of the data's DCT coefficients: mean and standard deviation of each, `[H, W, C]`."""

    mean: Any
    std: Any


class Prediction(NamedTuple):
    """`target(x0_freq, z_freq, eps_freq, at_t, at_s)` and `estimate(output_freq, z_freq, at_t, at_s) -> Estimate`.

    `spread(at_t)` is what an error of 1 in the network's output makes of `x0_freq`, by which estimates are shrunk; None
    for those that are not.
    `allowed(process)` says whether the process has what the prediction needs, which `needs` puts in words.
    A prediction `by_level` is of the next level: its s is that level, in training and in sampling.
    `loss_weight(at_t)`, of a loss that has weights, is what an error of 1 in the network's output makes of `eps_freq`;
    to the power of the loss exponent it is the weight of that error.
    A prediction that `needs_statistics` is used as `of_data` returns it.
    """

    target: Callable
    estimate: Callable
    spread: Callable
    allowed: Callable
    needs: str
    by_level: bool = False
    loss_weight: Callable | None = None
    needs_statistics: bool = False

    def of_data(self, spectrum: Spectrum) -> Self:
        """The prediction for data of these statistics: itself, if it needs none."""
        if not self.needs_statistics:
            return self
        assert self.loss_weight is not None
        functions = self.target, self.estimate, self.loss_weight
        target, estimate, loss_weight = (functools.partial(function, spectrum) for function in functions)
        return self._replace(target=target, estimate=estimate, loss_weight=loss_weight)

    def unshrunk(self) -> Self:
        """The prediction without `spread`."""
        return self._replace(spread=_no_spread)


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


def _log_std(spectrum):
    return ops.log(ops.maximum(spectrum.std, LEAST_STD))


def _shares(spectrum, at_t):
    """Standard deviations of the data's part and of the noise in u_t, in units of that of their sum."""
    logsnr = at_t.logsnr + 2.0 * _log_std(spectrum)
    return ops.exp(0.5 * ops.log_sigmoid(logsnr)), ops.exp(0.5 * ops.log_sigmoid(-logsnr))


def _preconditioned_target(spectrum, x0_freq, z_freq, eps_freq, at_t, at_s):
    # The error of the Wiener estimate in units of its standard deviation: by u_t = alpha x0 + sigma eps it is a
    # rotation of the two, in which nothing large cancels.
    of_data, of_noise = _shares(spectrum, at_t)
    return of_noise * ops.exp(-_log_std(spectrum)) * (x0_freq - spectrum.mean) - of_data * eps_freq


def _preconditioned_estimate(spectrum, output_freq, z_freq, at_t, at_s):
    of_data, of_noise = _shares(spectrum, at_t)
    log_std = _log_std(spectrum)
    log_norm = 0.5 * ops.logaddexp(2.0 * (at_t.log_alpha + log_std), 2.0 * at_t.log_sigma)
    whitened_freq = ops.exp(-log_norm) * (z_freq - at_t.alpha * spectrum.mean)
    # The Wiener estimate, and its own standard deviation times the output.
    x0_freq = spectrum.mean + ops.exp(log_std) * (of_data * whitened_freq + of_noise * output_freq)
    eps_freq = of_noise * whitened_freq - of_data * output_freq
    return Estimate(x0_freq, eps_freq, at_s.alpha * x0_freq)


def _preconditioned_loss_weight(spectrum, at_t):
    return _shares(spectrum, at_t)[0]


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
    # Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, section 5, with a mean and
    # a standard deviation for each frequency.
    "preconditioned": Prediction(
        _preconditioned_target,
        _preconditioned_estimate,
        # A Wiener estimate already, in which an error of 1 grows to one deviation of the data at most: not shrunk.
        _no_spread,
        lambda process: process.has_noise,
        "a process with noise",
        loss_weight=_preconditioned_loss_weight,
        needs_statistics=True,
    ),
}
LOSSES = {"squared_error": ops.square, "absolute_error": ops.abs}


def default_prediction(process: Process) -> str:
    """The prediction of a model that names none: "preconditioned" if the process ends in noise, else the published one.

    Example:
        >>> import tf_blurdiff as bd
        >>> [default_prediction(process()) for process in (bd.process.blurring, bd.process.heat_dissipation)]
        ['preconditioned', 'less_blurred']
    """
    if process.ends_in_noise:
        return "preconditioned"
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


def checked_loss_exponent(loss_exponent: float | None, prediction: str) -> float | None:
    """The exponent of the weights that frequencies have in the loss: 0.5 for None, and None where there are no weights.

    With "preconditioned" the error in each frequency is weighted with what it makes of eps, to this power: 0 takes all
    errors alike, 1 is the loss of eps.

    Raises:
        UserError: for a number that is not 0 or more, and for any with a prediction whose loss has no weights.

    Example:
        >>> checked_loss_exponent(None, "preconditioned"), checked_loss_exponent(None, "eps")
        (0.5, None)
    """
    if PREDICTIONS[prediction].loss_weight is None:
        if loss_exponent is not None:
            weighted = [name for name, candidate in PREDICTIONS.items() if candidate.loss_weight is not None]
            raise UserError(
                f"loss_exponent is for the prediction {', '.join(weighted)}; with {prediction} it must be left out. "
                f"Received: {loss_exponent!r}"
            )
        return None
    loss_exponent = _DEFAULT_LOSS_EXPONENT if loss_exponent is None else loss_exponent
    if not is_number(loss_exponent) or not 0.0 <= loss_exponent < math.inf:
        raise UserError(f"loss_exponent must be 0 or more, or None. Received: {loss_exponent!r}")
    return float(loss_exponent)


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
