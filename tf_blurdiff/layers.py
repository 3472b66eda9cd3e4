"""Keras layers: the DCT and the blur, and the U-Net's blocks."""

import math

import keras
import numpy as np
from keras import ops

from tf_blurdiff.dct import dct2, idct2, laplacian_eigenvalues
from tf_blurdiff.stateless_random import uniform_rows

register = keras.saving.register_keras_serializable("tf_blurdiff")

# Of a group of the group normalisation.
_LEAST_CHANNELS = 4


def upsample(x):
    """Doubles height and width by repeating each pixel: `[B, H, W, C]` to `[B, 2 H, 2 W, C]`.

    Example:
        >>> upsample(np.array([1.0, 2.0]).reshape(1, 1, 2, 1)).numpy().squeeze().tolist()
        [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    """
    height, width, channels = x.shape[1:]
    x = ops.broadcast_to(x[:, :, None, :, None, :], (ops.shape(x)[0], height, 2, width, 2, channels))
    return ops.reshape(x, (-1, 2 * height, 2 * width, channels))


class _Float32Layer(keras.layers.Layer):
    # tf.signal.dct takes float32 only; under a mixed policy these layers keep computing in it.
    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})


@register
class DCT2D(_Float32Layer):
    """`dct2` as a layer: images `[B, H, W, C]` to DCT coefficients, float32.

    Example:
        >>> import tf_blurdiff as bd
        >>> bd.layers.DCT2D()(np.ones((2, 8, 8, 3))).shape
        TensorShape([2, 8, 8, 3])
    """

    def call(self, x):
        return dct2(x)


@register
class IDCT2D(_Float32Layer):
    """`idct2` as a layer: DCT coefficients `[B, H, W, C]` to images, float32."""

    def call(self, freq):
        return idct2(freq)


@register
class HeatBlur(_Float32Layer):
    """Blurs by heat dissipation with mirrored borders: `idct2(exp(-lambda blur_sigma^2 / 2) dct2(x))`.

    Call arguments:
        inputs: `[x, blur_sigma]`, images `[B, H, W, C]` and the blur's standard deviation in pixels, `[B]`.

    Example:
        >>> import tf_blurdiff as bd
        >>> x = np.eye(8, dtype="float32")[None, :, :, None]
        >>> blurred = bd.layers.HeatBlur()([x, np.array([2.0], "float32")])
        >>> bool(np.isclose(np.mean(blurred), np.mean(x)))
        True

    Reference: Rissanen et al., Generative Modelling with Inverse Heat Dissipation, 2023, section 3.1.
    """

    def call(self, inputs):
        x, blur_sigma = inputs
        dissipation_time = 0.5 * ops.square(ops.reshape(blur_sigma, (-1, 1, 1, 1)))
        eigenvalues = laplacian_eigenvalues(*x.shape[1:3])[None, :, :, None]
        return idct2(ops.exp(-eigenvalues * dissipation_time) * dct2(x))

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@register
class Dropout(keras.layers.Layer):
    """Dropout whose mask is a function of a seed and of the row in the global batch.

    So a training step is the same on one replica and on many, and after a resume.

    Args:
        rate: the share of values set to 0, in [0, 1).

    Call arguments:
        x: `[B, ...]`.
        training: whether to drop at all.
        seed: integer `[2]`; None takes the next of Keras's own seeds, as keras.layers.Dropout does.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"The dropout rate must be in [0, 1). Received: {rate}")
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape):
        self.built = True

    def call(self, x, training=False, seed=None):
        if not training or self.rate == 0.0:
            return x
        seed = self.seed_generator.next() if seed is None else seed
        kept = uniform_rows(ops.cast(seed, "int64"), (ops.shape(x)[0], *x.shape[1:])) >= self.rate
        return ops.where(kept, x / (1.0 - self.rate), ops.zeros_like(x))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@register
class GroupNorm(keras.layers.Layer):
    """Group normalisation, folded into one multiply-add per channel, with an optional modulation per example.

    `y = norm(x) * gamma * (1 + scale) + beta * (1 + scale) + shift`. Statistics are float32 whatever the policy.

    Args:
        max_groups: the number of groups is the largest divisor of this and of the channels that leaves a group 4
            channels or more. Alone, a channel would lose its mean, and a bias before it would have no gradient.
        epsilon: added to the variance.

    Call arguments:
        x: `[B, H, W, C]`.
        modulation: None, or `[B, 2 C]`: scale and shift, one after the other.

    Reference: Wu and He, Group Normalization, 2018; 4 channels: Karras et al., Elucidating the Design Space of
    Diffusion-Based Generative Models, 2022; the modulation: Dhariwal and Nichol, 2021, section 3.
    """

    def __init__(self, max_groups=32, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.max_groups = max_groups
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = input_shape[-1]
        most = math.gcd(self.max_groups, channels)
        fitting = (n for n in range(1, most + 1) if most % n == 0 and channels // n >= _LEAST_CHANNELS)
        groups = max(fitting, default=1)
        # Multiplying by this block matrix averages over each group and hands the average to its channels.
        block = np.full([channels // groups] * 2, groups / channels)
        self.same_group = np.kron(np.eye(groups), block).astype("float32")
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer="zeros", autocast=False)
        self.built = True

    def call(self, x, modulation=None):
        mean, inverse_std = self._statistics(x)
        scale, shift = inverse_std * self.gamma, self.beta
        if modulation is not None:
            extra_scale, extra_shift = ops.split(ops.cast(modulation, "float32"), 2, axis=-1)
            scale, shift = scale * (1.0 + extra_scale), shift * (1.0 + extra_scale) + extra_shift
        shift = shift - mean * scale
        return x * _per_channel(scale, x.dtype) + _per_channel(shift, x.dtype)

    def _statistics(self, x):
        # Each channel's moments first, since they keep the layout; then a group's from its channels': [B, C] each.
        x = ops.cast(x, "float32")
        mean = self._over_groups(ops.mean(x, axis=(1, 2)))
        mean_square = self._over_groups(ops.mean(ops.square(x), axis=(1, 2)))
        variance = ops.maximum(mean_square - ops.square(mean), 0.0)
        return mean, ops.rsqrt(variance + self.epsilon)

    def _over_groups(self, moment):
        return ops.matmul(moment, self.same_group)

    def get_config(self):
        return {**super().get_config(), "max_groups": self.max_groups, "epsilon": self.epsilon}


def _per_channel(values, dtype):
    return ops.cast(values[:, None, None, :], dtype)


@register
class SelfAttention(keras.layers.Layer):
    """Self-attention over all places of a feature map, added to it; `[B, H, W, C]` to the same.

    Args:
        head_size: channels of a head; there are `max(1, C // head_size)` heads.

    Reference: Ho et al., 2020, appendix B; heads of 64 channels: Dhariwal and Nichol, 2021, section 3.
    """

    def __init__(self, head_size=64, **kwargs):
        super().__init__(**kwargs)
        self.head_size = head_size
        self.norm = GroupNorm(dtype=self.dtype_policy)

    def build(self, input_shape):
        channels = input_shape[-1]
        self.heads = max(1, channels // self.head_size)
        if channels % self.heads:
            raise ValueError(f"{channels} channels cannot be split into {self.heads} attention heads")
        self.norm.build(input_shape)
        self.query_key_value = keras.layers.Dense(3 * channels, dtype=self.dtype_policy)
        self.query_key_value.build(input_shape)
        self.output_dense = keras.layers.Dense(channels, kernel_initializer="zeros", dtype=self.dtype_policy)
        self.output_dense.build(input_shape)
        self.built = True

    def call(self, x):
        height, width, channels = x.shape[1:]
        joined = self.query_key_value(self.norm(x))
        joined = ops.reshape(joined, (-1, height * width, 3 * self.heads, channels // self.heads))
        query, key, value = ops.split(joined, 3, axis=2)
        attended = ops.dot_product_attention(query, key, value)
        return x + self.output_dense(ops.reshape(attended, (-1, height, width, channels)))

    def get_config(self):
        return {**super().get_config(), "head_size": self.head_size}


@register
class ResBlock(keras.layers.Layer):
    """`x + conv(dropout(silu(norm(conv(silu(norm(x))), embedding))))`, then self-attention if wanted.

    Where the channels change, x goes through a 1x1 convolution.

    Args:
        channels: of the output.
        dropout: rate of the dropout before the second convolution.
        attention: whether `SelfAttention` follows.

    Call arguments:
        x: `[B, H, W, C]`.
        embedding: `[B, E]`, what the block is conditioned on; it modulates the second normalisation.
        training, seed: see `Dropout`.
    """

    def __init__(self, channels, dropout=0.0, attention=False, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.dropout_rate = dropout
        dtype = self.dtype_policy
        self.norm_in = GroupNorm(dtype=dtype)
        self.conv_in = keras.layers.Conv2D(channels, 3, padding="same", dtype=dtype)
        self.modulation = keras.layers.Dense(2 * channels, dtype=dtype)
        self.norm_out = GroupNorm(dtype=dtype)
        self.dropout = Dropout(dropout, dtype=dtype)
        self.conv_out = keras.layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros", dtype=dtype)
        self.projection = None
        self.attention = SelfAttention(dtype=dtype) if attention else None

    def build(self, x_shape, embedding_shape):
        inner_shape = (*x_shape[:-1], self.channels)
        self.norm_in.build(x_shape)
        self.conv_in.build(x_shape)
        self.modulation.build(embedding_shape)
        self.norm_out.build(inner_shape)
        self.dropout.build(inner_shape)
        self.conv_out.build(inner_shape)
        if x_shape[-1] != self.channels:
            self.projection = keras.layers.Conv2D(self.channels, 1, dtype=self.dtype_policy)
            self.projection.build(x_shape)
        if self.attention is not None:
            self.attention.build(inner_shape)
        self.built = True

    def call(self, x, embedding, training=False, seed=None):
        hidden = self.conv_in(ops.silu(self.norm_in(x)))
        hidden = ops.silu(self.norm_out(hidden, modulation=self.modulation(embedding)))
        hidden = self.conv_out(self.dropout(hidden, training=training, seed=seed))
        x = hidden + (x if self.projection is None else self.projection(x))
        return x if self.attention is None else self.attention(x)

    def compute_output_shape(self, x_shape, embedding_shape):
        return (*x_shape[:-1], self.channels)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "dropout": self.dropout_rate,
            "attention": self.attention is not None,
        }


@register
class TimeEmbedding(_Float32Layer):
    """Sinusoids of `1000 t`, `[B]` to `[B, size]`, float32 whatever the policy (bfloat16 cannot tell times apart).

    Args:
        size: even number of features.

    Reference: Vaswani et al., 2017, section 3.5; Ho et al., 2020, appendix B.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        if size % 2:
            raise ValueError(f"The size of a time embedding must be even. Received: {size}")
        self.size = size

    def build(self, input_shape):
        self.built = True

    def call(self, t):
        half = self.size // 2
        frequencies = ops.exp(-math.log(10000.0) * ops.arange(half, dtype="float32") / half)
        angles = 1000.0 * t[:, None] * frequencies[None, :]
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def get_config(self):
        return {**super().get_config(), "size": self.size}
