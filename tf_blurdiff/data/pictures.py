"""Images as files that people look at: PNGs, one by one and in grids."""

import math
import pathlib

import numpy as np
from PIL import Image

from tf_blurdiff.data.sources import to_uint8

_GAP = 2  # pixels between the images of a grid


def save_png(image, path):
    """Writes an image, `[H, W, C]` with 1 or 3 channels, float in [-1, 1] or uint8, as a PNG.

    Args:
        image: the image.
        path: where to; missing folders are made.
    """
    image = np.asarray(image if image.dtype == np.uint8 else to_uint8(image))
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image).save(path, format="PNG")


def save_grid(images, path):
    """Writes a batch of images, `[B, H, W, C]`, as one PNG: a near-square grid with small images enlarged."""
    images = np.asarray(images if images.dtype == np.uint8 else to_uint8(images))
    zoom = max(1, 48 // images.shape[1])
    save_png(image_grid(images.repeat(zoom, axis=1).repeat(zoom, axis=2)), path)


def image_grid(images):
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
