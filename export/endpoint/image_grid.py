"""What an endpoint sends as Pillow images, and many of them in one picture."""

import io
import math
from pathlib import Path

from PIL import Image

from .calls import Pixels
from .command_line import ClientError

_GAP = 2  # pixels between the images of a grid
_LEGIBLE = 48  # pixels; lower images are enlarged in a grid
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode(received: bytes | Pixels) -> Image.Image:
    """A PNG file's bytes, or `Pixels`, as an image."""
    if isinstance(received, Pixels):
        if received.channels not in MODES:
            raise ClientError(f"images of {received.channels} channels cannot be shown")
        return Image.frombytes(MODES[received.channels], (received.width, received.height), received.content)
    try:
        image = Image.open(io.BytesIO(received), formats=["PNG"])
        image.load()
        return image
    except (OSError, SyntaxError, ValueError) as error:
        raise ClientError(f"the server sent something that is no PNG image: {error}") from error


def save_grid(images: list, path: Path) -> None:
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
    grid.save(path, "PNG")
