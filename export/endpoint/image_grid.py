"""What an endpoint sends as Pillow images, and many of them in one picture."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from .command_line import ClientError

_GAP = 2  # pixels between the images of a grid
_LEGIBLE = 48  # pixels; lower images are enlarged in a grid
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
# What a grid is written as, by the file's suffix.
WRITTEN = {
    ".png": {"format": "PNG"},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": {"format": "WEBP", "lossless": True},
}
# Pixels a side, where a format sets a bound that a grid may reach.
_LONGEST = {"WEBP": 16_383, "JPEG": 65_500}


def decode(received: bytes | np.ndarray) -> Image.Image:
    """A PNG file's bytes, or pixels (uint8 [H, W, C]), as an image. Raises ClientError for what is none."""
    if isinstance(received, np.ndarray):
        if received.shape[-1] not in MODES:
            raise ClientError(f"images of {received.shape[-1]} channels cannot be shown")
        return Image.fromarray(received[..., 0] if received.shape[-1] == 1 else received)
    try:
        image = Image.open(io.BytesIO(received), formats=["PNG"])
        image.load()
        return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ClientError(f"the server sent something that is no PNG image: {error}") from error


def check_grid(image: Image.Image, count: int, path: Path) -> None:
    """Raises ClientError if as many images as this one make a grid that the file's format cannot hold."""
    kind = WRITTEN[path.suffix.lower()]["format"]
    *_, (width, height) = _layout(image, count)
    if max(width, height) > _LONGEST.get(kind, math.inf):
        raise ClientError(
            f"--out: the grid is {width}x{height} pixels, and {kind} holds {_LONGEST[kind]:,} a side; expected fewer "
            "seeds, a .png or --out_dir"
        )
    if kind == "JPEG" and image.mode == "RGBA":
        raise ClientError(f"--out: JPEG has no transparency; expected a .png or .webp. Received: {path}")


def _layout(image: Image.Image, count: int) -> tuple[int, int, tuple[int, int]]:
    """How much an image is enlarged, the columns, and (width, height) of the grid."""
    zoom = max(1, _LEGIBLE // image.height)
    columns = math.ceil(math.sqrt(count))
    places = columns, math.ceil(count / columns)
    width, height = (_GAP + number * (zoom * side + _GAP) for number, side in zip(places, image.size))
    return zoom, columns, (width, height)


def save_grid(images: list[Image.Image], path: Path) -> None:
    """Saves images of one size in a near-square grid on white, small ones enlarged."""
    zoom, columns, size = _layout(images[0], len(images))
    width, height = (zoom * side for side in images[0].size)
    grid = Image.new(images[0].mode, size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        large = image.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(large, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    grid.save(path, **WRITTEN[path.suffix.lower()])
