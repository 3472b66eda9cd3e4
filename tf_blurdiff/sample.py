"""Draws images from a trained model and writes them as PNG files.

    python -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 64 --out samples.png
    python -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 1000 --out_dir samples
    python -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 50000 --out samples.npz

Image number i has the seed --seed + i and depends on it alone: the same seed is the same image in any batch, and on
however many devices. For a folder or an .npz all GPUs work, and all machines of TF_CONFIG; the same command again makes
only what is missing. Other ways to use seeds, one at a time; but for the first, on one device and not into an .npz:

    --noise_seed 7             starts of their own, all with the noise of seed 7 in the steps
    --interpolate_to 99        images on the way from --seed to seed 99
    --detail_seed 50           coarse structure of --seed + i, details of 50 + i
    --image photo.png --strength 0.6   variations of a picture
    --trajectory               what one seed's image looked like on its way
"""

import pathlib

import numpy as np
from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.data.image_files import read_image
from tf_blurdiff.data.pictures import save_grid, save_png
from tf_blurdiff.data.sources import to_unit_range
from tf_blurdiff.devices import STRATEGIES, open_devices
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.samplers import SAMPLERS
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writable_file, writable_folder
from tf_blurdiff.generation import SETTINGS_FILE, generate
from tf_blurdiff.model.diffusion_model import load_model
from tf_blurdiff.networks.precision import PRECISIONS

_MODEL = flags.DEFINE_string(
    "model", None, "The model: a .keras file, or digits or fashion_mnist, which are shipped.", required=True
)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 64, "How many images.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Calls of the network (default: the model's own).")
_SAMPLER = flags.DEFINE_enum("sampler", None, list(SAMPLERS), "The sampler (default: the model's own).")
_GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "Times of the steps (default: the model's or sampler's own).")
_ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim, from 0 (deterministic) to 1 (ancestral).")
_DELTA = flags.DEFINE_float("delta", None, "Noise of heat (default: 1.25 times the process's sigma).")
_SEED = flags.DEFINE_integer("seed", 0, "The first image's seed.")
_LABELS = flags.DEFINE_list("labels", None, "Labels to take in turn, for a model with labels (default: all classes).")
_GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", 1.0, "Above 1: images more typical of their label.")
_NOISE_SEED = flags.DEFINE_integer("noise_seed", None, "One seed for the steps' noise of all images.")
_INTERPOLATE_TO = flags.DEFINE_integer("interpolate_to", None, "Go from --seed to this seed.")
_DETAIL_SEED = flags.DEFINE_integer("detail_seed", None, "The first image's seed of details.")
_CUTOFF = flags.DEFINE_float("cutoff", 0.25, "For --detail_seed: where details begin, of the highest frequency.")
_IMAGE = flags.DEFINE_string("image", None, "A picture to start from.")
_STRENGTH = flags.DEFINE_float("strength", 1.0, "With --image: how much of the process is undone, from 0 to 1.")
_TRAJECTORY = flags.DEFINE_bool("trajectory", False, "Show z_t of the first seed at --num_images times of its way.")
_PRECISION = flags.DEFINE_enum(
    "precision", None, list(PRECISIONS), "Of the network's arithmetic (default: as the model was trained)."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images at once (default: by their size).", lower_bound=1)
_OUT = flags.DEFINE_string(
    "out", None, "PNG file for a grid of the images (default, without --out_dir: samples.png); or .npz file for all."
)
_OUT_DIR = flags.DEFINE_string("out_dir", None, "Folder for one PNG file per image, named after its seed.")
_STRATEGY = flags.DEFINE_enum(
    "strategy", "auto", list(STRATEGIES), "For --out_dir and .npz; auto: the workers of TF_CONFIG, or all GPUs."
)
_REPLICAS = flags.DEFINE_integer("replicas", None, "With --strategy mirrored: how many devices (default: all GPUs).")


def main():
    """Samples, and says where the pictures are."""
    if _NUM_IMAGES.value < 1:
        raise UserError(f"--num_images must be 1 or more. Received: {_NUM_IMAGES.value}")
    way = _way()
    out, out_dir = _places()
    if way is _from_seeds and (out_dir or _is_npz(out)):
        _generate(out, out_dir)
    else:
        _draw(way, out, out_dir)


def _generate(out, out_dir):
    """From seeds, on all devices, into files."""
    if out_dir and _is_npz(out):
        raise UserError(f"give --out_dir or an .npz, not both. Received: {out_dir} and {out}")
    devices = open_devices(_STRATEGY.value, _REPLICAS.value, in_step=False)
    print(devices.describe())
    with devices.strategy.scope():
        model = load_model(_MODEL.value, _PRECISION.value)
    seeds = _seeds(_SEED.value, _NUM_IMAGES.value)
    generate(model, seeds, out_dir or out, devices, noise_seed=_NOISE_SEED.value, **_sampling(model, len(seeds)))
    if not devices.is_chief:
        print("the images of this worker are made; the first worker says when all are")
        return
    if out_dir and out:
        save_grid(np.stack([read_image(out_dir / f"{name}.png", model.image_shape) for name in _names(seeds)]), out)
        print(f"grid: {out}")
    print(f"images: {out_dir}/{_names(seeds)[0]}.png ..." if out_dir else f"images: {out}")


def _draw(way, out, out_dir):
    """In any way, on one device, into a grid and files."""
    if _STRATEGY.value not in ("auto", "one_device") or _REPLICAS.value is not None:
        raise UserError("--strategy and --replicas are for images from seeds into --out_dir or an .npz")
    if _is_npz(out):
        raise UserError(f"an .npz is for images from seeds; expected a PNG file for --out. Received: {out}")
    if out_dir and (out_dir / SETTINGS_FILE).exists():
        raise UserError(f"--out_dir must be another folder: {out_dir} holds images that were made otherwise")
    model = load_model(_MODEL.value, _PRECISION.value)
    names, images = way(model, 1 if _TRAJECTORY.value else _NUM_IMAGES.value)
    if out:
        save_grid(images, out)
        print(f"grid: {out}")
    if out_dir:
        for name, image in zip(names, images):
            save_png(image, out_dir / f"{name}.png")
        print(f"images: {out_dir}/{names[0]}.png ...")


def _way():
    """The one way of sampling that the flags ask for: a function of the model and the number of seeds."""
    ways = {
        "noise_seed": (_NOISE_SEED, _from_seeds),
        "interpolate_to": (_INTERPOLATE_TO, _between_seeds),
        "detail_seed": (_DETAIL_SEED, _from_bands),
        "image": (_IMAGE, _from_image),
        "trajectory": (_TRAJECTORY, _trajectory),
    }
    asked = [name for name, (flag, _) in ways.items() if flag.value not in (None, False)]
    if len(asked) > 1:
        raise UserError(f"give one of --{' and --'.join(asked)}, not both")
    return ways[asked[0]][1] if asked else _from_seeds


def _from_seeds(model, count):
    noise_seeds = None if _NOISE_SEED.value is None else [_NOISE_SEED.value] * count
    seeds = _seeds(_SEED.value, count)
    return _names(seeds), model.sample(seeds, noise_seeds=noise_seeds, **_sampling(model, count))


def _between_seeds(model, count):
    images = model.interpolate(_SEED.value, _INTERPOLATE_TO.value, count, **_sampling(model, count))
    return [f"between_{number}" for number in range(count)], images


def _from_bands(model, count):
    seeds, others = _seeds(_SEED.value, count), _seeds(_DETAIL_SEED.value, count)
    return _names(seeds), model.mix_bands(seeds, others, _CUTOFF.value, **_sampling(model, count))


def _from_image(model, count):
    image = to_unit_range(read_image(_IMAGE.value, model.image_shape)).numpy()
    seeds, images = _seeds(_SEED.value, count), np.repeat(image[None], count, axis=0)
    return _names(seeds), model.sample(seeds, images=images, strength=_STRENGTH.value, **_sampling(model, count))


def _trajectory(model, count):
    images = model.sample([_SEED.value], return_trajectory=True, **_sampling(model, 1))[:, 0]
    shown = np.unique(np.linspace(0, len(images) - 1, _NUM_IMAGES.value).round().astype(int))
    return [f"step_{number}" for number in shown], images[shown]


def _sampling(model, count):
    return {
        "num_steps": _NUM_STEPS.value,
        "sampler": _SAMPLER.value,
        "grid": _GRID.value,
        "eta": _ETA.value,
        "delta": _DELTA.value,
        "labels": _labels(model.num_classes, count),
        "guidance_scale": _GUIDANCE_SCALE.value,
        "batch_size": _BATCH_SIZE.value,
        "verbose": True,
    }


def _seeds(first, count):
    return list(range(first, first + count))


def _names(seeds):
    return [f"seed_{seed}" for seed in seeds]


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


def _is_npz(path):
    return path is not None and path.suffix == ".npz"


def _places():
    """The file (grid or .npz) and the images' folder, either may be None; made before hours of sampling, not after."""
    out_dir = pathlib.Path(_OUT_DIR.value) if _OUT_DIR.value else None
    out = pathlib.Path(_OUT.value or "samples.png") if _OUT.value or not out_dir else None
    if out_dir:
        writable_folder(out_dir, f"--out_dir {out_dir}")
    if out:
        writable_file(out, f"--out {out}")
    return out, out_dir


if __name__ == "__main__":
    command_line.run(main)
