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
    except (OSError, SyntaxError, ValueError) as error:
        raise ClientError(f"the server sent something that is no PNG image: {error}") from error


def save_grid(images: list[Image.Image], path: Path) -> None:
    """Saves images of one size in a near-square grid on white, small ones enlarged."""
    zoom = max(1, _LEGIBLE // images[0].height)
    width, height = (zoom * size for size in images[0].size)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    size = (_GAP + columns * (width + _GAP), _GAP + rows * (height + _GAP))
    grid = Image.new(images[0].mode, size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        large = image.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(large, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    grid.save(path, **WRITTEN[path.suffix.lower()])
