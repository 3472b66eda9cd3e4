"""How well a model restores images that it has not seen: deblurring, twice the size, and a part filled in.

    python -m tf_blurdiff.train --config digits.yaml --run_dir runs/held_out --set 'data.split=train[:80%]'
    python benchmarks/restoration.py --model runs/held_out/model.keras --config digits.yaml \
        --set 'data.split=train[80%:]' --out restoration.png

For each task the peak signal-to-noise ratio and the structural similarity (Wang et al., 2004) to the originals: of the
images as they are given (small ones with their pixels repeated, missing parts filled with the mean of the rest), of
bicubic enlargement, of one restored image, and of the mean of several seeds, with which a model that knows the
distribution is nearest. The picture has the originals in its first row, then the rows of the table.
"""

import pathlib

import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import tf_blurdiff as bd
from tf_blurdiff import command_line, plotting
from tf_blurdiff.config import build_images, load_config
from tf_blurdiff.data import to_uint8, to_unit_range
from tf_blurdiff.model import load_model

_MODEL = flags.DEFINE_string("model", "runs/digits/model.keras", "The model, a .keras file.")
_CONFIG = flags.DEFINE_string("config", "digits.yaml", "The config whose data is restored.")
_SET = flags.DEFINE_multi_string("set", [], "Overrides of the config, such as data.split=test.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 256, "How many, evenly spaced over the data.", lower_bound=1)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 4, "Restored images whose mean is scored as well.", lower_bound=1)
_BLUR = flags.DEFINE_float("blur_sigma", 1.0, "The blur that is undone, in pixels.", lower_bound=0.0)
_OUT = flags.DEFINE_string("out", "restoration.png", "The picture.")

_SHOWN = 8


def main():
    """Prints the table and draws the picture."""
    model, images = load_model(_MODEL.value), build_images(load_config(_CONFIG.value, _SET.value))
    singles = images.single_images(limit=_NUM_IMAGES.value).batch(_NUM_IMAGES.value)
    originals = to_unit_range(next(iter(singles))).numpy()
    print(f"{len(originals)} images, {_NUM_SEEDS.value} seeds, blur {_BLUR.value} px")
    print("| task | what | PSNR, dB | SSIM |\n|---|---|---|---|", flush=True)
    sheet = {"original": originals}
    for task, given, simple, restore in tasks(model, originals):
        seeds = np.arange(len(originals))
        restored = [
            restore(seeds + number * len(seeds)) for number in tqdm(range(_NUM_SEEDS.value), desc=task, unit="seed")
        ]
        rows = {
            "as given": given,
            **simple,
            "restored": restored[0],
            f"mean of {len(restored)}": np.mean(restored, axis=0),
        }
        for what, found in rows.items():
            print(f"| {task} | {what} | {psnr(found, originals):.2f} | {ssim(found, originals):.3f} |", flush=True)
        sheet |= {f"{task}: {what}": found for what, found in rows.items()}
    save(_OUT.value, sheet)


def tasks(model, originals):
    """(name, what is given in full size, simple answers by name, a function of seeds) of each."""
    height, width = originals.shape[1:3]
    blurred = seen(bd.layers.HeatBlur()([originals, np.full(len(originals), _BLUR.value, "float32")]))
    yield "deblur", blurred, {}, lambda seeds: model.deblur(blurred, _BLUR.value, seeds)
    small = seen(originals.reshape(len(originals), height // 2, 2, width // 2, 2, -1).mean(axis=(2, 4)))
    repeated = small.repeat(2, axis=1).repeat(2, axis=2)
    bicubic = np.clip(tf.image.resize(small, (height, width), "bicubic"), -1, 1)
    simple = {"bicubic": bicubic}
    yield "twice the size", repeated, simple, lambda seeds: model.super_resolve(small, seeds)
    mask = np.zeros(originals.shape[:3], bool)
    mask[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    known = np.where(mask[..., None], np.nan, originals)
    filled = np.where(mask[..., None], np.nanmean(known, axis=(1, 2), keepdims=True), originals).astype("float32")
    yield "fill in a quarter", filled, {}, lambda seeds: model.inpaint(originals, mask, seeds)


def seen(images):
    """Rounded to 8 bits, as images come."""
    return to_unit_range(to_uint8(images)).numpy()


def psnr(images, originals):
    """Mean over the images."""
    return float(tf.reduce_mean(tf.image.psnr(images, originals, max_val=2.0)))


def ssim(images, originals):
    """Mean over the images; the window is 7 pixels wide, for 11 do not fit the smallest."""
    return float(tf.reduce_mean(tf.image.ssim(images, originals, max_val=2.0, filter_size=7)))


def save(path, sheet):
    """A row for each entry, a column for each image."""
    rows = [list(to_uint8(images[:_SHOWN]).numpy()) for images in sheet.values()]
    plotting.save_figure(plotting.sheet(rows, list(sheet), [""] * len(rows[0])), pathlib.Path(path))
    print(f"picture: {path}")


if __name__ == "__main__":
    command_line.run(main)
