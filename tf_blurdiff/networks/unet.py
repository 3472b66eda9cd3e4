"""The U-Net: a network of images, times and labels that knows nothing of diffusion."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import keras
import tensorflow as tf
from keras import ops

from tf_blurdiff.diffusion.stateless_random import fold
from tf_blurdiff.errors import UserError, check_count, is_number
from tf_blurdiff.networks.layers import GroupNorm, LayerArguments, ResBlock, TimeEmbedding, UpsampleConv, register


@register
class UNet(keras.Model):
    """A U-Net with time and optional label conditioning.

    Args:
        image_shape: (H, W, C). H and W must be divisible by `2 ** (len(multipliers) - 1)`.
        channels: width of the first level.
        multipliers: each level's width as a multiple of `channels`; from one level to the next the picture is halved.
        num_res_blocks: residual blocks of a level on the way down; on the way up there is one more.
        attention_resolutions: the heights at which self-attention follows every residual block; those that no level has
            say nothing. In the middle of the lowest level there is self-attention in any case.
        dropout: rate inside the residual blocks.
        num_classes: number of labels, or None for a network without labels. The label `num_classes` itself means that
            none is given: label dropout and classifier-free guidance use it.
        rematerialize: whether training keeps only what goes into each residual block, and computes what is inside it
            again for the gradient: less memory, more time, the same results.
        dtype: the policy of its arithmetic; unless given, Keras's global one if that keeps weights in float32, as the
            mixed ones do, else float32.

    Call arguments:
        inputs: `[z, t]` or, with num_classes, `[z, t, label]`: images `[B, H, W, C]`, times float `[B]` in [0, 1],
            labels int `[B]` in [0, num_classes].
        training: whether dropout is on.
        seed: integer `[2]` of which dropout is then a function; None takes the next of Keras's own seeds.

    Returns:
        float32 `[B, H, W, C]`; 0 everywhere before training, since the last convolution starts at zero.

    Raises:
        UserError: if the image cannot be halved that often, and for arguments that are not allowed.

    Example:
        >>> import tf_blurdiff as bd
        >>> network = bd.UNet(image_shape=(8, 12, 1), channels=8, multipliers=(1, 2), num_res_blocks=1)
        >>> network([np.zeros((2, 8, 12, 1)), np.array([0.1, 0.9])]).shape
        TensorShape([2, 8, 12, 1])

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, 2020, appendix B; rematerialisation: Chen et al.,
    Training Deep Nets with Sublinear Memory Cost, 2016.
    """

    built: bool

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (32, 32, 3),
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        num_classes: int | None = None,
        rematerialize: bool = False,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        # Times must not be cast to bfloat16 on the way in; every layer casts what it is given.
        super().__init__(**{"autocast": False, "dtype": _default_dtype(), **kwargs})
        self.image_shape = _checked_counts("image_shape", image_shape)
        check_count("channels", channels, 2)
        self.channels = channels
        self.multipliers = _checked_counts("multipliers", multipliers)
        check_count("num_res_blocks", num_res_blocks)
        self.num_res_blocks = num_res_blocks
        self.attention_resolutions = _checked_counts("attention_resolutions", attention_resolutions)
        if not is_number(dropout) or not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must be in [0, 1). Received: {dropout!r}")
        self.dropout = dropout
        if num_classes is not None:
            check_count("num_classes", num_classes)
        self.num_classes = None if num_classes is None else int(num_classes)
        self.rematerialize = rematerialize
        self.seed_generator = keras.random.SeedGenerator() if dropout and rematerialize else None
        self._check_image_can_be_halved()
        self._make_embeddings()
        self._make_blocks()

    def build(self, input_shape: Any = None) -> None:
        """Builds every sublayer; the shapes follow from image_shape. No call is traced for it, which takes seconds."""
        if self.built:
            return
        embedding_shape = (None, 4 * self.channels)
        self.time_embedding.build((None,))
        self.time_dense_in.build((None, self.channels))
        self.time_dense_out.build(embedding_shape)
        if self.num_classes is not None:
            self.label_embedding.build((None,))

        def built(layer, shape):
            shapes = (shape, embedding_shape) if _takes_embedding(layer) else (shape,)
            layer.build(*shapes)
            return layer.compute_output_shape(*shapes)

        self._through(built, lambda x, skip: (*x[:3], x[3] + skip[3]), (None, *self.image_shape))
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool = False, seed: Any = None) -> Any:
        z, *conditions = inputs
        if seed is None and training and self.seed_generator is not None:
            # Dropout that is computed again must drop the same values.
            seed = ops.cast(self.seed_generator.next(), "int64")
        embedding, seeds = self._embed(*conditions), _block_seeds(seed)

        def called(layer: Any, x: Any) -> Any:
            if not _takes_embedding(layer):
                return layer(x)
            call = functools.partial(layer, training=training, seed=next(seeds))
            return (tf.recompute_grad(call) if training and self.rematerialize else call)(x, embedding)

        return self._through(called, lambda x, skip: ops.concatenate([x, skip], axis=-1), z)

    def _through(self, apply, join, x):
        """The way of x through all layers, each by `apply(layer, x)`; of pictures, or of their shapes."""
        down, down_convs = iter(self.down_blocks), iter(self.down_convs)
        x = apply(self.conv_in, x)
        skips = [x]
        for level in range(len(self.multipliers)):
            if level:
                x = apply(next(down_convs), x)
                skips.append(x)
            for _ in range(self.num_res_blocks):
                x = apply(next(down), x)
                skips.append(x)
        for block in self.middle_blocks:
            x = apply(block, x)
        up, up_convs = iter(self.up_blocks), iter(self.up_convs)
        for level in reversed(range(len(self.multipliers))):
            for _ in range(self.num_res_blocks + 1):
                x = apply(next(up), join(x, skips.pop()))
            if level:
                x = apply(next(up_convs), x)
        return apply(self.conv_out, apply(self.norm_out, x))

    def _embed(self, t, label=None):
        embedding = self.time_dense_out(self.time_dense_in(self.time_embedding(t)))
        if self.num_classes is not None:
            if label is None:
                raise ValueError("A network with num_classes is called with [z, t, label]. Received: no label")
            embedding = embedding + self.label_embedding(label)
        return ops.silu(embedding)

    def _make_embeddings(self):
        dtype, width = self.dtype_policy, 4 * self.channels
        self.time_embedding = TimeEmbedding(self.channels)
        self.time_dense_in = keras.layers.Dense(width, activation="silu", dtype=dtype)
        self.time_dense_out = keras.layers.Dense(width, dtype=dtype)
        if self.num_classes is not None:
            self.label_embedding = keras.layers.Embedding(self.num_classes + 1, width, dtype=dtype)

    def _make_blocks(self):
        dtype = self.dtype_policy
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        levels = range(len(widths))

        def block(level, attention):
            return ResBlock(widths[level], dropout=self.dropout, attention=attention, dtype=dtype)

        def blocks(level, count):
            attention = self.image_shape[0] // 2**level in self.attention_resolutions
            return [block(level, attention) for _ in range(count)]

        def conv(channels, **kwargs):
            given = {"padding": "same", "data_format": "channels_last", "dtype": dtype, **kwargs}
            return keras.layers.Conv2D(channels, 3, **given)

        self.conv_in = conv(self.channels)
        self.down_blocks = [b for level in levels for b in blocks(level, self.num_res_blocks)]
        self.down_convs = [conv(widths[level], strides=2) for level in levels[:-1]]
        self.middle_blocks = [block(levels[-1], attention=True), block(levels[-1], attention=False)]
        self.up_blocks = [b for level in reversed(levels) for b in blocks(level, self.num_res_blocks + 1)]
        self.up_convs = [UpsampleConv(widths[level], dtype=dtype) for level in reversed(levels[1:])]
        self.norm_out = GroupNorm(activation="silu", dtype=dtype)
        self.conv_out = conv(self.image_shape[-1], kernel_initializer="zeros", dtype="float32")

    def _check_image_can_be_halved(self):
        if not self.multipliers:
            raise UserError("multipliers must be one or more. Received: none")
        factor = 2 ** (len(self.multipliers) - 1)
        if len(self.image_shape) != 3 or any(size % factor for size in self.image_shape[:2]):
            raise UserError(
                f"image_shape must be (H, W, C) with H and W divisible by {factor}, since {len(self.multipliers)} "
                f"multipliers halve the picture {len(self.multipliers) - 1} times. Received: {self.image_shape}"
            )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "channels": self.channels,
            "multipliers": self.multipliers,
            "num_res_blocks": self.num_res_blocks,
            "attention_resolutions": self.attention_resolutions,
            "dropout": self.dropout,
            "num_classes": self.num_classes,
            "rematerialize": self.rematerialize,
        }


def _default_dtype():
    """Keras's global policy if it keeps weights in float32, such as a mixed one; never its floatx alone."""
    policy = keras.config.dtype_policy()
    return policy if policy.variable_dtype == "float32" else "float32"


def _checked_counts(name, values):
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"{name} must be a list of integers. Received: {values!r}")
    values = tuple(values)
    for value in values:
        check_count(f"each of {name}", value)
    return values


def _takes_embedding(layer):
    return isinstance(layer, ResBlock)


def _block_seeds(seed):
    block = 0
    while True:
        yield None if seed is None else fold(seed, block)
        block += 1
