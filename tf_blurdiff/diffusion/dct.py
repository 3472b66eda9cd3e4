"""The orthonormal two-dimensional DCT-II: the basis in which every process of this package is diagonal.

Since the basis is orthonormal, isotropic noise in pixels is isotropic noise in frequencies, and norms agree. Along each
axis the transform assumes a mirrored border, so a blur that multiplies DCT coefficients does not darken the edges.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from tf_blurdiff.compilation import is_for_other_runtimes


def dct2(x: Any) -> tf.Tensor:
    """Transforms images to the DCT basis.

    Args:
        x: `[B, H, W, C]` of any floating type and any H and W; computed in float32.

    Returns:
        float32 `[B, H, W, C]`; entry `[b, 0, 0, c]` is the mean of a channel times `sqrt(H * W)`.

    Example:
        >>> import tf_blurdiff as bd
        >>> freq = bd.dct2(np.ones((1, 4, 9, 1)))
        >>> round(float(freq[0, 0, 0, 0]), 5)
        6.0

    Reference: Hoogeboom and Salimans, Blurring Diffusion Models, 2023, section 3.
    """
    return _along_both_axes(x, _dct)


def idct2(freq: Any) -> tf.Tensor:
    """The inverse of `dct2`: `[B, H, W, C]` coefficients to float32 `[B, H, W, C]` images.

    Example:
        >>> import tf_blurdiff as bd
        >>> x = np.random.default_rng(0).normal(size=(2, 5, 3, 1)).astype("float32")
        >>> bool(np.allclose(bd.idct2(bd.dct2(x)), x, atol=1e-5))
        True
    """
    return _along_both_axes(freq, _idct)


def laplacian_eigenvalues(height: int, width: int) -> np.ndarray:
    """Eigenvalues of the negative Laplacian with mirrored borders, one for each DCT coefficient.

    Args:
        height, width: the picture's size in pixels.

    Returns:
        float32 array `[H, W]`, `(pi i / H)^2 + (pi j / W)^2`, in 1 / pixel^2.

    Example:
        >>> laplacian_eigenvalues(2, 2).round(3).tolist()
        [[0.0, 2.4670000076293945], [2.4670000076293945, 4.934999942779541]]

    Reference: Hoogeboom and Salimans, 2023, appendix A; Rissanen et al., 2023, section 3.1.
    """
    rows = (np.pi * np.arange(height) / height) ** 2
    columns = (np.pi * np.arange(width) / width) ** 2
    return (rows[:, None] + columns[None, :]).astype(np.float32)


def _dct(rows):
    if is_for_other_runtimes():
        return tf.matmul(rows, _basis(rows.shape[-1]), transpose_b=True)
    return tf.signal.dct(rows, type=2, norm="ortho")


def _idct(freq):
    if is_for_other_runtimes():
        return tf.matmul(freq, _basis(freq.shape[-1]))
    return tf.signal.idct(freq, type=2, norm="ortho")


def _basis(size):
    """The orthonormal cosines, float32 `[size, size]`, a row for each frequency."""
    places, numbers = np.arange(size) + 0.5, np.arange(size)[:, None]
    return (np.sqrt((1.0 + (numbers > 0)) / size) * np.cos(np.pi / size * numbers * places)).astype(np.float32)


def _along_both_axes(x, transform):
    # tf.signal.dct knows the last axis only: width first, then height, with channels out of the way.
    x = tf.cast(x, tf.float32)
    if x.shape.rank != 4:
        raise ValueError(f"A batch of images [B, H, W, C] is expected. Received: shape {tuple(x.shape)}")
    x = transform(tf.transpose(x, [0, 3, 1, 2]))
    x = transform(tf.transpose(x, [0, 1, 3, 2]))
    return tf.transpose(x, [0, 3, 2, 1])
