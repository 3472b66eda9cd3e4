"""What is known of an image that is to be restored, and an estimate made consistent with it.

An observation is linear with noise: `y = A x0 + noise_std n`. An estimate of x0 whose error is Gaussian and independent
from one DCT coefficient to another, of variance R, becomes the mean of x0 given y as well:
`x0 + R A^T (A R A^T + noise_std^2)^-1 (y - A x0)`. Blur and averaging keep `A R A^T` diagonal in the DCT basis, so this
is done coefficient by coefficient; a mask is diagonal in pixels.

Reference: Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, 2023, section 3.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from tf_blurdiff.diffusion.dct import dct2, idct2

# The standard deviation of what rounding to 8 bits does to pixels in [-1, 1].
ROUNDING_STD = 2.0 / 255.0 / np.sqrt(12.0)


class Observation(NamedTuple):
    """Rows of what is known.

    Attributes:
        kind: "blurred", "averaged" or "masked".
        value: blurred and averaged pictures as DCT coefficients, `[B, h, w, C]`; pixels `[B, H, W, C]` if masked.
        weight: the gain of each coefficient, or 1 at known pixels and 0 elsewhere, `[B, H, W, 1]`; if averaged, ones
            `[B, 1, 1, 1]`, which nothing reads.
        noise_std: `[B, 1, 1, 1]`.
    """

    kind: str
    value: object
    weight: object
    noise_std: object

    def rows(self, chosen):
        """The same of fewer rows, a slice."""
        return self._replace(**{name: getattr(self, name)[chosen] for name in ("value", "weight", "noise_std")})


def consistent(observation, x0_freq, variance):
    """An estimate that agrees with the observation.

    Args:
        observation: an `Observation`.
        x0_freq: `[B, H, W, C]` in the DCT basis.
        variance: of the error of each coefficient, above 0, of the same shape.

    Returns:
        float32 `[B, H, W, C]` in the DCT basis.
    """
    return _KINDS[observation.kind](observation, x0_freq, variance)


def error_variance(std, at_t):
    """The variance of a coefficient given z_t, if it is Gaussian with standard deviation std: `[B, H, W, C]`."""
    std, sigma = ops.square(std), ops.square(at_t.sigma)
    return std * sigma / (ops.square(at_t.alpha) * std + sigma)


def averaging_matrix(size, factor):
    """Averaging `factor` neighbours along an axis, from the DCT basis to that of the smaller picture.

    Returns:
        float32 `[size // factor, size]`; rows are orthonormal, and no column has more than one entry that is not 0.
    """
    average = np.repeat(np.eye(size // factor), factor, axis=1) / np.sqrt(factor)
    return (_dct_matrix(size // factor) @ average @ _dct_matrix(size).T).astype(np.float32)


def _dct_matrix(size):
    frequency, place = np.arange(size)[:, None], np.arange(size)[None, :]
    scale = np.where(frequency == 0, 1.0, 2.0) / size
    return np.sqrt(scale) * np.cos(np.pi * (place + 0.5) * frequency / size)


def _blurred(observation, x0_freq, variance):
    gain = observation.weight
    inverse = variance * gain / (ops.square(gain) * variance + ops.square(observation.noise_std))
    return x0_freq + inverse * (observation.value - gain * x0_freq)


def _averaged(observation, x0_freq, variance):
    height, width = x0_freq.shape[1:3]
    factor = height // observation.value.shape[1]
    rows, columns = averaging_matrix(height, factor), averaging_matrix(width, factor)

    def along_both_axes(x, rows, columns):
        return ops.einsum("ih,jw,bhwc->bijc", rows, columns, x)

    # The rows are orthonormal; what was observed is an average, of factor^2 pixels.
    observed_variance = along_both_axes(variance, rows**2, columns**2) + ops.square(factor * observation.noise_std)
    residual = factor * observation.value - along_both_axes(x0_freq, rows, columns)
    return x0_freq + variance * along_both_axes(residual / observed_variance, rows.T, columns.T)


def _masked(observation, x0_freq, variance):
    # In pixels the error is taken for white: its variance is the mean of the coefficients'.
    variance = ops.mean(variance, axis=(1, 2, 3), keepdims=True)
    share = observation.weight * variance / (variance + ops.square(observation.noise_std))
    x0 = idct2(x0_freq)
    return dct2(x0 + share * (observation.value - x0))


_KINDS = {"blurred": _blurred, "averaged": _averaged, "masked": _masked}
