"""The only place where pixels become numbers in [-1, 1] and back."""

from typing import Any

import numpy as np
import tensorflow as tf

_NUMBERS = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)


def to_unit_range(pixels: Any) -> tf.Tensor:
    """Maps uint8 pixels to float32 in [-1, 1]; any shape. A pixel is the same number on any device, compiled or not."""
    # Looked up: a graph multiplies by the reciprocal where this divides, a compiler fuses, and each rounds differently.
    return tf.gather(tf.constant(_NUMBERS), tf.cast(pixels, tf.int32))


def to_uint8(x: Any) -> tf.Tensor:
    """Maps floats in [-1, 1] to uint8 pixels, rounded; values outside are clipped. Any shape.

    Example:
        >>> to_uint8(to_unit_range([0, 200, 255])).numpy().tolist()
        [0, 200, 255]
    """
    return tf.cast(tf.round(tf.clip_by_value(127.5 * (tf.cast(x, tf.float32) + 1.0), 0.0, 255.0)), tf.uint8)
