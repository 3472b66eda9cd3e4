"""Layers in several ways: the first of each is the package's own."""

import keras
import numpy as np
import tensorflow as tf

from tf_blurdiff.diffusion.dct import dct2
from tf_blurdiff.networks.group_norm import group_norm, number_of_groups
from tf_blurdiff.networks.layers import attend

_EPSILON, _MAX_GROUPS = 1e-5, 32


def norm_by_hand(x, scale, shift):
    """`group_norm.py`: float32 statistics, a gradient of its own. x is `[B, H, W, C]`, scale and shift `[B, C]`."""
    return group_norm(x, scale, shift, number_of_groups(x.shape[3], _MAX_GROUPS), _EPSILON, silu=True)


def plain_norm(x, scale, shift):
    """The same by the formula, with TensorFlow's gradients."""
    channels = x.shape[3]
    groups = number_of_groups(channels, _MAX_GROUPS)
    grouped = tf.reshape(tf.cast(x, tf.float32), (-1, x.shape[1], x.shape[2], groups, channels // groups))
    mean, variance = tf.nn.moments(grouped, axes=(1, 2, 4), keepdims=True)
    normed = tf.reshape((grouped - mean) * tf.math.rsqrt(variance + _EPSILON), tf.shape(x))
    y = normed * scale[:, None, None, :] + shift[:, None, None, :]
    return tf.cast(y * tf.sigmoid(y), x.dtype)


def attention_by_heads(query, key, value):
    """As `SelfAttention` computes it, a head at a time; `[B, N, heads, D]` each and the result."""
    heads = zip(*(tf.unstack(each, axis=2) for each in (query, key, value)))
    return tf.stack([attend(*head) for head in heads], axis=2)


def keras_attention(query, key, value):
    """`keras.ops.dot_product_attention`, which chooses by itself."""
    return keras.ops.dot_product_attention(query, key, value)


def keras_flash_attention(query, key, value):
    """The same, insisting on flash attention."""
    return keras.ops.dot_product_attention(query, key, value, flash_attention=True)


def dct_matrix(size):
    """The orthonormal DCT-II of `size` values, float64 `[frequency, place]`.

    Reference: Ahmed, Natarajan and Rao, Discrete Cosine Transform, 1974.
    """
    frequency, place = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.sqrt(2.0 / size) * np.cos(np.pi * frequency * (place + 0.5) / size)
    matrix[0] /= np.sqrt(2.0)
    return matrix


def dct_in_float64(x):
    """The two-dimensional DCT of `[B, H, W, C]` in NumPy."""
    rows, columns = dct_matrix(x.shape[1]), dct_matrix(x.shape[2])
    return np.einsum("ih,bhwc,jw->bijc", rows, x.astype(np.float64), columns, optimize=True)


def dct_by_products(x):
    """Two products with DCT matrices, of `[B, H, W, C]`."""
    rows, columns = (tf.constant(dct_matrix(size), tf.float32) for size in x.shape[1:3])
    return tf.einsum("jw,biwc->bijc", columns, tf.einsum("ih,bhwc->biwc", rows, x))


NORMALISATIONS = {"as it is, gradient by hand": norm_by_hand, "plain formula": plain_norm}
ATTENTIONS = {
    "as it is": attention_by_heads,
    "keras.ops.dot_product_attention": keras_attention,
    "with flash_attention=True": keras_flash_attention,
}
DCTS = {"as it is, tf.signal.dct": dct2, "two products with matrices": dct_by_products}
