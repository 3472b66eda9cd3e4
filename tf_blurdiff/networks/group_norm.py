"""Group normalisation and activation in few passes over memory, with a gradient written by hand.

On a processor such layers cost what they read and write. Each channel's moments are two reductions, everything about
groups happens on `[B, groups, C / groups]`, and the result is one multiply-add per channel. The gradient keeps the
input and the output alone, computes the rest anew, and works in float32. TensorFlow's own operations are used for two
that keras.ops lacks: the Euclidean norm, which squares and sums in one pass, and the gradient of softplus, which is
`gradient * sigmoid`.
"""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tf_blurdiff.compilation import is_compiling

_LEAST_CHANNELS_OF_A_GROUP = 4


def number_of_groups(channels: int, max_groups: int) -> int:
    """The largest divisor of `max_groups` and of `channels` that leaves a group 4 channels or more; else 1.

    Example:
        >>> number_of_groups(48, max_groups=32)
        8
    """
    most = int(np.gcd(max_groups, channels))
    fitting = (n for n in range(1, most + 1) if most % n == 0 and channels // n >= _LEAST_CHANNELS_OF_A_GROUP)
    return max(fitting, default=1)


def group_norm(x: Any, scale: Any, shift: Any, groups: int, epsilon: float, silu: bool) -> Any:
    """Normalises each group, multiplies with `scale`, adds `shift`, and applies SiLU if wanted.

    Args:
        x: `[B, H, W, C]`.
        scale, shift: float32 `[B, C]`.
        groups: how many; divides C.
        epsilon: added to the variance.
        silu: whether `y * sigmoid(y)` follows.

    Returns:
        Of x's shape and type. Statistics are float32 whatever that is.

    Example:
        >>> x = np.array([-3.0, -1.0, 1.0, 3.0], "float32").reshape(1, 1, 1, 4)
        >>> ones, zeros = np.ones((1, 4), "float32"), np.zeros((1, 4), "float32")
        >>> y = group_norm(x, ones, zeros, 1, 0.0, silu=False)
        >>> [round(float(value), 3) for value in y.numpy().ravel()]
        [-1.342, -0.447, 0.447, 1.342]

    Reference: Wu and He, Group Normalization, 2018; Ramachandran et al., Searching for Activation Functions, 2017.
    """
    normalise = _normalisation(groups, epsilon, silu, is_compiling())
    return normalise(*map(tf.convert_to_tensor, (x, scale, shift)))


@functools.cache
def _normalisation(groups, epsilon, silu, compiling):
    # Traced once for all layers of the same shape: of what Python does before a first step, normalising is a third.
    @tf.custom_gradient
    def normalise(x, scale, shift):
        by_group = (-1, groups, x.shape[3] // groups)
        scale, shift = tf.reshape(scale, by_group), tf.reshape(shift, by_group)
        size = tf.cast(x.shape[1] * x.shape[2], tf.float32)
        mean, inverse_std = _statistics(tf.cast(x, tf.float32), size, by_group, epsilon, compiling)
        slope = inverse_std * scale
        offset = shift - mean * slope
        normed = _multiply_add(x, slope, offset)
        y = tf.nn.silu(normed) if silu else normed

        def gradient(dy):
            dy, x_32 = tf.cast(dy, tf.float32), tf.cast(x, tf.float32)
            if silu:
                dy = _through_silu(dy, _multiply_add(x_32, slope, offset), tf.cast(y, tf.float32))
            d_shift = tf.reshape(tf.reduce_sum(dy, axis=(1, 2)), by_group)
            d_scale = inverse_std * (tf.reshape(tf.reduce_sum(dy * x_32, axis=(1, 2)), by_group) - mean * d_shift)
            # What the group's mean and standard deviation pass back to each of its values.
            along_mean = inverse_std * _mean_of_group(scale * d_shift) / size
            along_x = -(inverse_std**2) * _mean_of_group(scale * d_scale) / size
            through_group = _multiply_add(
                x_32, *(tf.broadcast_to(each, tf.shape(slope)) for each in (along_x, -along_mean - mean * along_x))
            )
            dx = dy * _to_pixels(slope) + through_group
            return tf.cast(dx, x.dtype), tf.reshape(d_scale, (-1, x.shape[3])), tf.reshape(d_shift, (-1, x.shape[3]))

        return y, gradient

    return tf.function(normalise, autograph=False)


def _statistics(x, size, by_group, epsilon, compiling):
    # Of a channel first, then of its group, [B, groups, 1] each.
    mean = _mean_of_group(tf.reshape(tf.reduce_mean(x, axis=(1, 2)), by_group))
    mean_square = _mean_of_group(tf.reshape(_sum_of_squares(x, compiling), by_group)) / size
    return mean, tf.math.rsqrt(tf.maximum(mean_square - tf.square(mean), 0.0) + epsilon)


def _sum_of_squares(x, compiling):
    # XLA has no Euclidean norm, and makes one pass of the two by itself.
    if compiling:
        return tf.reduce_sum(tf.square(x), axis=(1, 2))
    return tf.square(tf.math.reduce_euclidean_norm(x, axis=(1, 2)))


def _mean_of_group(values):
    return tf.reduce_mean(values, axis=2, keepdims=True)


def _through_silu(dy, x, y):
    # silu' = s (1 + x (1 - s)) with s = sigmoid(x), and x (1 - s) = x - y.
    dy = tf.raw_ops.SoftplusGrad(gradients=dy, features=x)
    return dy + dy * (x - y)


def _multiply_add(x, slope, offset):
    return x * _to_pixels(slope, x.dtype) + _to_pixels(offset, x.dtype)


def _to_pixels(values, dtype=tf.float32):
    return tf.cast(tf.reshape(values, (-1, 1, 1, values.shape[1] * values.shape[2])), dtype)
