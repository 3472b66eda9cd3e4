"""Group normalisation and activation in few passes over memory, with a gradient written by hand.

On a processor such layers cost what they read and write. Each channel's moments are two reductions, everything about
groups happens on `[B, C]`, and the result is one multiply-add per channel. The gradient keeps the input and the output
alone, computes the rest anew, and works in float32. TensorFlow's own operations are used for two that keras.ops lacks:
the Euclidean norm, which squares and sums in one pass, and the gradient of softplus, which is `gradient * sigmoid`.
"""

import numpy as np
import tensorflow as tf

# Of a group.
LEAST_CHANNELS = 4


def group_average(channels, max_groups):
    """The matrix that averages over each group of channels and hands the average to each of them.

    The number of groups is the largest divisor of `max_groups` and of `channels` that leaves a group 4 channels or
    more; else one group.

    Returns:
        float32 `[channels, channels]`.

    Example:
        >>> group_average(8, max_groups=32)[0].tolist()
        [0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0]
    """
    most = int(np.gcd(max_groups, channels))
    fitting = (n for n in range(1, most + 1) if most % n == 0 and channels // n >= LEAST_CHANNELS)
    groups = max(fitting, default=1)
    return np.kron(np.eye(groups), np.full([channels // groups] * 2, groups / channels)).astype("float32")


def group_norm(x, scale, shift, average, epsilon, silu):
    """Normalises each group, multiplies with `scale`, adds `shift`, and applies SiLU if wanted.

    Args:
        x: `[B, H, W, C]`.
        scale, shift: float32 `[B, C]`.
        average: see `group_average`.
        epsilon: added to the variance.
        silu: whether `y * sigmoid(y)` follows.

    Returns:
        Of x's shape and type. Statistics are float32 whatever that is.

    Example:
        >>> x = np.array([-3.0, -1.0, 1.0, 3.0], "float32").reshape(1, 1, 1, 4)
        >>> ones, zeros = np.ones((1, 4), "float32"), np.zeros((1, 4), "float32")
        >>> y = group_norm(x, ones, zeros, group_average(4, 32), 0.0, silu=False)
        >>> [round(float(value), 3) for value in y.numpy().ravel()]
        [-1.342, -0.447, 0.447, 1.342]

    Reference: Wu and He, Group Normalization, 2018; Ramachandran et al., Searching for Activation Functions, 2017.
    """

    @tf.custom_gradient
    def normalise(x, scale, shift):
        size = tf.cast(x.shape[1] * x.shape[2], tf.float32)
        mean, inverse_std = _statistics(tf.cast(x, tf.float32), size, average, epsilon)
        slope = inverse_std * scale
        offset = shift - mean * slope
        normed = _multiply_add(x, slope, offset)
        y = tf.nn.silu(normed) if silu else normed

        def gradient(dy):
            dy, x_32 = tf.cast(dy, tf.float32), tf.cast(x, tf.float32)
            if silu:
                dy = _through_silu(dy, _multiply_add(x_32, slope, offset), tf.cast(y, tf.float32))
            d_shift = tf.reduce_sum(dy, axis=(1, 2))
            d_scale = inverse_std * (tf.reduce_sum(dy * x_32, axis=(1, 2)) - mean * d_shift)
            # What the group's mean and standard deviation pass back to each of its values.
            along_mean = inverse_std * tf.matmul(scale * d_shift / size, average)
            along_x = -(inverse_std**2) * tf.matmul(scale * d_scale / size, average)
            dx = dy * _to_pixels(slope) + _multiply_add(x_32, along_x, -along_mean - mean * along_x)
            return tf.cast(dx, x.dtype), d_scale, d_shift

        return y, gradient

    return normalise(tf.convert_to_tensor(x), tf.convert_to_tensor(scale), tf.convert_to_tensor(shift))


def _statistics(x, size, average, epsilon):
    # Each channel's moments first, then a group's from its channels'; [B, C] each.
    mean = tf.matmul(tf.reduce_mean(x, axis=(1, 2)), average)
    mean_square = tf.matmul(tf.square(tf.math.reduce_euclidean_norm(x, axis=(1, 2))) / size, average)
    return mean, tf.math.rsqrt(tf.maximum(mean_square - tf.square(mean), 0.0) + epsilon)


def _through_silu(dy, x, y):
    # silu' = s (1 + x (1 - s)) with s = sigmoid(x), and x (1 - s) = x - y.
    dy = tf.raw_ops.SoftplusGrad(gradients=dy, features=x)
    return dy + dy * (x - y)


def _multiply_add(x, slope, offset):
    return x * _to_pixels(slope, x.dtype) + _to_pixels(offset, x.dtype)


def _to_pixels(values, dtype=tf.float32):
    return tf.cast(values[:, None, None, :], dtype)
