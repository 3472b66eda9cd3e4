"""Data sources, batches of images, and the only place where pixels become numbers in [-1, 1] and back.

Every source ends as an `Images`: pictures of one shape, read by index. The order of training, random flips included, is
then a function of (seed, step), so a run can continue at any step without repeating the steps before it.
"""

import difflib
import math
import os
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image
from tqdm import tqdm

from tf_blurdiff.image_files import DataError, Decoder, find_images, fit
from tf_blurdiff.stateless_random import fold

# What the papers and the configs call it, and what TFDS does.
_TFDS_ALIASES = {"lsun/church": "lsun/church_outdoor"}
# Two sequences of random numbers from one seed.
_ORDER, _FLIPS = range(2)
_READ_AT_ONCE = 64


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

    def single_images(self, labels=False):
        """Every image once, in the data set's order: a tf.data.Dataset of uint8 `[H, W, C]`.

        With `labels`, it is one of pairs with an int64 scalar.
        """
        self.check_labels(labels)
        load = (lambda i: (self.read(i), self.read_labels(i))) if labels else self.read
        chunks = tf.data.Dataset.range(self.num_images).batch(_READ_AT_ONCE)
        singles = chunks.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
        return singles.apply(tf.data.experimental.assert_cardinality(self.num_images)).prefetch(_READ_AT_ONCE)

    def check_labels(self, wanted):
        """Raises DataError if labels are wanted and there are none."""
        if wanted and self.labels is None:
            raise DataError("labels: got True, expected False, since the data set has none")


def training_batches(images, batch_size, seed, start_step=0, flip=False, labels=False):
    """Endless batches for training; batch k is a function of (seed, k) and of the data alone.

    Every epoch is a fresh shuffle, seeded by (seed, epoch), and leaves out the last `num_images % batch_size` of it.

    Args:
        images: an `Images`.
        batch_size: of the global batch, at most `images.num_images`.
        seed: integer.
        start_step: the first batch to give; the ones before it are not read.
        flip: whether to mirror images left to right at random.
        labels: whether to yield `(x, label)` instead of `x`.

    Returns:
        tf.data.Dataset of float32 `[B, H, W, C]` in [-1, 1], or of pairs with int64 `[B]`.

    Raises:
        DataError: if there are fewer images than batch_size, or labels are asked for and there are none.

    Example:
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> x = next(iter(training_batches(digits, batch_size=32, seed=0)))
        >>> x.shape
        TensorShape([32, 8, 8, 1])
    """
    if not 1 <= batch_size <= images.num_images:
        raise DataError(f"batch_size: got {batch_size}, expected 1 to {images.num_images}, the number of images")
    images.check_labels(labels)
    steps_per_epoch = images.num_images // batch_size
    first_epoch, skipped_steps = divmod(start_step, steps_per_epoch)

    def epoch_indices(epoch):
        everything = tf.range(images.num_images, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(everything, fold([seed, _ORDER], epoch), alg="philox")
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order[: steps_per_epoch * batch_size], (-1, batch_size)))

    def load(step, indices):
        pixels = images.read(tf.ensure_shape(indices, (batch_size,)))
        if flip:
            pixels = _flip_some(pixels, fold([seed, _FLIPS], step))
        return (pixels, images.read_labels(indices)) if labels else (pixels,)

    def finish(pixels, *label):
        return (to_unit_range(pixels), *label) if labels else to_unit_range(pixels)

    indices = tf.data.Dataset.counter(first_epoch).flat_map(epoch_indices)
    # Skipped here, where a batch is a row of indices and costs nothing.
    indices = indices.enumerate(first_epoch * steps_per_epoch).skip(skipped_steps)
    batches = indices.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).map(finish)
    return batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)).prefetch(2)


def _flip_some(pixels, seed):
    mirrored = tf.random.stateless_uniform((pixels.shape[0], 1, 1, 1), seed, alg="philox") < 0.5
    return tf.where(mirrored, pixels[:, :, ::-1], pixels)


def open_images(
    source, image_size, channels, name=None, split="train", root=None, cache_dir=None, memory_limit=2 * 2**30
):
    """Opens a data set; each image is cut to its largest centred part of the wanted form, then resized.

    Args:
        source: "digits" (1,797 8x8 digits that come with scikit-learn), "tfds" or "image_folder".
        image_size: height and width, or [height, width].
        channels: 1 (grey) or 3 (colour).
        name: of the TFDS data set, such as "cifar10".
        split: of the TFDS data set, such as "train" or "train[:90%]"; the other sources have "train" only.
        root: the folder of images, searched recursively; for TFDS its data_dir, None for its default.
        cache_dir: where decoded TFDS images over `memory_limit` are kept; None is ~/.cache/tf_blurdiff.
        memory_limit: so many bytes of decoded images are kept in memory; a larger folder is decoded every epoch.

    Returns:
        `Images`.

    Raises:
        DataError: if the data cannot be found or read, or an argument is out of range.

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
    if source in ("digits", "image_folder") and split != "train":
        raise DataError(f"split: got {split!r}, expected 'train', the only split of {source}")
    image_shape = (*size, channels)
    if source == "digits":
        return _open_digits(image_shape)
    if source == "image_folder":
        return _open_folder(root, image_shape, memory_limit)
    if source == "tfds":
        return _open_tfds(name, split, root, image_shape, cache_dir, memory_limit)
    raise DataError(f"source: got {source!r}, expected one of digits, image_folder, tfds")


def _in_memory(pixels, labels=None, num_classes=None):
    return Images(lambda indices: pixels[indices], len(pixels), pixels.shape[1:], labels, num_classes)


def _open_digits(image_shape):
    from sklearn.datasets import load_digits

    if image_shape[-1] != 1:
        raise DataError(f"channels: got {image_shape[-1]}, expected 1 for digits")
    digits = load_digits()
    # The values are 0 to 16.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    pixels = np.stack([fit(Image.fromarray(picture), image_shape) for picture in pixels])
    return _in_memory(pixels, digits.target.astype(np.int64), num_classes=10)


def _open_folder(root, image_shape, memory_limit):
    paths = find_images(root)
    decode = Decoder(paths, image_shape, keep=len(paths) * math.prod(image_shape) <= memory_limit)
    return Images(decode, len(paths), image_shape)


def _open_tfds(name, split, data_dir, image_shape, cache_dir, memory_limit):
    builder, num_classes = _tfds_builder(name, data_dir)
    dataset = _tfds_examples(builder, split, labels=num_classes is not None)
    count = int(dataset.cardinality())
    if count * math.prod(image_shape) <= memory_limit:
        pixels, labels = np.empty((count, *image_shape), np.uint8), np.empty(count, np.int64)
        _decode_all(dataset, pixels, labels)
    else:
        key = "-".join([*builder.info.full_name.split("/"), split, *map(str, image_shape)])
        folder = Path(cache_dir or "~/.cache/tf_blurdiff").expanduser() / key
        pixels, labels = _decoded_on_disk(dataset, (count, *image_shape), folder)
    return _in_memory(pixels, labels if num_classes is not None else None, num_classes)


def _tfds_builder(name, data_dir):
    import tensorflow_datasets as tfds

    if not name:
        raise DataError(f"name: got {name!r}, expected the name of a TFDS data set such as 'cifar10'")
    try:
        builder = tfds.builder(_TFDS_ALIASES.get(name, name), data_dir=data_dir)
    except (ValueError, ImportError, AssertionError):
        raise DataError(f"name: got {name!r}, which TFDS does not have; expected {_tfds_names(tfds, name)}") from None
    features = dict(builder.info.features) if isinstance(builder.info.features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise DataError(f"name: got {name!r}, expected a data set with 8-bit images under the key 'image'")
    return builder, label.num_classes if isinstance(label, tfds.features.ClassLabel) else None


def _tfds_names(tfds, name):
    dataset, slash, _ = name.partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if not slash or dataset not in known:
        return f"a name such as {', '.join(difflib.get_close_matches(dataset, known) or ['cifar10'])}"
    configurations = ", ".join(tfds.builder_cls(dataset).builder_configs)
    return f"{dataset!r} with one of {configurations}" if configurations else repr(dataset)


def _tfds_examples(builder, split, labels):
    if not builder.is_prepared():
        name, folder = builder.info.full_name, builder.data_dir
        logging.warning("TFDS has no %s in %s: downloading it, which needs a network.", name, folder)
        try:
            builder.download_and_prepare()
        except Exception as error:  # TFDS passes on whatever its downloaders and optional packages raise.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"name: {name!r} is not in {folder} and could not be prepared ({reason}); expected a network, or "
                "root to be a TFDS data_dir that has it"
            ) from error
    try:
        dataset = builder.as_dataset(split=split, shuffle_files=False)
    except (ValueError, KeyError, AssertionError):
        known = ", ".join(builder.info.splits)
        raise DataError(f"split: got {split!r}, expected one of {known}, or a slice such as 'train[:90%]'") from None
    return dataset.map(lambda example: (example["image"], example["label"] if labels else tf.constant(0, tf.int64)))


def _decode_all(dataset, pixels, labels):
    progress = tqdm(dataset.as_numpy_iterator(), "Decoding images", len(pixels), unit="image", disable=None)
    for i, (picture, label) in enumerate(progress):
        pixels[i] = fit(Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture), pixels.shape[1:])
        labels[i] = label


def _decoded_on_disk(dataset, shape, folder):
    """Memory-mapped images and labels, decoded into `folder` the first time."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(folder.parent).free, math.prod(shape) + 8 * shape[0]
        # Writing to a memory map on a full disk kills the process.
        if free < needed:
            raise DataError(f"cache_dir: {str(folder.parent)!r} has {free} bytes free, expected {needed} or more")
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        scratch.mkdir(exist_ok=True)
        logging.info("Decoding %d images into %s.", shape[0], folder)
        pixels = np.lib.format.open_memmap(scratch / "images.npy", "w+", np.uint8, shape)
        labels = np.empty(shape[0], np.int64)
        _decode_all(dataset, pixels, labels)
        pixels.flush()
        np.save(scratch / "labels.npy", labels)
        try:
            scratch.rename(folder)
        except OSError:  # Another process was faster.
            shutil.rmtree(scratch)
    return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy")
