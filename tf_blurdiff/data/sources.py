"""Data sources, batches of images, and the only place where pixels become numbers in [-1, 1] and back.

Every source ends as an `Images`: pictures of one shape, read by index. The order of training, random flips included, is
then a function of (seed, step), so a run can continue at any step without repeating the steps before it.
"""

import math
import re
import time

import numpy as np
import tensorflow as tf
from PIL import Image

from tf_blurdiff.data.folder import Decoder, FileNames
from tf_blurdiff.data.image_files import DataError, fit
from tf_blurdiff.data.tfds import read_tfds
from tf_blurdiff.diffusion.stateless_random import fold

# Two sequences of random numbers from one seed.
_ORDER, _FLIPS = range(2)
_READ_AT_ONCE = 64
_GIGABYTE = 10**9
_SPLIT = re.compile(r"train(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?", re.ASCII)


def to_unit_range(pixels):
    """Maps uint8 pixels to float32 in [-1, 1]; any shape."""
    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def to_uint8(x):
    """Maps floats in [-1, 1] to uint8 pixels, rounded; values outside are clipped. Any shape.

    Example:
        >>> to_uint8(to_unit_range([0, 200, 255])).numpy().tolist()
        [0, 200, 255]
    """
    return tf.cast(tf.round(tf.clip_by_value(127.5 * (tf.cast(x, tf.float32) + 1.0), 0.0, 255.0)), tf.uint8)


class Images:
    """Pictures of one shape, read by index; made by `open_images`.

    Attributes:
        num_images: how many.
        image_shape: (H, W, C).
        num_classes: number of labels, or None without labels.
        labels: int64 `[num_images]`, or None.
    """

    def __init__(self, fetch, num_images, image_shape, labels=None, num_classes=None):
        """`fetch` maps int64 indices `[B]` to uint8 `[B, H, W, C]`, both NumPy."""
        self._fetch = fetch
        self.num_images = num_images
        self.image_shape = tuple(image_shape)
        self.labels = labels
        self.num_classes = num_classes

    def read(self, indices):
        """Reads uint8 `[B, H, W, C]` at int64 indices `[B]`; eager or inside a tf.data graph of this process."""
        pixels = tf.numpy_function(self._fetch, [indices], tf.uint8, stateful=False)
        return tf.ensure_shape(pixels, (indices.shape[0], *self.image_shape))

    def read_labels(self, indices):
        """Reads int64 `[B]` at int64 indices `[B]`; there must be labels."""
        return tf.gather(tf.constant(self.labels, tf.int64), indices)

    def single_images(self, labels=False, limit=None):
        """Every image once, in the data set's order: a tf.data.Dataset of uint8 `[H, W, C]`.

        With `labels`, it is one of pairs with an int64 scalar. With a `limit` below num_images, it has only so many
        images, evenly spaced over the data set; the others are not read.
        """
        self.check_labels(labels)
        if limit is not None and limit < 1:
            raise DataError(f"limit: got {limit}, expected an integer >= 1 or None")
        count = min(limit or self.num_images, self.num_images)

        def load(places):
            indices = places * self.num_images // count
            return (self.read(indices), self.read_labels(indices)) if labels else self.read(indices)

        chunks = tf.data.Dataset.range(count).batch(_READ_AT_ONCE)
        singles = chunks.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
        return singles.apply(tf.data.experimental.assert_cardinality(count)).prefetch(_READ_AT_ONCE)

    def check_labels(self, wanted):
        """Raises DataError if labels are wanted and there are none."""
        if wanted and self.labels is None:
            raise DataError("labels: got True, expected False, since the data set has none")


def training_batches(
    images, batch_size, seed, start_step=0, flip=False, labels=False, replicas=range(1), num_replicas=1
):
    """Endless batches for training; batch k is a function of (seed, k) and of the data alone.

    Every epoch is a fresh shuffle, seeded by (seed, epoch), and leaves out the last `num_images % batch_size` of it.
    A worker of several reads its own rows alone: replica r has rows `[r * B, (r + 1) * B)` of the global batch, which
    is the same however many replicas share it.

    Args:
        images: an `Images`.
        batch_size: of the global batch, at most `images.num_images`.
        seed: integer.
        start_step: the first batch to give; the ones before it are not read.
        flip: whether to mirror images left to right at random.
        labels: whether to yield `(x, label)` instead of `x`.
        replicas: consecutive numbers of this worker's replicas.
        num_replicas: of all workers together; a divisor of batch_size.

    Returns:
        tf.data.Dataset of float32 `[B, H, W, C]` in [-1, 1], or of pairs with int64 `[B]`, where B is
        `batch_size / num_replicas`: for each step one element for each of `replicas`, in their order.

    Raises:
        DataError: if there are fewer images than batch_size, replicas cannot share it evenly, or labels are asked for
            and there are none.

    Example:
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> x = next(iter(training_batches(digits, batch_size=32, seed=0)))
        >>> x.shape
        TensorShape([32, 8, 8, 1])
    """
    if not 1 <= batch_size <= images.num_images:
        raise DataError(f"batch_size: got {batch_size}, expected 1 to {images.num_images}, the number of images")
    if batch_size % num_replicas:
        raise DataError(f"batch_size: got {batch_size}, expected a multiple of {num_replicas}, the number of replicas")
    images.check_labels(labels)
    rows = batch_size // num_replicas

    def load(step, replica, indices):
        pixels = images.read(tf.ensure_shape(indices, (rows,)))
        if flip:
            # The whole batch's are drawn, whoever needs them.
            drawn = tf.random.stateless_uniform((num_replicas, rows), fold([seed, _FLIPS], step), alg="philox")
            pixels = _mirrored(pixels, drawn[replica] < 0.5)
        return (pixels, images.read_labels(indices)) if labels else (pixels,)

    def finish(pixels, *label):
        return (to_unit_range(pixels), *label) if labels else to_unit_range(pixels)

    shares = _shares(images.num_images, batch_size, seed, start_step, replicas, num_replicas)
    batches = shares.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # Floats come last: they are four times as large, and would be so in every buffer.
    return batches.prefetch(tf.data.AUTOTUNE).map(finish)


def _mirrored(pixels, which):
    # Several times faster than tf.where and a slice with a negative step.
    both = tf.concat([pixels, tf.reverse(pixels, [2])], axis=0)
    return tf.gather(both, tf.range(len(pixels)) + tf.where(which, len(pixels), 0))


def _shares(num_images, batch_size, seed, start_step, replicas, num_replicas):
    """Endless `(step, replica, indices)` of the given replicas, from start_step on."""
    steps_per_epoch = num_images // batch_size
    first_epoch, skipped_steps = divmod(start_step, steps_per_epoch)
    first, own, rows = replicas[0], len(replicas), batch_size // num_replicas

    def epoch_indices(epoch):
        everything = tf.range(num_images, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(everything, fold([seed, _ORDER], epoch), alg="philox")
        batches = tf.reshape(order[: steps_per_epoch * batch_size], (steps_per_epoch, num_replicas, rows))
        return tf.data.Dataset.from_tensor_slices(tf.reshape(batches[:, first : first + own], (-1, rows)))

    indices = tf.data.Dataset.counter(first_epoch).flat_map(epoch_indices)
    indices = indices.enumerate(first_epoch * steps_per_epoch * own)
    # Skipped here, where an element is a row of indices and costs nothing.
    indices = indices.skip(skipped_steps * own)
    shares = indices.map(lambda count, row: (count // own, first + count % own, row))
    return shares.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def measure_throughput(dataset, images_per_element, seconds=1.0):
    """Images a second that a data set gives when nothing else is done with them.

    Reads from the data set's beginning, until so many seconds have passed or it ends. The first element is not counted.

    Args:
        dataset: tf.data.Dataset of two elements or more.
        images_per_element: how many images each of its elements has.
        seconds: how long to read.

    Raises:
        DataError: if the data set has only one element, or none.

    Example:
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> measure_throughput(training_batches(digits, batch_size=32, seed=0), images_per_element=32) > 0
        True
    """
    iterator = iter(dataset)
    next(iterator, None)
    started, elapsed, count = time.monotonic(), 0.0, 0
    for _ in iterator:
        count += 1
        elapsed = time.monotonic() - started
        if elapsed >= seconds:
            break
    if not count:
        raise DataError("dataset: got one with fewer than 2 elements, expected 2 or more")
    return count * images_per_element / elapsed


def open_images(
    source, image_size, channels, name=None, split="train", root=None, cache_dir=None, cache_gb=2.0, max_corrupt=100
):
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
        `Images`. Reading from a folder with more unreadable files, or with no other, raises DataError.

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
        return _in_memory(*read_tfds(name, split, root, image_shape, cache_dir, cache_gb * _GIGABYTE))
    raise DataError(f"source: got {source!r}, expected one of digits, image_folder, tfds")


def _in_memory(pixels, labels=None, num_classes=None):
    return Images(lambda indices: pixels[indices], len(pixels), pixels.shape[1:], labels, num_classes)


def _part(split, count):
    """The slice of `count` images that a split names, as TFDS writes it."""
    match = _SPLIT.fullmatch(split)
    if match:
        part = slice(*(_place(text, count) for text in match.group("start", "stop")))
        if range(count)[part]:
            return part
    raise DataError(f"split: got {split!r}, expected train, or a slice that is not empty, such as 'train[:90%]'")


def _place(text, count):
    if not text:
        return None
    return round(count * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def _open_digits(image_shape, split):
    from sklearn.datasets import load_digits

    if image_shape[-1] != 1:
        raise DataError(f"channels: got {image_shape[-1]}, expected 1 for digits")
    digits = load_digits()
    part = _part(split, len(digits.target))
    # The values are 0 to 16.
    pixels = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
    pixels = np.stack([fit(Image.fromarray(picture), image_shape) for picture in pixels])
    return _in_memory(pixels, digits.target[part].astype(np.int64), num_classes=10)


def _open_folder(root, image_shape, memory_limit, max_corrupt):
    names = FileNames(root)
    keep = len(names) * math.prod(image_shape) <= memory_limit
    return Images(Decoder(names, image_shape, keep, max_corrupt), len(names), image_shape)
