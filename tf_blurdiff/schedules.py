"""Schedules: functions of the diffusion time t in [0, 1].

A noise schedule gives `(log a_t, log sigma_t)`: how much signal is left and how much noise has come.
A dissipation schedule gives `blur_sigma`, the blur's standard deviation in pixels.
"""

import dataclasses
import math

import keras
from keras import ops


class Schedule:
    """A frozen dataclass whose fields are its configuration."""

    def get_config(self):
        """The fields, as Keras saves them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        """The inverse of `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class CosineNoise(Schedule):
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

    def __post_init__(self):
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(f"logsnr_min must be below logsnr_max. Received: {self.logsnr_min}, {self.logsnr_max}")

    def __call__(self, t):
        """Returns `(log a_t, log sigma_t)`, each of t's shape."""
        start = math.atan(math.exp(-self.logsnr_max / 2))
        left_at_end = math.atan(math.exp(self.logsnr_min / 2))
        span = math.pi / 2 - left_at_end - start
        # cos(angle) as the sine of the complement: exact where the signal is almost gone.
        log_a = ops.log(ops.sin(left_at_end + span * (1.0 - t)))
        log_sigma = ops.log(ops.sin(start + span * t))
        return log_a, log_sigma


@keras.saving.register_keras_serializable("tf_blurdiff")
@dataclasses.dataclass(frozen=True)
class SinSquaredBlur(Schedule):
    """`blur_sigma(t) = sigma_blur_max sin^2(pi t / 2)`, in pixels; 0 means no blur at any time.

    Example:
        >>> round(float(SinSquaredBlur(20.0)(0.5)), 4)
        10.0

    Reference: Hoogeboom and Salimans, 2023, section 4.
    """

    sigma_blur_max: float

    def __post_init__(self):
        if not self.sigma_blur_max >= 0:
            raise ValueError(f"sigma_blur_max must be 0 or more pixels. Received: {self.sigma_blur_max}")

    def __call__(self, t):
        """Returns blur_sigma in pixels, of t's shape."""
        return self.sigma_blur_max * ops.square(ops.sin(0.5 * math.pi * t))
