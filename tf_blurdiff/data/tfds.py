"""Images of TensorFlow Datasets (TFDS), decoded once: into memory, or into a memory-mapped file if they do not fit."""

import contextlib
import difflib
import functools
import glob
import hashlib
import io
import json
import math
import os
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image
from tqdm import tqdm

from tf_blurdiff.data.kept import empty_pixels
from tf_blurdiff.data.pictures import WHITE, DataError, decode, fit, reason_of
from tf_blurdiff.files import expanded, writable_folder

# What the papers and the configs call it, and what TFDS does.
_ALIASES = {"lsun/church": "lsun/church_outdoor"}
# TFDS's own 10 wait for 205 seconds in all where there is no network; these wait for 6.
_DOWNLOAD_RETRIES = 5
_JPEG, _WITH_ALPHA = b"\xff\xd8\xff", 4
# A folder that nobody has written to for so many seconds has nobody who writes it.
_ABANDONED = 3600.0
# Files that are in memory together.
_AT_ONCE = 256


def read_tfds(
    name: str | None,
    split: str,
    data_dir: str | os.PathLike | None,
    image_shape: tuple[int, int, int],
    cache_dir: str | os.PathLike | None,
    memory_limit: float,
    background: str = WHITE,
) -> tuple[np.ndarray, np.ndarray | None, int | None, list[str] | None]:
    """Decodes a TFDS data set; downloads it first if `data_dir` does not have it.

    Args:
        name: of the data set, such as "cifar10".
        split: such as "train" or "train[:90%]".
        data_dir: TFDS's folder, None for its default.
        image_shape: (H, W, C) that images are cut and resized to.
        cache_dir: the folder for what does not fit into memory; None is ~/.cache/tf_blurdiff.
        memory_limit: in bytes, of images that are kept in memory.
        background: the colour behind transparent pictures.

    Returns:
        uint8 `[num_images, H, W, C]`, then int64 `[num_images]`, the number of classes and their names, or None thrice.

    Raises:
        DataError: if there is no such data set or split, if it is not of 8-bit images, if it cannot be prepared, or if
            a picture cannot be read.
    """
    builder, num_classes = find_builder(name, data_dir)
    dataset = _examples(builder, split, labels=num_classes is not None)
    count = int(dataset.cardinality())
    examples = _Examples(dataset, builder.info.features["image"].shape[-1], builder.info.full_name, background)
    if count * math.prod(image_shape) <= memory_limit:
        pixels, labels = empty_pixels((count, *image_shape)), np.empty(count, np.int64)
        examples.decode_all(pixels, labels)
    else:
        colour = [] if background == WHITE else [background.removeprefix("#")]
        own = [*builder.info.full_name.split("/"), split, *map(str, image_shape), *colour, _fingerprint(builder)]
        key = "-".join(own)
        folder = expanded(cache_dir or "~/.cache/tf_blurdiff") / key
        pixels, labels = _decoded_on_disk(examples, (count, *image_shape), folder)
    if num_classes is None:
        return pixels, None, None, None
    return pixels, labels, num_classes, builder.info.features["label"].names


def _fingerprint(builder):
    """Of the sizes of all files: data of one name and version can be others in another folder, or prepared anew."""
    splits = {name: [info.shard_lengths, info.num_bytes] for name, info in sorted(builder.info.splits.items())}
    return hashlib.sha256(json.dumps(splits).encode()).hexdigest()[:8]


def find_builder(name: str | None, data_dir: str | os.PathLike | None) -> tuple[Any, int | None]:
    """TFDS's builder of a data set of images, and the number of its classes or None; raises DataError."""
    import tensorflow_datasets as tfds

    if not name:
        raise DataError(f"name: got {name!r}, expected the name of a TFDS data set such as 'cifar10'")
    try:
        builder = tfds.builder(_ALIASES.get(name, name), data_dir=data_dir)
    except (ValueError, ImportError, AssertionError):
        raise DataError(f"name: got {name!r}, which TFDS does not have; expected {_known_names(tfds, name)}") from None
    features = dict(builder.info.features) if isinstance(builder.info.features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise DataError(f"name: got {name!r}, expected a data set with 8-bit images under the key 'image'")
    return builder, label.num_classes if isinstance(label, tfds.features.ClassLabel) else None


def _known_names(tfds, name):
    dataset, slash, _ = name.partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if not slash or dataset not in known:
        return f"a name such as {', '.join(difflib.get_close_matches(dataset, known) or ['cifar10'])}"
    configurations = ", ".join(tfds.builder_cls(dataset).builder_configs)
    return f"{dataset!r} with one of {configurations}" if configurations else repr(dataset)


def _prepare(builder):
    from tensorflow_datasets.core.download import downloader

    name, folder = builder.info.full_name, builder.data_dir
    logging.warning("TFDS has no %s in %s: preparing it, which may need a network.", name, folder)
    downloader.MAX_RETRIES = _DOWNLOAD_RETRIES
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS passes on whatever its downloaders and optional packages raise.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"name: {name!r} is not in {folder} and could not be prepared ({reason}); expected a network, or "
            "root to be a TFDS data_dir that has it"
        ) from error


def _examples(builder, split, labels):
    if not builder.is_prepared():
        _prepare(builder)
    import tensorflow_datasets as tfds

    undecoded = {"image": tfds.decode.SkipDecoding()}
    try:
        dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=undecoded)
    except (ValueError, KeyError, AssertionError):
        known = ", ".join(builder.info.splits)
        raise DataError(f"split: got {split!r}, expected one of {known}, or a slice such as 'train[:90%]'") from None
    return dataset.map(lambda example: (example["image"], example["label"] if labels else tf.constant(0, tf.int64)))


class _Examples:
    """A data set's pictures as files in memory, with labels, and how they are decoded."""

    def __init__(self, dataset: tf.data.Dataset, channels: int | None, name: str, background: str) -> None:
        self._dataset, self._channels, self._name, self._background = dataset, channels, name, background

    def decode_all(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Fills both arrays, uint8 `[N, H, W, C]` and int64 `[N]`; several pictures at once."""
        decoder = functools.partial(self._decode, image_shape=pixels.shape[1:])
        progress = tqdm(desc="Decoding images", total=len(pixels), unit="image", disable=None)
        first = 0
        with ThreadPoolExecutor() as pool, progress:
            for files, own_labels in self._dataset.batch(_AT_ONCE).as_numpy_iterator():
                last = first + len(files)
                for row, picture in enumerate(pool.map(decoder, files, range(first, last)), first):
                    pixels[row] = picture
                labels[first:last] = own_labels
                progress.update(len(files))
                first = last

    def _decode(self, content, number, image_shape):
        try:
            if content.startswith(_JPEG) and self._channels != _WITH_ALPHA:
                with contextlib.suppress(tf.errors.OpError), tf.device("CPU:0"):
                    # As TFDS decodes them, which Pillow does up to a few grey levels.
                    picture = tf.io.decode_jpeg(content, channels=self._channels or 0).numpy()
                    return fit(Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture), image_shape)
            return decode(io.BytesIO(content), image_shape, self._background)
        except Exception as error:  # What PIL raises depends on where the damage is.
            reason = reason_of(error)
            raise DataError(f"name: picture {number} of {self._name} cannot be read ({reason})") from None


def _remove_left(folder):
    """Removes what processes left that were killed while they decoded: what has not grown for an hour."""
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in (left, *left.iterdir())) > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _decoded_on_disk(examples, shape, folder):
    """Memory-mapped images and labels, decoded into `folder` the first time."""
    if not folder.is_dir():
        writable_folder(folder.parent, f"cache_dir {folder.parent}")
        _remove_left(folder)
        free, needed = shutil.disk_usage(folder.parent).free, math.prod(shape) + 8 * shape[0]
        # Writing to a memory map on a full disk kills the process.
        if free < needed:
            raise DataError(f"cache_dir: {str(folder.parent)!r} has {free} bytes free, expected {needed} or more")
        # Workers of several machines may share the folder.
        scratch = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
        logging.info("Decoding %d images into %s.", shape[0], folder)
        try:
            scratch.mkdir()
            pixels = np.lib.format.open_memmap(scratch / "images.npy", "w+", np.uint8, shape)
            labels = np.empty(shape[0], np.int64)
            examples.decode_all(pixels, labels)
            pixels.flush()
            np.save(scratch / "labels.npy", labels)
            with contextlib.suppress(OSError):  # Another process was faster.
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy")
