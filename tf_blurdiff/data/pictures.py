"""Pictures as files: any kind and size read as uint8 arrays of one shape; written as PNGs, one by one or in grids."""

import math
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError, features

from tf_blurdiff.data.picture_files import open_picture, upright
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import write_atomically

_AVIF = (".avif",) if features.check("avif") else ()
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
# What pictures are written as, by the file's suffix: arguments of Pillow. All but JPEG keep every pixel.
WRITTEN: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": {"format": "WEBP", "lossless": True},
}
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", *_AVIF)
WHITE = "white"
# How much larger than wanted a JPEG is at least decoded.
_DRAFT = 2
# Four bytes each in memory, and half as much again on the way.
_MOST_PIXELS = 10**9
# Tags of a TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_GAP = 2  # pixels between the images of a grid


class DataError(UserError):
    """A data set cannot be used; the message names the value and what is expected."""


def read_image(path: str | os.PathLike, image_shape: tuple[int, int, int], background: str = WHITE) -> np.ndarray:
    """One image file as uint8 `[H, W, C]`, fitted to image_shape; of several frames the first.

    A JPEG of four times the wanted size or more is decoded at a half, a quarter or an eighth of its own size, which is
    several times faster, and never at less than twice the wanted size, from where it is resized like any other. Pixels
    then differ from those of a full decoding by 1 or 2 grey levels of 255 on average.

    Args:
        path: the file.
        image_shape: (H, W, C).
        background: the colour behind a transparent picture, as `checked_colour` takes it.

    Raises:
        DataError: naming a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return decode(file, image_shape, background)
    except Exception as error:  # What PIL raises depends on where the damage is.
        raise DataError(f"cannot read the image {str(path)!r} ({reason_of(error)})") from None


def decode(file: Any, image_shape: tuple[int, int, int], background: str = WHITE) -> np.ndarray:
    """As `read_image`, of an open binary file; raises what Pillow raises."""
    with open_picture(file) as image:
        # Square, for width and height may have to change places.
        image.draft(None, (_DRAFT * max(image_shape[:2]),) * 2)
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"it has {image.width}x{image.height} pixels, more than {_MOST_PIXELS:,}")
        return fit(upright(image), image_shape, background)


def reason_of(error: Exception) -> str:
    """Why a picture could not be read, in one line, and what is expected."""
    if isinstance(error, UnidentifiedImageError):  # PIL would repeat the path.
        return f"not an image; expected a whole {', '.join(SUFFIXES)} file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def checked_colour(colour: str) -> str:
    """A colour as it is, or a DataError.

    Example:
        >>> checked_colour("white"), checked_colour("#8a8a8a")
        ('white', '#8a8a8a')
    """
    try:
        ImageColor.getcolor(colour, "RGB")
    except (ValueError, AttributeError, TypeError):
        raise DataError(f"background: got {colour!r}, expected a colour such as white, black or '#808080'") from None
    return colour


def fit(image: Image.Image, image_shape: tuple[int, int, int], background: str = WHITE) -> np.ndarray:
    """A PIL image as uint8 `[H, W, C]`: the largest centred part of that form, resized, over a background."""
    height, width, channels = image_shape
    image = _opaque(_eight_bit(image), background).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        scale = min(image.width / width, image.height / height)
        crop_width, crop_height = min(width * scale, image.width), min(height * scale, image.height)
        left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
        box = (left, top, min(left + crop_width, image.width), min(top + crop_height, image.height))
        # BOX is the mean over a pixel's area; it would repeat pixels when enlarging.
        image = image.resize((width, height), Image.Resampling.BOX if scale > 1 else Image.Resampling.BICUBIC, box)
    return np.asarray(image, np.uint8).reshape(image_shape)


def _eight_bit(image):
    """Up to 16 bits a pixel as 8: PIL's own conversion clips at 255."""
    if image.mode == "La":
        return image.convert("LA")
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    bits, black_is_0 = _bits_and_black(image)
    if bits > 16 or image.mode == "F" or values.min() < 0 or values.max() >= 2**bits:
        raise ValueError(f"its pixels are numbers from {values.min():g} to {values.max():g}; expected 8 or 16 bits")
    levels = (values.astype(np.int64) >> (bits - 8)).astype(np.uint8)
    eight = Image.fromarray(levels if black_is_0 else 255 - levels)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        eight.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return eight


def _bits_and_black(image):
    """How many bits a pixel has, and whether 0 is black; a TIFF says so, and Pillow forgets it beyond 8 bits."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO


def _opaque(image, background):
    """The image over a background: what is hidden behind transparency is no part of it."""
    if not image.has_transparency_data:
        return image
    layers = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, ImageColor.getcolor(background, "RGB"))
    opaque.paste(layers, mask=layers.getchannel("A"))
    return opaque


def save_image(image: Any, path: str | os.PathLike) -> None:
    """Writes an image, `[H, W, C]` with 1 or 3 channels, float in [-1, 1] or uint8, in the format of the file's suffix.

    The file is there whole or as it was.

    Args:
        image: the image.
        path: where to, with a suffix of `WRITTEN`; missing folders are made.

    Raises:
        OSError: if it cannot be written, or is too large for the format.
    """
    image = np.asarray(image if image.dtype == np.uint8 else to_uint8(image))
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)
    try:
        write_atomically(path, lambda part: picture.save(part, **WRITTEN[path.suffix.lower()]))
    except ValueError as error:
        raise OSError(str(error)) from error


def save_grid(images: Any, path: str | os.PathLike) -> None:
    """Writes a batch of images, `[B, H, W, C]`, as one: a near-square grid with small images enlarged."""
    images = np.asarray(images if images.dtype == np.uint8 else to_uint8(images))
    zoom = max(1, 64 // images.shape[1])
    save_image(image_grid(images.repeat(zoom, axis=1).repeat(zoom, axis=2)), path)


def image_grid(images: np.ndarray) -> np.ndarray:
    """Lays uint8 images `[B, H, W, C]` out row by row on white, uint8 `[grid height, grid width, C]`.

    Example:
        >>> image_grid(np.zeros((6, 4, 4, 1), "uint8")).shape
        (14, 20, 1)
    """
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full(((height + _GAP) * rows + _GAP, (width + _GAP) * columns + _GAP, channels), 255, np.uint8)
    for number, image in enumerate(images):
        top = _GAP + (number // columns) * (height + _GAP)
        left = _GAP + (number % columns) * (width + _GAP)
        grid[top : top + height, left : left + width] = image
    return grid
