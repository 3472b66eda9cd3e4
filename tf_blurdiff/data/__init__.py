"""Pictures in and out."""

from tf_blurdiff.data.batches import evenly_spaced_batches, training_batches
from tf_blurdiff.data.pictures import read_image, save_grid, save_png
from tf_blurdiff.data.pixels import to_uint8, to_unit_range
from tf_blurdiff.data.sources import Images, open_images

__all__ = [
    "Images",
    "evenly_spaced_batches",
    "open_images",
    "read_image",
    "save_grid",
    "save_png",
    "to_uint8",
    "to_unit_range",
    "training_batches",
]
