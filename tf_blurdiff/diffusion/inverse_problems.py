"""Linear inverse problems: what is known of an image that is to be restored, and estimates made consistent with it.

A measurement is linear with noise: `y = A x0 + noise_std n`. An estimate of x0 whose error is Gaussian and independent
from one DCT coefficient to another, of variance R, becomes the mean of x0 given y as well:
`x0 + R A^T (A R A^T + noise_std^2)^-1 (y - A x0)`. Blur and averaging keep `A R A^T` diagonal in the DCT basis, so this
is done coefficient by coefficient; a mask is diagonal in pixels.

Each class here is one A. Its `consistent(x0_freq, variance)` is that mean, float32 `[B, H, W, C]` in the DCT basis, for
an estimate x0_freq and the variance of each coefficient's error, above 0, of the same shape.

Reference: Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, 2023, section 3.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tf_blurdiff.diffusion.dct import dct2, idct2, laplacian_eigenvalues
from tf_blurdiff.diffusion.process import Marginal

# The standard deviation of what rounding to 8 bits does to pixels in [-1, 1].
ROUNDING_STD = 2.0 / 255.0 / np.sqrt(12.0)


class Blurred(NamedTuple):
    """Images known only blurred, as by `layers.HeatBlur`.

    Example:
        >>> known = Blurred.of(np.full((1, 8, 8, 1), 0.5, "float32"), blur_sigma=[2.0], noise_std=[0.001])
        >>> x0_freq = known.consistent(np.zeros((1, 8, 8, 1), "float32"), np.ones((1, 8, 8, 1), "float32"))
        >>> round(float(idct2(x0_freq)[0, 3, 3, 0]), 3)  # A grey image stays grey.
        0.5
    """

    value: Any  # DCT coefficients of the blurred images, [B, H, W, C]
    gain: Any  # what the blur leaves of each coefficient, [B, H, W, 1]
    noise_std: Any  # [B, 1, 1, 1]

    @classmethod
    def of(cls, images: Any, blur_sigma: Any, noise_std: Any) -> "Blurred":
        """From images `[B, H, W, C]` in [-1, 1]; blur_sigma, in pixels, and noise_std are `[B]`."""
        eigenvalues = laplacian_eigenvalues(*images.shape[1:3])[None, :, :, None]
        gain = ops.exp(-0.5 * eigenvalues * ops.square(_column(blur_sigma)))
        return cls(dct2(images), gain, _column(noise_std))

    def consistent(self, x0_freq: Any, variance: Any) -> Any:
        """See the module."""
        inverse = variance * self.gain / (ops.square(self.gain) * variance + ops.square(self.noise_std))
        return x0_freq + inverse * (self.value - self.gain * x0_freq)


class Averaged(NamedTuple):
    """Images known only smaller: each of their pixels is the mean of a square of the image's."""

    value: Any  # DCT coefficients of the smaller images, [B, h, w, C]
    noise_std: Any  # [B, 1, 1, 1]

    @classmethod
    def of(cls, images: Any, noise_std: Any) -> "Averaged":
        """From images `[B, h, w, C]` in [-1, 1]; noise_std is `[B]`."""
        return cls(dct2(images), _column(noise_std))

    def consistent(self, x0_freq: Any, variance: Any) -> Any:
        """See the module."""
        height, width = x0_freq.shape[1:3]
        factor = height // self.value.shape[1]
        rows, columns = averaging_matrix(height, factor), averaging_matrix(width, factor)

        def along_both_axes(x, rows, columns):
            return ops.einsum("ih,jw,bhwc->bijc", rows, columns, x)

        # The rows are orthonormal; what was measured is an average, of factor^2 pixels.
        measured_variance = along_both_axes(variance, rows**2, columns**2) + ops.square(factor * self.noise_std)
        residual = factor * self.value - along_both_axes(x0_freq, rows, columns)
        return x0_freq + variance * along_both_axes(residual / measured_variance, rows.T, columns.T)


class Masked(NamedTuple):
    """Images of which a part of the pixels is known."""

    value: Any  # pixels, [B, H, W, C]; what they are elsewhere does not matter
    known: Any  # 1 at known pixels and 0 elsewhere, [B, H, W, 1]
    noise_std: Any  # [B, 1, 1, 1]

    @classmethod
    def of(cls, images: Any, mask: Any, noise_std: Any) -> "Masked":
        """From images `[B, H, W, C]` in [-1, 1], known where mask, `[B, H, W, 1]`, is 0; noise_std is `[B]`."""
        known = ops.cast(ops.equal(mask, 0), "float32")
        return cls(ops.convert_to_tensor(images), known, _column(noise_std))

    def consistent(self, x0_freq: Any, variance: Any) -> Any:
        """See the module. In pixels the error is taken for white: its variance is the mean of the coefficients'."""
        variance = ops.mean(variance, axis=(1, 2, 3), keepdims=True)
        share = self.known * variance / (variance + ops.square(self.noise_std))
        x0 = idct2(x0_freq)
        return dct2(x0 + share * (self.value - x0))


def error_variance(std: Any, at_t: Marginal) -> Any:
    """The variance of a coefficient given z_t, if it is Gaussian with standard deviation std: `[B, H, W, C]`.

    Where std is not known it is very large, and its square is not finite.
    """
    return ops.square(at_t.sigma) / (ops.square(at_t.alpha) + ops.square(at_t.sigma / std))


def averaging_matrix(size: int, factor: int) -> np.ndarray:
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


def _column(values):
    return ops.reshape(ops.convert_to_tensor(values, "float32"), (-1, 1, 1, 1))
