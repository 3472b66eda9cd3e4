"""Data sources: every one ends as an `Images`, pictures of one shape that are read by index."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from tf_blurdiff.data.folder import Decoder, FileNames
from tf_blurdiff.data.kept import KeptPixels
from tf_blurdiff.data.pictures import DataError, fit
from tf_blurdiff.data.tfds import read_tfds

_GIGABYTE = 10**9
_SPLIT = re.compile(r"train(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?", re.ASCII)


class Images:
    """Pictures of one shape, read by index; made by `open_images`.

    Args:
        fetch: maps int64 indices `[B]` to uint8 `[B, H, W, C]`, both NumPy; from several threads at once.
        num_images: how many.
        image_shape: (H, W, C).
        labels: int64 `[num_images]`, or None.
        num_classes: number of labels, or None without labels.
        kept: where decoded pictures are in memory; `fetch` is called for those that are not there, and may put them
            there. None if none are kept.

    Attributes:
        num_images, image_shape, labels, num_classes: the arguments.
    """

    def __init__(
        self,
        fetch: Callable[[np.ndarray], np.ndarray],
        num_images: int,
        image_shape: Sequence[int],
        labels: np.ndarray | None = None,
        num_classes: int | None = None,
        kept: KeptPixels | None = None,
    ) -> None:
        self._fetch, self._kept = fetch, kept
        self._failure: DataError | None = None
        self.num_images = num_images
        self.image_shape = tuple(image_shape)
        self.labels = labels
        self.num_classes = num_classes

    def read(self, indices: Any) -> tf.Tensor:
        """Reads uint8 `[B, H, W, C]` at int64 indices `[B]`; eager or inside a tf.data graph of this process."""
        kept = self._kept
        with tf.device("CPU:0"):
            if kept is None:
                pixels = self._fetched(indices)
            else:
                pixels = tf.cond(kept.has(indices), lambda: kept.gather(indices), lambda: self._fetched(indices))
        return tf.ensure_shape(pixels, (indices.shape[0], *self.image_shape))

    def are_in_memory(self) -> tf.Tensor:
        """Whether reading is copying, for nine in ten pictures or more: bool, of the moment it is run at."""
        return tf.constant(False) if self._kept is None else self._kept.has_most()

    def read_labels(self, indices: Any) -> tf.Tensor:
        """Reads int64 `[B]` at int64 indices `[B]`; there must be labels."""
        return tf.gather(tf.constant(self.labels, tf.int64), indices)

    def batches(
        self, batch_size: int, indices: Any = None, labels: bool = False, shuffle_seed: int | None = None
    ) -> tf.data.Dataset:
        """Images, each once.

        Args:
            batch_size: of every batch but the last, which has what is left.
            indices: which, in their order, int64 `[N]`; None for all, in the data set's order.
            labels: whether to yield `(images, labels)`.
            shuffle_seed: of an order that is another in every pass; None keeps the order of the indices.

        Returns:
            tf.data.Dataset of uint8 `[B, H, W, C]`, or of pairs with int64 `[B]`.

        Raises:
            DataError: if labels are asked for and there are none.

        Example:
            >>> digits = open_images("digits", image_size=8, channels=1)
            >>> [len(images) for images in digits.batches(64, digits.evenly_spaced(100))]
            [64, 36]
        """
        self.check_labels(labels)
        indices = np.arange(self.num_images) if indices is None else indices
        rows = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
        if shuffle_seed is not None:
            rows = rows.shuffle(len(rows), seed=shuffle_seed)

        def load(row):
            return (self.read(row), self.read_labels(row)) if labels else self.read(row)

        loaded = rows.batch(batch_size).map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return loaded.prefetch(tf.data.AUTOTUNE)

    def evenly_spaced(self, count: int) -> np.ndarray:
        """The indices of so many images, evenly spaced over the data set, rising; of all if there are no more.

        Example:
            >>> open_images("digits", image_size=8, channels=1).evenly_spaced(4)
            array([   0,  449,  898, 1347])
        """
        count = min(count, self.num_images)
        return np.arange(count, dtype=np.int64) * self.num_images // count

    def check_labels(self, wanted: bool) -> None:
        """Raises DataError if labels are wanted and there are none."""
        if wanted and self.labels is None:
            raise DataError("labels: got True, expected False, since the data set has none")

    @contextlib.contextmanager
    def plain_errors(self) -> Iterator[None]:
        """Inside it, images that cannot be read raise the DataError, in place of TensorFlow's error that quotes it."""
        try:
            yield
        except tf.errors.OpError:
            if self._failure is None:
                raise
            raise self._failure from None
        finally:
            self._failure = None

    def _fetched(self, indices):
        return tf.numpy_function(self._fetch_noting_failure, [indices], tf.uint8, stateful=False)

    def _fetch_noting_failure(self, indices):
        try:
            return self._fetch(indices)
        except DataError as error:
            self._failure = error
            raise


def open_images(
    source: str,
    image_size: int | Sequence[int],
    channels: int,
    name: str | None = None,
    split: str = "train",
    root: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = 2.0,
    max_corrupt: int = 100,
) -> Images:
    """Opens a data set; each image is cut to its largest centred part of the wanted form, then resized.

    Args:
        source: "digits" (1,797 8x8 digits that come with scikit-learn), "tfds" or "image_folder".
        image_size: height and width, or [height, width].
        channels: 1 (grey) or 3 (colour).
        name: of the TFDS data set, such as "cifar10".
        split: of the TFDS data set or the digits, such as "train" or "train[:90%]"; a folder has "train" only.
        root: the folder of images, searched recursively; for TFDS its data_dir, None for its default.
        cache_dir: where decoded TFDS images over `cache_gb` are kept; None is ~/.cache/tf_blurdiff.
        cache_gb: images that decoded take up so many GB (10^9 bytes) or less are kept in memory. A larger folder is
            decoded every epoch.
        max_corrupt: so many files of a folder may be unreadable. Each is named on stderr when it is met, and the next
            readable file is used in its place.

    Returns:
        `Images`. Reading from a folder with more unreadable files, or with no other, is a DataError.

    Raises:
        DataError: if the data cannot be found, or an argument is out of range.

    Example:
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> digits.num_images, digits.image_shape, digits.num_classes
        (1797, (8, 8, 1), 10)
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"image_size: got {image_size}, expected an integer >= 1 or [height, width]")
    if channels not in (1, 3):
        raise DataError(f"channels: got {channels}, expected 1 or 3")
    if not cache_gb >= 0:
        raise DataError(f"cache_gb: got {cache_gb}, expected a number >= 0")
    if max_corrupt < 0:
        raise DataError(f"max_corrupt: got {max_corrupt}, expected an integer >= 0")
    if source == "image_folder" and split != "train":
        raise DataError(f"split: got {split!r}, expected 'train', the only split of {source}")
    image_shape = (*size, channels)
    if source == "digits":
        return _open_digits(image_shape, split)
    if source == "image_folder":
        return _open_folder(root, image_shape, cache_gb * _GIGABYTE, max_corrupt)
    if source == "tfds":
        return in_memory(*read_tfds(name, split, root, image_shape, cache_dir, cache_gb * _GIGABYTE))
    raise DataError(f"source: got {source!r}, expected one of digits, image_folder, tfds")


def in_memory(pixels: np.ndarray, labels: np.ndarray | None = None, num_classes: int | None = None) -> Images:
    """The `Images` of an array, uint8 `[N, H, W, C]`, with int64 `[N]` labels or none.

    An array that is neither of `kept.empty_pixels` nor mapped from a file is copied.
    """
    kept = None if isinstance(pixels, np.memmap) else KeptPixels(pixels)
    pixels = pixels if kept is None else kept.pixels
    return Images(lambda indices: pixels[indices], len(pixels), pixels.shape[1:], labels, num_classes, kept)


def _slice_of(split, count):
    """The slice of `count` images that a split names, as TFDS writes it."""
    match = _SPLIT.fullmatch(split)
    if match:
        part = slice(*(_bound(text, count) for text in match.group("start", "stop")))
        if range(count)[part]:
            return part
    raise DataError(f"split: got {split!r}, expected train, or a slice that is not empty, such as 'train[:90%]'")


def _bound(text, count):
    if not text:
        return None
    return round(count * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def _open_digits(image_shape, split):
    from sklearn.datasets import load_digits

    if image_shape[-1] != 1:
        raise DataError(f"channels: got {image_shape[-1]}, expected 1 for digits")
    digits = load_digits()
    part = _slice_of(split, len(digits.target))
    # The values are 0 to 16.
    pixels = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
    pixels = np.stack([fit(Image.fromarray(picture), image_shape) for picture in pixels])
    return in_memory(pixels, digits.target[part].astype(np.int64), num_classes=10)


def _open_folder(root, image_shape, memory_limit, max_corrupt):
    names = FileNames(root)
    keep = len(names) * math.prod(image_shape) <= memory_limit
    decoder = Decoder(names, image_shape, keep, max_corrupt)
    return Images(decoder, len(names), image_shape, kept=decoder.kept)
