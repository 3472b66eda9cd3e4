"""Sheets of images under their names, three side by side, as one picture."""

import pathlib

import numpy as np
from PIL import Image, ImageDraw

from tf_blurdiff.data.pictures import WRITTEN, image_grid
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writable_file

_MARGIN = 24
_COLUMNS = 3  # Wider pictures are shrunk where they are read.


def check_picture(path, flag="--out"):
    """Raises a UserError if the flag's value is no name of a picture, or cannot be written."""
    if pathlib.Path(path).suffix.lower() not in WRITTEN:
        raise UserError(f"{flag} must end in {', '.join(WRITTEN)}. Received: {path}")
    writable_file(path, f"{flag} {path}")


def family_picture(sheets, zoom):
    """A picture of several sheets.

    Args:
        sheets: `{name: uint8 [N, H, W, 1]}`, all of one shape.
        zoom: how many pixels wide a pixel is shown.
    """
    grids = {name: image_grid(_enlarged(images, zoom))[:, :, 0] for name, images in sheets.items()}
    height, width = (side + _MARGIN for side in next(iter(grids.values())).shape)
    columns, rows = min(len(grids), _COLUMNS), -(-len(grids) // _COLUMNS)
    picture = Image.new("L", (columns * width - _MARGIN, rows * height), 255)
    for number, (name, grid) in enumerate(grids.items()):
        row, column = divmod(number, _COLUMNS)
        left, top = column * width, row * height
        ImageDraw.Draw(picture).text((left + 4, top + 2), name, fill=0, font_size=16)
        picture.paste(Image.fromarray(np.ascontiguousarray(grid)), (left, top + _MARGIN))
    return picture


def _enlarged(images, zoom):
    return np.asarray(images).repeat(zoom, axis=1).repeat(zoom, axis=2)
