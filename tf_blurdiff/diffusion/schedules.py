"""Schedules: functions of the diffusion time t in [0, 1].

A noise schedule gives `(log a_t, log sigma_t)`: how much signal is left and how much noise has come. It has noise at
all (`has_noise`) or none, and ends in nothing but noise (`ends_in_noise`) or in the image.
A dissipation schedule gives `blur_sigma`, the blur's standard deviation in the process's unit, at most
`sigma_blur_max`.
"""

import dataclasses
import math
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import ops

from tf_blurdiff.errors import UserError, check_count, is_number

# Of less, neighbouring times near 1 are the same in float32; of more, a bound in bits is beyond it.
LOGSNR_MIN, LOGSNR_MAX = -30.0, 80.0
# Standard deviations of blur and noise are at most this: of much more there are no squares in float32.
_LARGEST_STD = 1e6
# DDPM's levels: log a_t at each of its betas, and how it goes on to the next.
_BETAS = 1000
_EXACT_LOG_A = 0.5 * np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, _BETAS)))
_LOG_A, _LOG_A_FALL = _EXACT_LOG_A.astype("float32"), np.diff(_EXACT_LOG_A).astype("float32")


def _check_std(name, value):
    if not is_number(value) or not 0.0 <= value <= _LARGEST_STD:
        raise UserError(f"{name} must be 0 or more, and at most {_LARGEST_STD:,.0f}. Received: {value!r}")


class Schedule:
    """A frozen dataclass whose fields are its configuration; a function of times t in [0, 1]."""

    # Each of the classes below is a dataclass; this one is not.
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def get_config(self) -> dict[str, Any]:
        """The fields, as Keras saves them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The inverse of `get_config`."""
        return cls(**config)


class NoiseSchedule(Schedule):
    """t to `(log a_t, log sigma_t)`, each of t's shape."""

    @property
    def has_noise(self) -> bool:
        """Whether there is noise at t > 0."""
        raise NotImplementedError

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing but noise is left at t = 1."""
        raise NotImplementedError

    def __call__(self, t: Any) -> tuple[Any, Any]:
        """Returns `(log a_t, log sigma_t)`."""
        raise NotImplementedError

    def time_of(self, log_a_over_sigma: Any) -> Any:
        """The time t at which `log a_t - log sigma_t` is log_a_over_sigma, of a schedule that ends in noise."""
        raise NotImplementedError


class DissipationSchedule(Schedule):
    """t to blur_sigma, of t's shape, at most `sigma_blur_max`."""

    sigma_blur_max: float

    def __call__(self, t: Any) -> Any:
        """Returns blur_sigma."""
        raise NotImplementedError


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class CosineNoise(NoiseSchedule):
    """The variance-preserving cosine schedule with limits on the log-SNR.

    `logsnr(t) = -2 log tan(c0 + c1 t)` falls from `logsnr_max` at t = 0 to `logsnr_min` at t = 1, and
    `a_t^2 = sigmoid(logsnr)`, `sigma_t^2 = sigmoid(-logsnr)`; that is, `a_t` and `sigma_t` are the cosine and the sine
    of one angle.

    Example:
        >>> log_a, log_sigma = CosineNoise()(0.5)
        >>> round(float(log_a - log_sigma), 5)
        0.0

    Reference: Hoogeboom and Salimans, 2023, appendix A; Nichol and Dhariwal, 2021.
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    has_noise = ends_in_noise = True

    def __post_init__(self):
        limits = self.logsnr_min, self.logsnr_max
        if not all(map(is_number, limits)) or not LOGSNR_MIN <= self.logsnr_min < self.logsnr_max <= LOGSNR_MAX:
            raise UserError(
                f"logsnr_min must be below logsnr_max, both from {LOGSNR_MIN:g} to {LOGSNR_MAX:g}. "
                f"Received: {self.logsnr_min!r}, {self.logsnr_max!r}"
            )

    def __call__(self, t: Any) -> tuple[Any, Any]:
        """Returns `(log a_t, log sigma_t)`, each of t's shape."""
        start, span, left_at_end = self._angles()
        # cos(angle) as the sine of the complement: exact where the signal is almost gone.
        log_a = ops.log(ops.sin(left_at_end + span * (1.0 - t)))
        log_sigma = ops.log(ops.sin(start + span * t))
        return log_a, log_sigma

    def time_of(self, log_a_over_sigma: Any) -> Any:
        """The time t at which `log a_t - log sigma_t` is log_a_over_sigma."""
        start, span, _ = self._angles()
        return (ops.arctan(ops.exp(-log_a_over_sigma)) - start) / span

    def _angles(self):
        start = math.atan(math.exp(-self.logsnr_max / 2))
        left_at_end = math.atan(math.exp(self.logsnr_min / 2))
        return start, math.pi / 2 - left_at_end - start, left_at_end


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class LinearBetaNoise(NoiseSchedule):
    """DDPM's variance-preserving schedule: 1000 levels whose betas rise linearly from 1e-4 to 0.02.

    `a_t^2` is the product of `1 - beta` up to level number `999 t`, and `sigma_t^2 = 1 - a_t^2`. Between two levels
    `log a_t` is interpolated.

    Example:
        >>> log_a, log_sigma = LinearBetaNoise()(np.array([0.0, 1.0], "float32"))
        >>> [round(float(value), 4) for value in np.exp(log_sigma)]
        [0.01, 1.0]

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, 2020, section 4.
    """

    has_noise = ends_in_noise = True

    def __call__(self, t: Any) -> tuple[Any, Any]:
        """Returns `(log a_t, log sigma_t)`, each of t's shape."""
        position = ops.clip(ops.convert_to_tensor(t, "float32"), 0.0, 1.0) * (_BETAS - 1)
        index = ops.cast(ops.minimum(ops.floor(position), _BETAS - 2), "int32")
        log_a = ops.take(_LOG_A, index) + (position - ops.cast(index, "float32")) * ops.take(_LOG_A_FALL, index)
        return log_a, 0.5 * ops.log(-ops.expm1(2.0 * log_a))

    def time_of(self, log_a_over_sigma: Any) -> Any:
        """The time t at which `log a_t - log sigma_t` is log_a_over_sigma."""
        log_a = 0.5 * ops.log_sigmoid(2.0 * ops.convert_to_tensor(log_a_over_sigma, "float32"))
        index = ops.clip(ops.searchsorted(-_LOG_A, -ops.reshape(log_a, (-1,)), side="right") - 1, 0, _BETAS - 2)
        index = ops.reshape(index, ops.shape(log_a))
        part = (log_a - ops.take(_LOG_A, index)) / ops.take(_LOG_A_FALL, index)
        return (ops.cast(index, "float32") + part) / (_BETAS - 1)


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class ConstantNoise(NoiseSchedule):
    """The image keeps its strength and has the same noise at all times: `a_t = 1`, `sigma_t = sigma`, which may be 0.

    Example:
        >>> log_a, log_sigma = ConstantNoise(0.02)(np.array([0.5], "float32"))
        >>> float(log_a[0]), round(float(np.exp(log_sigma)[0]), 4)
        (0.0, 0.02)

    Reference: Rissanen et al., Generative Modelling With Inverse Heat Dissipation, 2023, section 3.2.
    """

    sigma: float
    ends_in_noise = False

    def __post_init__(self):
        _check_std("sigma", self.sigma)

    @property
    def has_noise(self) -> bool:
        """Whether sigma is above 0."""
        return self.sigma > 0

    def __call__(self, t: Any) -> tuple[Any, Any]:
        """Returns `(log a_t, log sigma_t)`, each of t's shape; log sigma_t is -inf without noise."""
        log_a = ops.zeros_like(ops.convert_to_tensor(t, "float32"))
        return log_a, log_a + (math.log(self.sigma) if self.has_noise else -math.inf)


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class SinSquaredBlur(DissipationSchedule):
    """`blur_sigma(t) = sigma_blur_max sin^2(pi t / 2)`; 0 means no blur at any time.

    Example:
        >>> round(float(SinSquaredBlur(20.0)(0.5)), 4)
        10.0

    Reference: Hoogeboom and Salimans, 2023, section 4.
    """

    sigma_blur_max: float

    def __post_init__(self):
        _check_std("sigma_blur_max", self.sigma_blur_max)

    def __call__(self, t: Any) -> Any:
        """Returns blur_sigma, of t's shape."""
        return self.sigma_blur_max * ops.square(ops.sin(0.5 * math.pi * t))


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class SinBlur(SinSquaredBlur):
    """`blur_sigma(t) = sigma_blur_max sin(pi t / 2)`: much blur early.

    Example:
        >>> round(float(SinBlur(20.0)(0.5)), 4)
        14.1421

    Reference: Hoogeboom and Salimans, 2023, section 5.2.
    """

    def __call__(self, t: Any) -> Any:
        """Returns blur_sigma, of t's shape."""
        return self.sigma_blur_max * ops.sin(0.5 * math.pi * t)


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class LogSpacedBlur(DissipationSchedule):
    """Levels `k = 1 ... num_levels` at `t = k / num_levels`, log-spaced from sigma_blur_min to sigma_blur_max.

    Between levels the logarithm is interpolated; below the first one, blur_sigma rises linearly from 0 at t = 0.

    Example:
        >>> LogSpacedBlur(1.0, 100.0, num_levels=3)(np.array([0, 1 / 3, 2 / 3, 1], "float32")).numpy().round(2).tolist()
        [0.0, 1.0, 10.0, 100.0]

    Reference: Rissanen et al., Generative Modelling With Inverse Heat Dissipation, 2023, appendix A.
    """

    sigma_blur_min: float
    sigma_blur_max: float
    num_levels: int

    def __post_init__(self):
        _check_std("sigma_blur_min", self.sigma_blur_min)
        _check_std("sigma_blur_max", self.sigma_blur_max)
        if not 0 < self.sigma_blur_min < self.sigma_blur_max:
            given = f"{self.sigma_blur_min}, {self.sigma_blur_max}"
            raise UserError(f"sigma_blur_min must be above 0 and below sigma_blur_max. Received: {given}")
        check_count("num_levels", self.num_levels, 2)

    def __call__(self, t: Any) -> Any:
        """Returns blur_sigma, of t's shape."""
        level = ops.convert_to_tensor(t, "float32") * self.num_levels
        growth = math.log(self.sigma_blur_max / self.sigma_blur_min) / (self.num_levels - 1)
        return self.sigma_blur_min * ops.minimum(level, 1.0) * ops.exp(growth * ops.maximum(level - 1.0, 0.0))
