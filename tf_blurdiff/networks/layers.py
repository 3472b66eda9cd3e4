"""Keras layers: the DCT and the blur, and the U-Net's blocks."""

import math
from typing import Any, TypedDict, Unpack

import keras
import numpy as np
from keras import ops

from tf_blurdiff.diffusion.dct import dct2, idct2, laplacian_eigenvalues
from tf_blurdiff.diffusion.stateless_random import uniform_rows
from tf_blurdiff.networks.group_norm import group_norm, number_of_groups

register = keras.saving.register_keras_serializable("tf_blurdiff")


class LayerArguments(TypedDict, total=False):
    """What every layer and model of Keras takes beside arguments of its own."""

    name: str | None
    dtype: Any
    trainable: bool
    autocast: bool
    activity_regularizer: Any


def attend(query: Any, key: Any, value: Any) -> Any:
    """`softmax(query key^T / sqrt(D)) value`, `[B, N, D]` each and the result.

    Reference: Vaswani et al., Attention Is All You Need, 2017, equation 1.
    """
    scores = ops.matmul(query * query.shape[-1] ** -0.5, ops.transpose(key, (0, 2, 1)))
    return ops.matmul(ops.softmax(scores), value)


class _Float32Layer(keras.layers.Layer):
    # tf.signal.dct takes float32 only; under a mixed policy these layers keep computing in it.
    def __init__(self, **kwargs: Unpack[LayerArguments]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})


@register
class DCT2D(_Float32Layer):
    """`dct2` as a layer: images `[B, H, W, C]` to DCT coefficients, float32.

    Example:
        >>> import tf_blurdiff as bd
        >>> bd.layers.DCT2D()(np.ones((2, 8, 8, 3))).shape
        TensorShape([2, 8, 8, 3])
    """

    def call(self, x: Any) -> Any:
        return dct2(x)


@register
class IDCT2D(_Float32Layer):
    """`idct2` as a layer: DCT coefficients `[B, H, W, C]` to images, float32."""

    def call(self, freq: Any) -> Any:
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

    def call(self, inputs: Any) -> Any:
        x, blur_sigma = inputs
        dissipation_time = 0.5 * ops.square(ops.reshape(blur_sigma, (-1, 1, 1, 1)))
        eigenvalues = laplacian_eigenvalues(*x.shape[1:3])[None, :, :, None]
        return idct2(ops.exp(-eigenvalues * dissipation_time) * dct2(x))

    def compute_output_shape(self, input_shape: Any) -> tuple:
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

    def __init__(self, rate: float, **kwargs: Unpack[LayerArguments]) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"The dropout rate must be in [0, 1). Received: {rate}")
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, x: Any, training: bool = False, seed: Any = None) -> Any:
        if not training or self.rate == 0.0:
            return x
        seed = self.seed_generator.next() if seed is None else seed
        kept = uniform_rows(ops.cast(seed, "int64"), (ops.shape(x)[0], *x.shape[1:])) >= self.rate
        return ops.where(kept, x / (1.0 - self.rate), ops.zeros_like(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


@register
class GroupNorm(keras.layers.Layer):
    """Group normalisation with an optional modulation per example and an optional activation.

    `y = norm(x) * gamma * (1 + scale) + beta * (1 + scale) + shift`, then `y * sigmoid(y)` if wanted. Statistics are
    float32 whatever the policy.

    Args:
        max_groups: the number of groups is the largest divisor of this and of the channels that leaves a group 4
            channels or more. Alone, a channel would lose its mean, and a bias before it would have no gradient.
        epsilon: added to the variance.
        activation: "silu" or None.

    Call arguments:
        x: `[B, H, W, C]`.
        modulation: None, or `[B, 2 C]`: scale and shift, one after the other.

    Reference: Wu and He, Group Normalization, 2018; 4 channels: Karras et al., Elucidating the Design Space of
    Diffusion-Based Generative Models, 2022; the modulation: Dhariwal and Nichol, 2021, section 3.
    """

    def __init__(
        self,
        max_groups: int = 32,
        epsilon: float = 1e-5,
        activation: str | None = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(**kwargs)
        if activation not in (None, "silu"):
            raise ValueError(f"activation must be 'silu' or None. Received: {activation!r}")
        self.max_groups = max_groups
        self.epsilon = epsilon
        self.activation = activation

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        self.groups = number_of_groups(channels, self.max_groups)
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer="zeros", autocast=False)
        self.built = True

    def call(self, x: Any, modulation: Any = None) -> Any:
        per_example = (ops.shape(x)[0], x.shape[-1])
        scale, shift = (ops.broadcast_to(weight, per_example) for weight in (self.gamma, self.beta))
        if modulation is not None:
            extra_scale, extra_shift = ops.split(ops.cast(modulation, "float32"), 2, axis=-1)
            scale, shift = scale * (1.0 + extra_scale), shift * (1.0 + extra_scale) + extra_shift
        return group_norm(x, scale, shift, self.groups, self.epsilon, silu=self.activation == "silu")

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_groups": self.max_groups,
            "epsilon": self.epsilon,
            "activation": self.activation,
        }


@register
class SelfAttention(keras.layers.Layer):
    """Self-attention over all places of a feature map, added to it; `[B, H, W, C]` to the same.

    Args:
        head_size: channels of a head, at least; there are as many heads as C can then be divided into, or one.

    Reference: Ho et al., 2020, appendix B; heads of 64 channels: Dhariwal and Nichol, 2021, section 3.
    """

    def __init__(self, head_size: int = 64, **kwargs: Unpack[LayerArguments]) -> None:
        super().__init__(**kwargs)
        self.head_size = head_size
        self.norm = GroupNorm(dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        most = max(1, channels // self.head_size)
        self.heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
        self.norm.build(input_shape)
        self.query_key_value = keras.layers.Dense(3 * channels, dtype=self.dtype_policy)
        self.query_key_value.build(input_shape)
        self.output_dense = keras.layers.Dense(channels, kernel_initializer="zeros", dtype=self.dtype_policy)
        self.output_dense.build(input_shape)
        self.built = True

    def call(self, x: Any) -> Any:
        height, width, channels = x.shape[1:]
        # Matrices, so that the products add their biases themselves.
        joined = self.query_key_value(ops.reshape(self.norm(x), (-1, channels)))
        # A head at a time: its products need no transpose, which would cost more than they do.
        parts = ops.split(ops.reshape(joined, (-1, height * width, 3 * channels)), 3 * self.heads, axis=-1)
        attended = [attend(*parts[head :: self.heads]) for head in range(self.heads)]
        attended = self.output_dense(ops.reshape(ops.concatenate(attended, axis=-1), (-1, channels)))
        return x + ops.reshape(attended, (-1, height, width, channels))

    def get_config(self) -> dict[str, Any]:
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

    def __init__(
        self, channels: int, dropout: float = 0.0, attention: bool = False, **kwargs: Unpack[LayerArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.dropout_rate = dropout
        dtype = self.dtype_policy
        # Said here: Keras's global setting may be another.
        convolution = {"data_format": "channels_last", "dtype": dtype}
        self.norm_in = GroupNorm(activation="silu", dtype=dtype)
        self.conv_in = keras.layers.Conv2D(channels, 3, padding="same", **convolution)
        self.modulation = keras.layers.Dense(2 * channels, dtype=dtype)
        self.norm_out = GroupNorm(activation="silu", dtype=dtype)
        self.dropout = Dropout(dropout, dtype=dtype)
        self.conv_out = keras.layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros", **convolution)
        self.projection: keras.layers.Conv2D | None = None
        self.attention = SelfAttention(dtype=dtype) if attention else None

    def build(self, x_shape: Any, embedding_shape: Any) -> None:
        inner_shape = (*x_shape[:-1], self.channels)
        self.norm_in.build(x_shape)
        self.conv_in.build(x_shape)
        self.modulation.build(embedding_shape)
        self.norm_out.build(inner_shape)
        self.dropout.build(inner_shape)
        self.conv_out.build(inner_shape)
        if x_shape[-1] != self.channels:
            self.projection = keras.layers.Conv2D(
                self.channels, 1, data_format="channels_last", dtype=self.dtype_policy
            )
            self.projection.build(x_shape)
        if self.attention is not None:
            self.attention.build(inner_shape)
        self.built = True

    def call(self, x: Any, embedding: Any, training: bool = False, seed: Any = None) -> Any:
        hidden = self.conv_in(self.norm_in(x))
        hidden = self.norm_out(hidden, modulation=self.modulation(embedding))
        hidden = self.conv_out(self.dropout(hidden, training=training, seed=seed))
        x = hidden + (x if self.projection is None else self.projection(x))
        return x if self.attention is None else self.attention(x)

    def compute_output_shape(self, x_shape: Any, embedding_shape: Any) -> tuple:
        return (*x_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.channels,
            "dropout": self.dropout_rate,
            "attention": self.attention is not None,
        }


@register
class UpsampleConv(keras.layers.Layer):
    """Doubles height and width by repeating each pixel, then a 3x3 convolution with zeros around the picture.

    Of the nine values that a kernel meets, at most four differ. So the kernel is summed to a 4x4 one, whose transposed
    convolution with stride 2 gives the same in 16 / 36 of the operations and without the enlarged picture.

    Args:
        channels: of the output.

    Call arguments:
        x: `[B, H, W, C]`; the result is `[B, 2 H, 2 W, channels]`.

    Reference: on convolutions of resized pictures as others of the small one, Aitken et al., Checkerboard artifact free
    sub-pixel convolution, 2017.
    """

    # Along one axis, the place d of the large kernel sees the small one's places where this is 1.
    _SUMS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], "float32")

    def __init__(self, channels: int, **kwargs: Unpack[LayerArguments]) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape: Any) -> None:
        shape = (3, 3, input_shape[-1], self.channels)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="glorot_uniform", autocast=False)
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")
        self.built = True

    def call(self, x: Any) -> Any:
        channels = x.shape[-1]
        kernel = ops.matmul(np.kron(self._SUMS, self._SUMS), ops.reshape(self.kernel, (9, -1)))
        kernel = ops.transpose(ops.reshape(kernel, (4, 4, channels, self.channels)), (0, 1, 3, 2))
        kernel = ops.cast(kernel, x.dtype)
        return ops.conv_transpose(x, kernel, strides=2, padding="same", data_format="channels_last") + self.bias

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0], 2 * input_shape[1], 2 * input_shape[2], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


@register
class TimeEmbedding(_Float32Layer):
    """Sinusoids of `1000 t`, `[B]` to `[B, size]`, float32 whatever the policy (bfloat16 cannot tell times apart).

    Args:
        size: even number of features.

    Reference: Vaswani et al., 2017, section 3.5; Ho et al., 2020, appendix B.
    """

    def __init__(self, size: int, **kwargs: Unpack[LayerArguments]) -> None:
        super().__init__(**kwargs)
        if size % 2:
            raise ValueError(f"The size of a time embedding must be even. Received: {size}")
        self.size = size

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, t: Any) -> Any:
        half = self.size // 2
        frequencies = ops.exp(-math.log(10000.0) * ops.arange(half, dtype="float32") / half)
        angles = 1000.0 * t[:, None] * frequencies[None, :]
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
