"""Draws images from a trained model and writes them as PNG files.

    python -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 64 --out samples.png
    python -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 1000 --out_dir samples

Image number i has the seed --seed + i and depends on it alone: the same seed is the same image in any batch.
"""

import os
import pathlib

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import load_model
from tf_blurdiff.pictures import save_grid, save_png

_MODEL = flags.DEFINE_string("model", None, "The model, a .keras file.", required=True)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 64, "How many images.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Calls of the network (default: the model's own).")
_SAMPLER = flags.DEFINE_string("sampler", None, "ancestral or ddim (default: the model's own).")
_ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim, from 0 (deterministic) to 1 (ancestral).")
_SEED = flags.DEFINE_integer("seed", 0, "The first image's seed.")
_LABELS = flags.DEFINE_list("labels", None, "Labels to take in turn, for a model with labels (default: all classes).")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images at once (default: by their size).", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "PNG file for a grid of the images (default, without --out_dir: samples.png).")
_OUT_DIR = flags.DEFINE_string("out_dir", None, "Folder for one PNG file per image, named after its seed.")


def main():
    """Samples, and says where the pictures are."""
    if _NUM_IMAGES.value < 1:
        raise UserError(f"--num_images must be 1 or more. Received: {_NUM_IMAGES.value}")
    out, out_dir = _places()
    model = load_model(_MODEL.value)
    seeds = range(_SEED.value, _SEED.value + _NUM_IMAGES.value)
    images = model.sample(
        seeds,
        num_steps=_NUM_STEPS.value,
        sampler=_SAMPLER.value,
        eta=_ETA.value,
        labels=_labels(model.num_classes, len(seeds)),
        batch_size=_BATCH_SIZE.value,
        verbose=True,
    )
    if out:
        save_grid(images, out)
        print(f"grid: {out}")
    if out_dir:
        for seed, image in zip(seeds, images):
            save_png(image, out_dir / f"seed_{seed}.png")
        print(f"images: {out_dir}/seed_*.png")


def _labels(num_classes, count):
    given = _LABELS.value
    if num_classes is None and given is None:
        return None
    try:
        given = list(range(num_classes or 1)) if given is None else [int(label) for label in given]
    except ValueError as error:
        raise UserError(f"--labels must be integers. Received: {','.join(_LABELS.value)}") from error
    if not given:
        raise UserError("--labels must be integers. Received: nothing")
    return [given[i % len(given)] for i in range(count)]


def _places():
    """The grid's file and the images' folder, either may be None; made before hours of sampling, not after."""
    out_dir = pathlib.Path(_OUT_DIR.value) if _OUT_DIR.value else None
    out = pathlib.Path(_OUT.value or "samples.png") if _OUT.value or not out_dir else None
    for folder in filter(None, (out_dir, out and out.parent)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the pictures cannot be written: {error}") from error
        if not os.access(folder, os.W_OK):
            raise UserError(f"the pictures cannot be written: no permission in {folder}")
    if out and out.is_dir():
        raise UserError(f"--out must be a PNG file. Received: the folder {out}")
    return out, out_dir


if __name__ == "__main__":
    command_line.run(main)
