"""Decoded pictures kept in memory: NumPy writes them, and TensorFlow reads them where they are."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Bytes: what TensorFlow asks of memory that is not its own.
_ALIGNMENT = 64
# So much of the pictures must be there for reading them to be copying, for the most part.
_MOST = 0.9


def empty_pixels(shape: Sequence[int]) -> np.ndarray:
    """Like `np.empty` of uint8, at a place in memory that `KeptPixels` can use; it is taken up as it is written to.

    Example:
        >>> empty_pixels((10, 8, 8, 1)).shape
        (10, 8, 8, 1)
    """
    size = math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].reshape(shape)


class KeptPixels:
    """Pictures in memory, all there from the start or put there one by one, which TensorFlow reads without Python.

    Args:
        pixels: uint8 `[N, H, W, C]`; copied unless it is from `empty_pixels`.
        complete: whether all are there.

    Attributes:
        pixels: uint8 `[N, H, W, C]`, those that are there and whatever stands at the other places.

    Example:
        >>> kept = KeptPixels(empty_pixels((5, 8, 8, 1)), complete=False)
        >>> kept.put(3, np.full((8, 8, 1), 7))
        >>> bool(kept.has(tf.constant([3]))), bool(kept.has(tf.constant([2, 3])))
        (True, False)
        >>> int(kept.gather(tf.constant([3]))[0, 0, 0, 0])
        7
    """

    def __init__(self, pixels: np.ndarray, complete: bool = True) -> None:
        self.pixels = _in_place(pixels)
        self._is_there = _in_place(np.full(len(pixels), complete, np.uint8))

    def put(self, index: int, picture: np.ndarray) -> None:
        """Keeps a picture; from several threads at once, if need be."""
        self.pixels[index] = picture
        self._is_there[index] = True

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Those of the indices whose pictures are not there."""
        return indices[self._is_there[indices] == 0]

    def has(self, indices: Any) -> tf.Tensor:
        """Whether the pictures at all of the indices are there, bool; like the next two, of the moment it is run at."""
        return tf.reduce_all(tf.gather(self._flags.read_value(), indices) > 0)

    def has_most(self) -> tf.Tensor:
        """Whether nine in ten pictures are there, or more."""
        return tf.reduce_mean(tf.cast(self._flags.read_value(), tf.float32)) >= _MOST

    def gather(self, indices: Any) -> tf.Tensor:
        """The pictures at indices `[B]`, which must be there: uint8 `[B, H, W, C]`."""
        # A gather from the variable itself would first make a copy of all of it.
        return tf.gather(self._table.read_value(), indices)

    # Made when they are first needed: until then TensorFlow's devices may be chosen.
    @functools.cached_property
    def _table(self):
        return _variable(self.pixels)

    @functools.cached_property
    def _flags(self):
        return _variable(self._is_there)


def _in_place(array):
    if array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable:
        return array
    copy = empty_pixels(array.shape)
    copy[...] = array
    return copy


def _variable(array):
    """A variable whose memory is the array's."""
    # Not a constant: each dataset that reads a constant has a copy of it in its graph.
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.Variable(tf.experimental.dlpack.from_dlpack(array.__dlpack__()), trainable=False)
