"""The only place where pixels become numbers in [-1, 1] and back."""

from typing import Any

import tensorflow as tf


def to_unit_range(pixels: Any) -> tf.Tensor:
    """Maps uint8 pixels to float32 in [-1, 1]; any shape."""
    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def to_uint8(x: Any) -> tf.Tensor:
    """Maps floats in [-1, 1] to uint8 pixels, rounded; values outside are clipped. Any shape.

    Example:
        >>> to_uint8(to_unit_range([0, 200, 255])).numpy().tolist()
        [0, 200, 255]
    """
    return tf.cast(tf.round(tf.clip_by_value(127.5 * (tf.cast(x, tf.float32) + 1.0), 0.0, 255.0)), tf.uint8)
