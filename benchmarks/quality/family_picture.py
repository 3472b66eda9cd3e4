"""Sheets of images side by side under their names, as one picture."""

import numpy as np
from PIL import Image, ImageDraw

from tf_blurdiff.data.pictures import image_grid

_MARGIN = 24


def family_picture(sheets, zoom):
    """A picture of several sheets.

    Args:
        sheets: `{name: uint8 [N, H, W, 1]}`, all of one shape.
        zoom: how many pixels wide a pixel is shown.
    """
    grids = {name: image_grid(_enlarged(images, zoom))[:, :, 0] for name, images in sheets.items()}
    height, width = next(iter(grids.values())).shape
    picture = Image.new("L", (len(grids) * (width + _MARGIN) - _MARGIN, height + _MARGIN), 255)
    for number, (name, grid) in enumerate(grids.items()):
        left = number * (width + _MARGIN)
        ImageDraw.Draw(picture).text((left + 4, 6), name, fill=0)
        picture.paste(Image.fromarray(np.ascontiguousarray(grid)), (left, _MARGIN))
    return picture


def _enlarged(images, zoom):
    return np.asarray(images).repeat(zoom, axis=1).repeat(zoom, axis=2)
