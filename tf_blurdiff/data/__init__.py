"""Pictures in and out."""

from tf_blurdiff.data.batches import evenly_spaced_batches, training_batches
from tf_blurdiff.data.folder import chosen_size
from tf_blurdiff.data.images import Images
from tf_blurdiff.data.listing import FOLDERS, FileNames
from tf_blurdiff.data.pictures import WHITE, WRITTEN, checked_colour, read_image, save_grid, save_image
from tf_blurdiff.data.pixels import to_uint8, to_unit_range
from tf_blurdiff.data.sources import open_images, own_images

__all__ = [
    "FOLDERS",
    "WHITE",
    "WRITTEN",
    "FileNames",
    "Images",
    "checked_colour",
    "chosen_size",
    "evenly_spaced_batches",
    "open_images",
    "own_images",
    "read_image",
    "save_grid",
    "save_image",
    "to_uint8",
    "to_unit_range",
    "training_batches",
]
