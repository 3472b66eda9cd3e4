"""Image files of any kind and size as uint8 arrays of one shape, and errors that name the file."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tf_blurdiff.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


class DataError(UserError):
    """A data set cannot be used; the message names the value and what is expected."""


def find_images(root):
    """Sorted paths of all image files below a folder.

    Raises:
        DataError: if there is none, or one whose beginning is not that of an image.
    """
    kinds = ", ".join(SUFFIXES)
    if root is None or not Path(root).expanduser().is_dir():
        raise DataError(f"root: got {str(root)!r}, which is not a folder; expected a folder of images ({kinds})")
    # Names with a dot in front are thumbnails and leftovers of file managers.
    files = (path for path in Path(root).expanduser().rglob("[!.]*") if path.is_file())
    paths = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"root: got {str(root)!r}, which holds no image; expected files ending in {kinds}")
    with ThreadPoolExecutor() as pool:
        list(pool.map(_check_header, paths))
    return paths


def read_image(path, image_shape):
    """One image file as uint8 `[H, W, C]`, fitted to image_shape.

    Raises:
        DataError: naming a file that cannot be read.
    """
    with _open_file(path) as image:
        return fit(_eight_bit(ImageOps.exif_transpose(image)), image_shape)


class Decoder:
    """Decodes files by index.

    Args:
        paths: of the files.
        image_shape: (H, W, C) of every result.
        keep: whether what was decoded stays in memory.

    Call arguments:
        indices: integers `[B]`, NumPy.

    Returns:
        uint8 `[B, H, W, C]`, NumPy.

    Raises:
        DataError: naming a file that cannot be decoded.
    """

    def __init__(self, paths, image_shape, keep):
        self._paths, self._image_shape = paths, image_shape
        self._kept = np.empty((len(paths), *image_shape), np.uint8) if keep else None
        self._is_kept = np.zeros(len(paths), bool)

    def __call__(self, indices):
        return np.stack([self._decode(int(index)) for index in indices])

    def _decode(self, index):
        if self._is_kept[index]:
            return self._kept[index]
        pixels = read_image(self._paths[index], self._image_shape)
        if self._kept is not None:
            self._kept[index] = pixels
            self._is_kept[index] = True
        return pixels


def _eight_bit(image):
    # PIL's own conversion clips 16 bits at 255.
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode.startswith("I") else image


def _check_header(path):
    with _open_file(path):
        pass


@contextmanager
def _open_file(path):
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace("\n", " ")
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"cannot read the image {str(path)!r} ({reason}); expected a whole {kinds} file") from None


def fit(image, image_shape):
    """A PIL image as uint8 `[H, W, C]`: the largest centred part of that form, resized."""
    height, width, channels = image_shape
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        scale = min(image.width / width, image.height / height)
        crop_width, crop_height = min(width * scale, image.width), min(height * scale, image.height)
        left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
        box = (left, top, min(left + crop_width, image.width), min(top + crop_height, image.height))
        # BOX is the mean over a pixel's area; it would repeat pixels when enlarging.
        image = image.resize((width, height), Image.Resampling.BOX if scale > 1 else Image.Resampling.BICUBIC, box)
    return np.asarray(image, np.uint8).reshape(image_shape)
