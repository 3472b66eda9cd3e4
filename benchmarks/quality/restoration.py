"""How well a model restores images that it has not seen: deblurring, twice the size, and a part filled in.

    python -m tf_blurdiff.train --config digits.yaml --run_dir runs/held_out --set 'data.split=train[:80%]'
    python benchmarks/quality/restoration.py --model runs/held_out/model.keras --config digits.yaml \
        --set 'data.split=train[80%:]' --features efficientnet_lite0 --out restoration.png

For each task the peak signal-to-noise ratio and the structural similarity (Wang et al., 2004) to the originals: of the
images as they are given (small ones with their pixels repeated, missing parts filled with the mean of the rest), of
bicubic enlargement, of the best linear estimate by the data's DCT statistics (Wiener's filter), of one restored image,
and of the mean of several seeds, with which a model that knows the distribution is nearest. The picture has the
originals in its first row, then the rows of the table.

Both look at pixels. For each of --features there is a column of how far the images look from their originals: the mean
distance between the features of an image and of its original, divided by the mean distance between those of two
different originals. 0 is the same, 1 a stranger. A figure compares within its column only. On two cores the digits
take about five minutes, Fashion-MNIST at 28x28 about half an hour.
"""

import numpy as np
import tensorflow as tf
from absl import flags
from linear_estimates import linear_estimate, linear_filling
from perceptual import PerceptualDistance

import tf_blurdiff as bd
from tf_blurdiff import command_line
from tf_blurdiff.config.loading import build_images, load_config
from tf_blurdiff.data.pixels import to_uint8, to_unit_range
from tf_blurdiff.diffusion.inverse_problems import ROUNDING_STD, Averaged, Blurred
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.features import open_features
from tf_blurdiff.files import writable_file
from tf_blurdiff.model.restoration import check_restores
from tf_blurdiff.visualization import plotting

_MODEL = flags.DEFINE_string(
    "model", "runs/digits/model.keras", "The model: a .keras file, or the name of one that is shipped."
)
_CONFIG = flags.DEFINE_string("config", "digits.yaml", "The config whose data is restored.")
_SET = flags.DEFINE_multi_string("set", [], "Overrides of the config, such as data.split=test.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 256, "How many, evenly spaced over the data.", lower_bound=1)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 4, "Restored images whose mean is scored as well.", lower_bound=1)
_BLUR = flags.DEFINE_float("blur_sigma", 1.0, "The blur that is undone, in pixels.", lower_bound=0.0)
_FEATURES = flags.DEFINE_multi_string(
    "features", [], "A feature network for a column of its own: classifier:PATH, efficientnet_lite0; repeatable."
)
_OUT = flags.DEFINE_string("out", "restoration.png", "The picture: .png, .pdf or .svg.")
flags.register_validator(
    "out",
    lambda path: path.lower().endswith(plotting.FIGURE_SUFFIXES),
    f"must end in {', '.join(plotting.FIGURE_SUFFIXES)}",
)

_SHOWN = 8
_WINDOW = 7  # Of the structural similarity, in pixels: the usual 11 do not fit the smallest images.


def main():
    """Prints the table and draws the picture."""
    plotting.check_matplotlib()
    out = writable_file(_OUT.value, f"--out {_OUT.value}")
    model, images = bd.load_model(_MODEL.value), build_images(load_config(_CONFIG.value, _SET.value))
    check(model, images)
    networks = [open_features(name, images.image_shape) for name in _FEATURES.value]
    originals = to_unit_range(images.read(images.evenly_spaced(_NUM_IMAGES.value))).numpy()
    scores = {"PSNR, dB": (psnr, ".2f"), "SSIM": (ssim, ".3f")}
    for network in networks:
        distance = PerceptualDistance(network, originals)
        scores[f"distance, {network.name}"] = (lambda found, _, distance=distance: distance(found)), ".3f"
    print(f"{len(originals)} images, {_NUM_SEEDS.value} seeds, blur {_BLUR.value} px")
    for network in networks:
        print(f"{network.name}: {network.preparation}{'; ' if network.remark else ''}{network.remark}")
    print(f"| task | what | {' | '.join(scores)} |\n|{'---|' * (2 + len(scores))}", flush=True)
    sheet = {"original": originals}
    for task, rows in tasks(model, originals):
        for what, found in rows:
            figures = [format(score(found, originals), form) for score, form in scores.values()]
            print(f"| {task} | {what} | {' | '.join(figures)} |", flush=True)
            sheet[f"{task}: {what}"] = found
    save(out, sheet)


def check(model, images):
    """Raises a UserError for what cannot be restored."""
    check_restores(model)
    if images.image_shape != model.image_shape:
        raise UserError(
            f"--config: images {model.image_shape}, the model's, are expected. Received: {images.image_shape}"
        )
    if any(side % 2 or side < _WINDOW for side in model.image_shape[:2]):
        raise UserError(
            f"--model: images of an even height and width above {_WINDOW} are expected. Received: {model.image_shape}"
        )


def tasks(model, originals):
    """(name, rows) of each; the rows are pairs of what they are and images."""
    height, width = originals.shape[1:3]
    spectrum = np.asarray(model.freq_mean), np.asarray(model.freq_std)
    blurred = seen(bd.layers.HeatBlur()([originals, np.full(len(originals), _BLUR.value, "float32")]))
    deblur = lambda blurred, **how: model.deblur(blurred, _BLUR.value, **how)
    linear = linear_estimate(*spectrum, Blurred.of(blurred, [_BLUR.value], [ROUNDING_STD]))
    yield "deblur", rows({"as given": blurred, "linear estimate": linear}, deblur, blurred)
    small = seen(originals.reshape(len(originals), height // 2, 2, width // 2, 2, -1).mean(axis=(2, 4)))
    repeated = small.repeat(2, axis=1).repeat(2, axis=2)
    bicubic = np.clip(tf.image.resize(small, (height, width), "bicubic"), -1, 1)
    linear = linear_estimate(*spectrum, Averaged.of(small, [ROUNDING_STD]))
    simple = {"pixels repeated": repeated, "bicubic": bicubic, "linear estimate": linear}
    yield "twice the size", rows(simple, model.super_resolve, small)
    mask = np.zeros(originals.shape[:3], bool)
    mask[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    known = np.where(mask[..., None], np.nan, originals)
    filled = np.where(mask[..., None], np.nanmean(known, axis=(1, 2), keepdims=True), originals).astype("float32")
    simple = {"mean of what is known": filled, "linear estimate": linear_filling(*spectrum, originals, mask[0])}
    yield "fill in a quarter", rows(simple, model.inpaint, originals, mask)


def rows(simple, restore, *given):
    """The simple answers by name, then one restored image of each and the mean of several."""
    yield from simple.items()
    count = _NUM_SEEDS.value
    # All in one call, for a progress bar over all.
    copies = [np.concatenate([each] * count) for each in given]
    restored = restore(*copies, seeds=np.arange(len(copies[0])), verbose=True)
    restored = restored.reshape(count, -1, *restored.shape[1:])
    yield "restored", restored[0]
    yield f"mean of {count} seeds", restored.mean(axis=0)


def seen(images):
    """Rounded to 8 bits, as images come."""
    return to_unit_range(to_uint8(images)).numpy()


def psnr(images, originals):
    """Mean over the images."""
    return float(tf.reduce_mean(tf.image.psnr(images, originals, max_val=2.0)))


def ssim(images, originals):
    """Mean over the images."""
    return float(tf.reduce_mean(tf.image.ssim(images, originals, max_val=2.0, filter_size=_WINDOW)))


def save(path, sheet):
    """A row for each entry, a column for each image."""
    pictures = [list(to_uint8(images[:_SHOWN]).numpy()) for images in sheet.values()]
    plotting.save_figure(plotting.sheet(pictures, list(sheet), [""] * len(pictures[0])), path)
    print(f"picture: {path}")


if __name__ == "__main__":
    command_line.run(main)
