"""The terms of the variational bound, in nats, for each coefficient or pixel."""

import math
from typing import Any

import tensorflow as tf
from keras import ops

from tf_blurdiff.diffusion.process import Marginal

# On the scale of [-1, 1] the 256 levels are 2 / 255 apart.
LEVELS_PER_UNIT = 127.5
_HALF_BIN = 0.5 / LEVELS_PER_UNIT


def prior_terms(x0_freq: Any, at_1: Marginal) -> Any:
    """`KL(q(u_1 | x) || N(0, I))` for each coefficient.

    Args:
        x0_freq: images in the DCT basis, `[B, H, W, C]`.
        at_1: the `Marginal` at t = 1.

    Returns:
        float32 `[B, H, W, C]`, in nats.

    Example:
        >>> import tf_blurdiff as bd
        >>> at_1 = bd.process.gaussian().marginal([1.0], 2, 2)
        >>> bool(np.max(prior_terms(np.ones((1, 2, 2, 1), "float32"), at_1)) < 1e-4)
        True

    Reference: Kingma et al., 2021, appendix E.
    """
    log_variance = 2.0 * at_1.log_sigma
    # The variance is almost 1: expm1, not exp and a difference.
    return 0.5 * (ops.square(at_1.alpha * x0_freq) + ops.expm1(log_variance) - log_variance)


def diffusion_terms(x0_freq: Any, x0_hat_freq: Any, at_t: Marginal, at_s: Marginal) -> Any:
    """`KL(q(u_s | u_t, x) || q(u_s | u_t, x_hat))` for each coefficient.

    `1/2 (snr_s - snr_t) (x - x_hat)^2`; with eps that is `1/2 expm1(logsnr_s - logsnr_t) (eps - eps_hat)^2`, which is
    infinity times 0 where blur has left nothing of a frequency.

    Args:
        x0_freq, x0_hat_freq: images and their estimate in the DCT basis, `[B, H, W, C]`.
        at_t, at_s: the `Marginal` at t and at s < t.

    Returns:
        float32 `[B, H, W, C]`, in nats.

    Example:
        >>> import tf_blurdiff as bd
        >>> at_t, at_s = (bd.process.gaussian().marginal([time], 2, 2) for time in (0.5, 0.25))
        >>> x0_freq = np.ones((1, 2, 2, 1), "float32")
        >>> round(float(diffusion_terms(x0_freq, 0.0 * x0_freq, at_t, at_s)[0, 0, 0, 0]), 2)
        2.36

    Reference: Kingma et al., 2021, equations 13 and 14.
    """
    snr_fall = -ops.exp(at_s.logsnr) * ops.expm1(at_t.logsnr - at_s.logsnr)
    return 0.5 * snr_fall * ops.square(x0_freq - x0_hat_freq)


def reconstruction_terms(images: Any, eps: Any, at_0: Marginal) -> Any:
    """`-log p(x | z_0)` for each pixel and channel, with `z_0 = a_0 x + sigma_0 eps`.

    `p(x | z_0)` is a Gaussian around `z_0 / a_0` with standard deviation `sigma_0 / a_0`, in bins around the 256 levels
    of a pixel; the outermost bins go on to infinity. At t = 0 there is no blur, so this is in pixel space.

    Args:
        images: `[B, H, W, C]` of 8-bit pixels, scaled to [-1, 1].
        eps: standard normal noise in pixel space, `[B, H, W, C]`, of no more than 12 standard deviations.
        at_0: the `Marginal` at t = 0.

    Returns:
        float32 `[B, H, W, C]`, in nats.

    Example:
        >>> import tf_blurdiff as bd
        >>> at_0 = bd.process.gaussian(logsnr_max=20.0).marginal([0.0], 2, 2)
        >>> white = np.ones((1, 2, 2, 1), "float32")
        >>> bool(np.max(reconstruction_terms(white, 0.0 * white, at_0)) < 1e-6)
        True

    Reference: Ho et al., 2020, equation 13.
    """
    half_width = _HALF_BIN * ops.exp(at_0.log_a_over_sigma)
    # The bin's edges, less the mean, in standard deviations: the pixel itself cancels.
    lower = ops.where(images < -1.0 + _HALF_BIN, -math.inf, -half_width - eps)
    upper = ops.where(images > 1.0 - _HALF_BIN, math.inf, half_width - eps)
    # Mirrored to the left tail, where a difference of distribution functions is exact and above 0.
    mirror = lower + upper > 0
    left, right = ops.where(mirror, -upper, lower), ops.where(mirror, -lower, upper)
    return -ops.log(_normal_cdf(right) - _normal_cdf(left))


def _normal_cdf(x):
    return 0.5 * tf.math.erfc(-math.sqrt(0.5) * x)
