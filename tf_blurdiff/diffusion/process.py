"""The diffusion process: what an image looks like at time t, and what is known of time s < t.

One class serves every family; the presets at the end of this file only choose its schedules. All is computed in
float32 and as logarithms: ratios such as `1 / alpha_t` reach 1e5.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import keras
from keras import ops

from tf_blurdiff.diffusion.dct import dct2, idct2, laplacian_eigenvalues
from tf_blurdiff.diffusion.schedules import (
    ConstantNoise,
    CosineNoise,
    DissipationSchedule,
    LinearBetaNoise,
    LogSpacedBlur,
    NoiseSchedule,
    SinBlur,
    SinSquaredBlur,
)
from tf_blurdiff.errors import UserError, one_of

BLUR_UNITS = ("pixels", "width")
NOISE_SCHEDULES = ("cosine", "linear_betas")
BLUR_SCHEDULES = {"sin_squared": SinSquaredBlur, "sin": SinBlur}


class Marginal(NamedTuple):
    """`q(z_t | x0)` in the DCT basis at one time: `N(alpha_t * x0_freq, sigma_t^2 I)`."""

    log_alpha: Any  # [B, H, W, 1]
    log_sigma: Any  # [B, 1, 1, 1]
    log_a: Any  # [B, 1, 1, 1]: alpha_t without the blur

    @property
    def alpha(self) -> Any:
        """The signal's scale for each frequency, [B, H, W, 1]."""
        return ops.exp(self.log_alpha)

    @property
    def sigma(self) -> Any:
        """The noise's standard deviation, [B, 1, 1, 1]."""
        return ops.exp(self.log_sigma)

    @property
    def logsnr(self) -> Any:
        """`log(alpha_t^2 / sigma_t^2)` for each frequency, [B, H, W, 1]."""
        return 2.0 * (self.log_alpha - self.log_sigma)

    @property
    def log_a_over_sigma(self) -> Any:
        """`log(a_t / sigma_t)`: half the noise schedule's log-SNR, the blur left aside, [B, 1, 1, 1]."""
        return self.log_a - self.log_sigma


@keras.saving.register_keras_serializable("tf_blurdiff")
class Process:
    """A Gaussian diffusion that is diagonal in the DCT basis.

    `q(u_t | u_x) = N(alpha_t u_x, sigma_t^2 I)` with `u = dct2(z)`, `alpha_t = a_t * gain_t`,
    `gain_t = (1 - min_gain) exp(-lambda blur_sigma(t)^2 / 2) + min_gain`.

    Args:
        noise: a noise schedule, `t -> (log a_t, log sigma_t)`.
        dissipation: a dissipation schedule, `t -> blur_sigma`.
        min_gain: what blurring leaves of every frequency, in [0, 1).
        blur_unit: "pixels", or "width": blur_sigma is then a fraction of the image's width, whatever that is.

    Attributes:
        has_noise: whether there is noise at t > 0.
        ends_in_noise: whether nothing but noise is left at t = 1, so that sampling starts from N(0, I).
        keeps_every_frequency: whether no frequency falls to nothing before the noise covers it, so that x0 can be
            computed from eps.
        num_levels: of a process with discrete levels, at t = 1 / num_levels, ..., 1; None for one without.

    Example:
        >>> import tf_blurdiff as bd
        >>> process = bd.process.blurring(sigma_blur_max=4.0)
        >>> alpha, sigma = process.alpha_sigma(np.array([0.5], "float32"), height=8, width=6)
        >>> tuple(alpha.shape), tuple(sigma.shape)
        ((1, 8, 6, 1), (1, 1, 1, 1))

    Reference: Hoogeboom and Salimans, Blurring Diffusion Models, 2023, equations 8 to 20.
    """

    def __init__(
        self, noise: NoiseSchedule, dissipation: DissipationSchedule, min_gain: float = 0.0, blur_unit: str = "pixels"
    ) -> None:
        if not 0.0 <= min_gain < 1.0:
            raise UserError(f"min_gain must be in [0, 1). Received: {min_gain}")
        one_of("blur_unit", blur_unit, BLUR_UNITS)
        self.noise = noise
        self.dissipation = dissipation
        self.min_gain = min_gain
        self.blur_unit = blur_unit
        self.has_noise = noise.has_noise
        self.ends_in_noise = noise.ends_in_noise
        self.keeps_every_frequency = min_gain > 0 or dissipation.sigma_blur_max == 0
        self.num_levels: int | None = getattr(dissipation, "num_levels", None)

    def blur_sigma(self, t: Any, width: int) -> Any:
        """Returns the blur's standard deviation in pixels at times t, of t's shape, for an image `width` wide."""
        return self.dissipation(t) * self._pixels_a_unit(width)

    def max_blur_sigma(self, width: int) -> float:
        """The largest `blur_sigma` in pixels, a float."""
        return self.dissipation.sigma_blur_max * self._pixels_a_unit(width)

    def level_time(self, uniform: Any) -> Any:
        """The time of one of the levels, each as likely as another, for numbers that are uniform in [0, 1)."""
        assert self.num_levels is not None
        return (ops.floor(uniform * self.num_levels) + 1.0) / self.num_levels

    def next_level(self, t: Any) -> Any:
        """The time one level below t; 0 is that of the image itself."""
        assert self.num_levels is not None
        return ops.maximum(t - 1.0 / self.num_levels, 0.0)

    def marginal(self, t: Any, height: int, width: int) -> Marginal:
        """Returns the `Marginal` at times t, float32 `[B]` in [0, 1]."""
        t = ops.reshape(ops.convert_to_tensor(t, "float32"), (-1, 1, 1, 1))
        log_a, log_sigma = self.noise(t)
        dissipation_time = 0.5 * ops.square(self.blur_sigma(t, width))
        log_heat = -laplacian_eigenvalues(height, width)[None, :, :, None] * dissipation_time
        return Marginal(log_a + self._log_gain(log_heat), log_sigma, log_a)

    def marginal_of(self, log_a_over_sigma: Any, height: int, width: int) -> Marginal:
        """The `Marginal` at the time when `log(a_t / sigma_t)` is log_a_over_sigma, of a process that ends in noise."""
        return self.marginal(self.noise.time_of(log_a_over_sigma), height, width)

    def alpha_sigma(self, t: Any, height: int, width: int) -> tuple[Any, Any]:
        """Returns `(alpha_t [B, H, W, 1] in the DCT basis, sigma_t [B, 1, 1, 1])` at times t, `[B]`."""
        marginal = self.marginal(t, height, width)
        return marginal.alpha, marginal.sigma

    def diffuse(self, x0: Any, t: Any, eps: Any) -> Any:
        """Returns `z_t`, pixel space; in training and sampling the same is done in the DCT basis, with a `Marginal`.

        Args:
            x0: clean images in [-1, 1], `[B, H, W, C]`.
            t: times, `[B]`.
            eps: standard normal noise in pixel space, `[B, H, W, C]`.
        """
        alpha, sigma = self.alpha_sigma(t, *x0.shape[1:3])
        return idct2(alpha * dct2(ops.cast(x0, "float32"))) + sigma * ops.cast(eps, "float32")

    def posterior(self, z_t: Any, x0: Any, t: Any, s: Any) -> tuple[Any, Any]:
        """`q(z_s | z_t, x0)` for s < t.

        Args:
            z_t, x0: `[B, H, W, C]`, pixel space.
            t, s: times, `[B]`, s below t.

        Returns:
            `(mean [B, H, W, C] in pixel space, variance [B, H, W, 1] in the DCT basis)`. Without noise in the process
            the mean is x0, blurred as at s, and the variance 0.
        """
        size = x0.shape[1:3]
        if not self.has_noise:
            alpha = self.marginal(s, *size).alpha
            return idct2(alpha * dct2(x0)), ops.zeros_like(alpha)
        mean_freq, variance = posterior_freq(dct2(z_t), dct2(x0), self.marginal(t, *size), self.marginal(s, *size))
        return idct2(mean_freq), variance

    def get_config(self) -> dict[str, Any]:
        """The schedules and min_gain, as Keras saves them."""
        serialize = keras.saving.serialize_keras_object
        return {
            "noise": serialize(self.noise),
            "dissipation": serialize(self.dissipation),
            "min_gain": self.min_gain,
            "blur_unit": self.blur_unit,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The inverse of `get_config`."""
        deserialize = keras.saving.deserialize_keras_object
        schedules = {name: deserialize(config[name]) for name in ("noise", "dissipation")}
        return cls(**{**config, **schedules})

    def _pixels_a_unit(self, width):
        return width if self.blur_unit == "width" else 1

    def _log_gain(self, log_heat):
        if self.min_gain == 0.0:
            return log_heat
        return ops.logaddexp(math.log1p(-self.min_gain) + log_heat, math.log(self.min_gain))


def posterior_freq(z_t_freq: Any, x0_freq: Any, at_t: Marginal, at_s: Marginal) -> tuple[Any, Any]:
    """`q(u_s | u_t, u_x)` in the DCT basis: `(mean [B, H, W, C], variance [B, H, W, 1])`.

    With `D = logsnr_t - logsnr_s <= 0`, `variance = -sigma_s^2 expm1(D)`; no clamp is needed.
    """
    expm1_logsnr_fall = ops.expm1(at_t.logsnr - at_s.logsnr)
    from_z_t = ops.exp(at_t.log_alpha - at_s.log_alpha + 2.0 * (at_s.log_sigma - at_t.log_sigma))
    mean_freq = from_z_t * z_t_freq - at_s.alpha * expm1_logsnr_fall * x0_freq
    return mean_freq, -ops.square(at_s.sigma) * expm1_logsnr_fall


def blurring(
    sigma_blur_max: float = 20.0,
    min_gain: float = 0.001,
    logsnr_min: float = -10.0,
    logsnr_max: float = 10.0,
    blur_schedule: str = "sin_squared",
    blur_unit: str = "pixels",
) -> Process:
    """Blurring diffusion: heat dissipation and noise together (Hoogeboom and Salimans, 2023, section 4).

    `blur_schedule` is "sin_squared" or "sin". With `min_gain=0` a strong blur leaves nothing of high frequencies, and
    x0 cannot be computed from eps there: such a process goes with the predictions "x0" and "preconditioned" only.
    """
    one_of("blur_schedule", blur_schedule, BLUR_SCHEDULES)
    dissipation = BLUR_SCHEDULES[blur_schedule](sigma_blur_max)
    return Process(CosineNoise(logsnr_min, logsnr_max), dissipation, min_gain, blur_unit)


def gaussian(logsnr_min: float = -10.0, logsnr_max: float = 10.0, noise_schedule: str = "cosine") -> Process:
    """Standard Gaussian diffusion: `blurring` with no blur.

    `noise_schedule` is "cosine", or "linear_betas" for DDPM's own (Ho et al., 2020, section 4), which has no limits to
    set.
    """
    one_of("noise_schedule", noise_schedule, NOISE_SCHEDULES)
    if noise_schedule == "cosine":
        return Process(CosineNoise(logsnr_min, logsnr_max), SinSquaredBlur(0.0))
    if (logsnr_min, logsnr_max) != (-10.0, 10.0):
        raise UserError(
            "logsnr_min and logsnr_max must be -10.0 and 10.0 with linear_betas, which has limits of its own. "
            f"Received: {logsnr_min}, {logsnr_max}"
        )
    return Process(LinearBetaNoise(), SinSquaredBlur(0.0))


def heat_dissipation(
    sigma_blur_min: float = 0.5,
    sigma_blur_max: float = 24.0,
    sigma: float = 0.02,
    num_levels: int = 200,
    blur_unit: str = "pixels",
) -> Process:
    """Inverse heat dissipation: blur level by level, and a little noise of the same strength at all times.

    The defaults are those published for CIFAR-10; sigma is 0.01 where pixels are in [0, 1], and 0.02 here. The reverse
    is not the posterior of the noise but the sampler "heat", with `prediction="less_blurred"`.

    Reference: Rissanen et al., Generative Modelling With Inverse Heat Dissipation, 2023.
    """
    dissipation = LogSpacedBlur(sigma_blur_min, sigma_blur_max, num_levels)
    return Process(ConstantNoise(sigma), dissipation, blur_unit=blur_unit)


def cold(
    sigma_blur_min: float = 0.01, sigma_blur_max: float = 1.0, num_levels: int = 300, blur_unit: str = "width"
) -> Process:
    """Cold diffusion: blur alone, without noise, down to (almost) the mean colour; for `prediction="x0"`.

    The published process is a chain of 300 truncated kernels whose standard deviations grow exponentially, with
    circular or reflecting borders, on images 128 pixels wide; without truncation it ends at 141 pixels. Here the blur
    is one multiplication in the DCT basis, whose borders reflect, and its standard deviation grows exponentially up to
    the image's width, where 0.7 % of the lowest frequency is left.

    Reference: Bansal et al., Cold Diffusion, 2022, section 5.
    """
    dissipation = LogSpacedBlur(sigma_blur_min, sigma_blur_max, num_levels)
    return Process(ConstantNoise(0.0), dissipation, blur_unit=blur_unit)


# The families by their names in a config.
PRESETS: dict[str, Callable[..., Process]] = {
    "gaussian": gaussian,
    "blurring": blurring,
    "heat_dissipation": heat_dissipation,
    "cold": cold,
}
