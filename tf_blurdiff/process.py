"""The diffusion process: what an image looks like at time t, and what is known of time s < t.

One class serves every family; the presets at the end of this file only choose its schedules. All is computed in
float32 and as logarithms: ratios such as `1 / alpha_t` reach 1e5.
"""

import math
from typing import NamedTuple

import keras
from keras import ops

from tf_blurdiff.dct import dct2, idct2, laplacian_eigenvalues
from tf_blurdiff.schedules import CosineNoise, SinSquaredBlur


class Marginal(NamedTuple):
    """`q(z_t | x0)` in the DCT basis at one time: `N(alpha_t * x0_freq, sigma_t^2 I)`."""

    log_alpha: object  # [B, H, W, 1]
    log_sigma: object  # [B, 1, 1, 1]

    @property
    def alpha(self):
        """The signal's scale for each frequency, [B, H, W, 1]."""
        return ops.exp(self.log_alpha)

    @property
    def sigma(self):
        """The noise's standard deviation, [B, 1, 1, 1]."""
        return ops.exp(self.log_sigma)

    @property
    def logsnr(self):
        """`log(alpha_t^2 / sigma_t^2)` for each frequency, [B, H, W, 1]."""
        return 2.0 * (self.log_alpha - self.log_sigma)


@keras.saving.register_keras_serializable("tf_blurdiff")
class Process:
    """A Gaussian diffusion that is diagonal in the DCT basis.

    `q(u_t | u_x) = N(alpha_t u_x, sigma_t^2 I)` with `u = dct2(z)`, `alpha_t = a_t * gain_t`,
    `gain_t = (1 - min_gain) exp(-lambda blur_sigma(t)^2 / 2) + min_gain`.

    Args:
        noise: a noise schedule, `t -> (log a_t, log sigma_t)`.
        dissipation: a dissipation schedule, `t -> blur_sigma` in pixels.
        min_gain: what blurring leaves of every frequency, in [0, 1).

    Example:
        >>> import tf_blurdiff as bd
        >>> process = bd.process.blurring(sigma_blur_max=4.0)
        >>> alpha, sigma = process.alpha_sigma(np.array([0.5], "float32"), height=8, width=6)
        >>> tuple(alpha.shape), tuple(sigma.shape)
        ((1, 8, 6, 1), (1, 1, 1, 1))

    Reference: Hoogeboom and Salimans, Blurring Diffusion Models, 2023, equations 8 to 20.
    """

    def __init__(self, noise, dissipation, min_gain=0.0):
        if not 0.0 <= min_gain < 1.0:
            raise ValueError(f"min_gain must be in [0, 1). Received: {min_gain}")
        self.noise = noise
        self.dissipation = dissipation
        self.min_gain = min_gain

    def marginal(self, t, height, width):
        """Returns the `Marginal` at times t, float32 `[B]` in [0, 1]."""
        t = ops.reshape(ops.convert_to_tensor(t, "float32"), (-1, 1, 1, 1))
        log_a, log_sigma = self.noise(t)
        dissipation_time = 0.5 * ops.square(self.dissipation(t))
        log_heat = -laplacian_eigenvalues(height, width)[None, :, :, None] * dissipation_time
        return Marginal(log_a + self._log_gain(log_heat), log_sigma)

    def alpha_sigma(self, t, height, width):
        """Returns `(alpha_t [B, H, W, 1] in the DCT basis, sigma_t [B, 1, 1, 1])` at times t, `[B]`."""
        marginal = self.marginal(t, height, width)
        return marginal.alpha, marginal.sigma

    def diffuse(self, x0, t, eps):
        """Returns `z_t`, pixel space.

        Args:
            x0: clean images in [-1, 1], `[B, H, W, C]`.
            t: times, `[B]`.
            eps: standard normal noise in pixel space, `[B, H, W, C]`.
        """
        alpha, sigma = self.alpha_sigma(t, *x0.shape[1:3])
        return idct2(alpha * dct2(x0)) + sigma * eps

    def posterior(self, z_t, x0, t, s):
        """`q(z_s | z_t, x0)` for s < t.

        Args:
            z_t, x0: `[B, H, W, C]`, pixel space.
            t, s: times, `[B]`, s below t.

        Returns:
            `(mean [B, H, W, C] in pixel space, variance [B, H, W, 1] in the DCT basis)`.
        """
        size = x0.shape[1:3]
        mean_freq, variance = posterior_freq(dct2(z_t), dct2(x0), self.marginal(t, *size), self.marginal(s, *size))
        return idct2(mean_freq), variance

    def get_config(self):
        """The schedules and min_gain, as Keras saves them."""
        serialize = keras.saving.serialize_keras_object
        return {
            "noise": serialize(self.noise),
            "dissipation": serialize(self.dissipation),
            "min_gain": self.min_gain,
        }

    @classmethod
    def from_config(cls, config):
        """The inverse of `get_config`."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(deserialize(config["noise"]), deserialize(config["dissipation"]), config["min_gain"])

    def _log_gain(self, log_heat):
        if self.min_gain == 0.0:
            return log_heat
        return ops.logaddexp(math.log1p(-self.min_gain) + log_heat, math.log(self.min_gain))


def posterior_freq(z_t_freq, x0_freq, at_t, at_s):
    """`q(u_s | u_t, u_x)` in the DCT basis: `(mean [B, H, W, C], variance [B, H, W, 1])`.

    With `D = logsnr_t - logsnr_s <= 0`, `variance = -sigma_s^2 expm1(D)`; no clamp is needed.
    """
    expm1_logsnr_fall = ops.expm1(at_t.logsnr - at_s.logsnr)
    from_z_t = ops.exp(at_t.log_alpha - at_s.log_alpha + 2.0 * (at_s.log_sigma - at_t.log_sigma))
    mean_freq = from_z_t * z_t_freq - at_s.alpha * expm1_logsnr_fall * x0_freq
    return mean_freq, -ops.square(at_s.sigma) * expm1_logsnr_fall


def blurring(sigma_blur_max=20.0, min_gain=0.001, logsnr_min=-10.0, logsnr_max=10.0):
    """Blurring diffusion: heat dissipation and noise together (Hoogeboom and Salimans, 2023, section 4).

    With `min_gain=0` a strong blur leaves nothing of high frequencies, and x0 cannot be computed from eps there: sample
    such a model only after `DiffusionModel.adapt`.
    """
    return Process(CosineNoise(logsnr_min, logsnr_max), SinSquaredBlur(sigma_blur_max), min_gain)


def gaussian(logsnr_min=-10.0, logsnr_max=10.0):
    """Standard Gaussian diffusion with the cosine schedule: `blurring` with no blur."""
    return Process(CosineNoise(logsnr_min, logsnr_max), SinSquaredBlur(0.0))
