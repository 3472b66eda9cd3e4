"""Data sources: every one ends as an `Images`, and a part of it can be kept aside."""

import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tf_blurdiff.data.folder import Decoder, Part
from tf_blurdiff.data.held_out import split_off
from tf_blurdiff.data.images import Images, reader_of
from tf_blurdiff.data.kept import KeptPixels
from tf_blurdiff.data.listing import FileNames
from tf_blurdiff.data.pictures import WHITE, DataError, checked_colour, fit
from tf_blurdiff.data.tfds import read_tfds

_GIGABYTE = 10**9
# The part of a picture's sides that random crops leave out.
_CROPPED = 8
_SPLIT = re.compile(r"train(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?", re.ASCII)


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
    background: str = WHITE,
    labels: str | Sequence[str] | None = None,
    held_out: float = 0.0,
    crop: bool = False,
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
        background: the colour behind transparent pictures, a name or "#rrggbb".
        labels: of a folder: "folders" for its sub-folders as classes, or the names of those that are; None for none.
        held_out: the share of the images that is kept aside, in [0, 1): `Images.held_out`. Which they are depends on a
            folder's file names, or on the images' numbers, alone.
        crop: whether pictures are read an eighth larger, so that `training_batches` can cut them at random; the centre
            is the image.

    Returns:
        `Images`. Reading from a folder with more unreadable files, or with no other, is a DataError.

    Raises:
        DataError: if the data cannot be found, or an argument is out of range.

    Example:
        >>> digits = open_images("digits", image_size=8, channels=1, held_out=0.1)
        >>> digits.num_images, digits.image_shape, digits.num_classes, digits.held_out.num_images
        (1617, (8, 8, 1), 10, 180)
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
    if not 0 <= held_out < 1:
        raise DataError(f"held_out: got {held_out}, expected a number in [0, 1)")
    if source == "image_folder" and split != "train":
        raise DataError(f"split: got {split!r}, expected 'train', the only split of {source}")
    if source != "image_folder" and labels is not None:
        raise DataError(f"labels: got {labels!r}, expected None for {source}")
    margin, whole_shape = _room_for_crops((*size, channels), crop)
    memory_limit = cache_gb * _GIGABYTE
    checked_colour(background)
    if source == "digits":
        opened = _open_digits(whole_shape, split)
    elif source == "image_folder":
        opened = _open_folder(root, labels, whole_shape, memory_limit, max_corrupt, background)
    elif source == "tfds":
        opened = _open_array(*read_tfds(name, split, root, whole_shape, cache_dir, memory_limit, background))
    else:
        raise DataError(f"source: got {source!r}, expected one of digits, image_folder, tfds")
    return _with_held_out(opened, (*size, channels), margin, held_out)


def own_images(
    arrays: Callable[[tuple[int, int, int]], Any],
    image_shape: tuple[int, int, int],
    held_out: float,
    crop: bool,
    class_names: Sequence[str] | None = None,
) -> Images:
    """The `Images` of a function of the user's own.

    Args:
        arrays: is called with the images' shape, which is an eighth larger for `crop`, and returns uint8
            `[N, H, W, C]`, or a pair with integer labels `[N]` from 0 on; an array that is mapped from a file stays
            there.
        image_shape: (H, W, C).
        held_out, crop: as `open_images` has them.
        class_names: of the labels, or None.

    Raises:
        DataError: for arrays of another shape or type.

    Example:
        >>> white = lambda image_shape: np.full((20, *image_shape), 255, np.uint8)
        >>> images = own_images(white, (8, 8, 3), held_out=0.1, crop=False)
        >>> images.num_images, images.held_out.num_images, images.num_classes
        (18, 2, None)
    """
    margin, whole_shape = _room_for_crops(image_shape, crop)
    pixels, labels = _pixels_and_labels(arrays(whole_shape), whole_shape)
    num_classes = None if labels is None else int(labels.max()) + 1
    if class_names is not None:
        if num_classes is None or num_classes > len(class_names):
            expected = (
                "null, since there are no labels" if num_classes is None else f"{num_classes}: one for each label"
            )
            raise DataError(f"data.labels: got {len(class_names)} names, expected {expected}")
        num_classes = len(class_names)
    return _with_held_out(_open_array(pixels, labels, num_classes, class_names), image_shape, margin, held_out)


def _pixels_and_labels(returned, shape):
    pixels, labels = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    given = f"{getattr(pixels, 'dtype', type(pixels).__name__)} of shape {getattr(pixels, 'shape', None)}"
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != shape or not len(pixels):
        raise DataError(f"data.class: got {given}, expected a NumPy array, uint8 of shape (N, {str(shape)[1:]}")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu" or labels.min() < 0:
            given = f"{labels.dtype} of shape {labels.shape}"
            raise DataError(
                f"data.class: got labels {given}, expected integers of 0 or more, of shape ({len(pixels)},)"
            )
        labels = labels.astype(np.int64)
    return pixels, labels


def _room_for_crops(image_shape, crop):
    """How much larger pictures are read that will be cut at random, and their shape."""
    height, width, channels = image_shape
    margin = (-(-height // _CROPPED), -(-width // _CROPPED)) if crop else (0, 0)
    return margin, (height + margin[0], width + margin[1], channels)


def in_memory(pixels: np.ndarray, labels: np.ndarray | None = None, num_classes: int | None = None) -> Images:
    """The `Images` of an array, uint8 `[N, H, W, C]`, with int64 `[N]` labels or none.

    An array that is neither of `kept.empty_pixels` nor mapped from a file is copied.
    """
    fetch, kept = reader_of(pixels)
    return Images(fetch, len(pixels), pixels.shape[1:], labels, num_classes, kept)


class _Opened(NamedTuple):
    """A source's pictures: what `Images` are made of, for all or some of them."""

    num_images: int
    keys: Callable[[], np.ndarray] | None  # gives numbers that say what is held out; None for the pictures' own
    part: Callable[[np.ndarray | None], tuple[Callable, KeptPixels | None]]  # fetch and kept, of these pictures
    labels: np.ndarray | None = None
    num_classes: int | None = None
    class_names: Sequence[str] | None = None
    summary: str | None = None


def _with_held_out(opened, image_shape, margin, share):
    """The `Images` of a source, without those that are held out, which they have beside them."""

    def images(rows, **more):
        fetch, kept = opened.part(rows)
        labels = opened.labels if rows is None or opened.labels is None else opened.labels[rows]
        count = opened.num_images if rows is None else len(rows)
        own = {"margin": margin, "class_names": opened.class_names, "summary": opened.summary}
        return Images(fetch, count, image_shape, labels, opened.num_classes, kept, **own, **more)

    if not share:
        return images(None)
    learned, held_out = split_off(share, opened.num_images, opened.keys and opened.keys())
    return images(learned, held_out=images(held_out))


def _open_array(pixels, labels=None, num_classes=None, class_names=None):
    def part(rows):
        if rows is None:
            return reader_of(pixels)
        # One that is mapped from a file may be larger than the memory.
        return (
            (lambda indices: pixels[rows[indices]], None) if isinstance(pixels, np.memmap) else reader_of(pixels[rows])
        )

    return _Opened(len(pixels), None, part, labels, num_classes, class_names)


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
    return _open_array(pixels, digits.target[part].astype(np.int64), 10)


def _open_folder(root, labels, image_shape, memory_limit, max_corrupt, background):
    names = FileNames(root, labels)

    def part(rows):
        paths = names if rows is None else Part(names, rows)
        keep = len(paths) * math.prod(image_shape) <= memory_limit
        own_labels = names.labels if names.labels is None or rows is None else names.labels[rows]
        decoder = Decoder(paths, image_shape, keep, max_corrupt, background, own_labels)
        return decoder, decoder.kept

    num_classes = None if names.class_names is None else len(names.class_names)
    return _Opened(len(names), names.keys, part, names.labels, num_classes, names.class_names, names.summary())
