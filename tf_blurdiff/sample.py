"""Draws images from a trained model and writes them into files.

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

from tf_blurdiff import command_line
from tf_blurdiff.data import WRITTEN, read_image, save_grid, save_image, to_unit_range
from tf_blurdiff.devices import open_devices
from tf_blurdiff.errors import UserError, check_count
from tf_blurdiff.files import writable_file, writable_folder, writing
from tf_blurdiff.generation import SETTINGS_FILE, generate
from tf_blurdiff.model import load_model

FLAGS = command_line.Flags()
_MODEL = FLAGS.shared("model", required=True)
FLAGS.shared("imports")
_NUM_IMAGES = FLAGS.integer("num_images", 64, "How many images.")
FLAGS.sampling()
_SEED = FLAGS.shared("seed")
_LABELS, _LABEL = FLAGS.shared("labels"), FLAGS.shared("label")
_GUIDANCE_SCALE = FLAGS.shared("guidance_scale")
_NOISE_SEED = FLAGS.integer("noise_seed", None, "One seed for the steps' noise of all images.")
_INTERPOLATE_TO = FLAGS.integer("interpolate_to", None, "Go from --seed to this seed.")
_DETAIL_SEED = FLAGS.integer("detail_seed", None, "The first image's seed of details.")
_CUTOFF = FLAGS.float("cutoff", 0.25, "For --detail_seed: where details begin, of the highest frequency.")
_IMAGE = FLAGS.string("image", None, "A picture to start from.")
_STRENGTH = FLAGS.float("strength", 1.0, "With --image: how much of the process is undone, from 0 to 1.")
_TRAJECTORY = FLAGS.bool("trajectory", False, "Show z_t of the first seed at --num_images times of its way.")
_PRECISION = FLAGS.shared("precision")
_BATCH_SIZE = FLAGS.shared("batch_size")
_OUT = FLAGS.string(
    "out", None, "A grid of the images: .png (default, without --out_dir: samples.png), .jpg or .webp; or .npz for all."
)
_OUT_DIR = FLAGS.string("out_dir", None, "Folder for one PNG file per image, named after its seed.")
_STRATEGY = FLAGS.shared("strategy")
_REPLICAS = FLAGS.shared("replicas")


def main() -> None:
    """Samples, and says where the pictures are."""
    if _NUM_IMAGES.value < 1:
        raise UserError(f"--num_images must be 1 or more. Received: {_NUM_IMAGES.value}")
    method = _chosen_method()
    out, out_dir = _places()
    if method is _from_seeds and (out_dir or _is_npz(out)):
        _generate(out, out_dir)
    else:
        _draw(method, out, out_dir)


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
        _save_grid([read_image(out_dir / f"{name}.png", model.image_shape) for name in _names(seeds)], out)
    print(f"images: {out_dir}/{_names(seeds)[0]}.png ..." if out_dir else f"images: {out}")


def _draw(method, out, out_dir):
    """By any method, on one device, into a grid and files."""
    if _STRATEGY.value not in ("auto", "one_device") or _REPLICAS.value is not None:
        raise UserError("--strategy and --replicas are for images from seeds into --out_dir or an .npz")
    if _is_npz(out):
        raise UserError(f"an .npz is for images from seeds; expected a picture for --out. Received: {out}")
    if out_dir and (out_dir / SETTINGS_FILE).exists():
        raise UserError(f"--out_dir must be another folder: {out_dir} holds images that were made otherwise")
    stem = {_between_seeds: "between", _trajectory: "step"}.get(method, "seed")
    if out_dir and (there := sorted(out_dir.glob(f"{stem}_*.png"))):
        raise UserError(f"--out_dir must be another folder: {there[0]} is there, and may be of another call")
    if method is _trajectory:
        check_count("--num_images", _NUM_IMAGES.value, 2)  # The first is noise.
    model = load_model(_MODEL.value, _PRECISION.value)
    names, images = method(model, 1 if _TRAJECTORY.value else _NUM_IMAGES.value)
    if out:
        _save_grid(images, out)
    if out_dir:
        with writing(out_dir):
            for name, image in zip(names, images):
                save_image(image, out_dir / f"{name}.png")
        print(f"images: {out_dir}/{names[0]}.png ...")


def _save_grid(images, out):
    with writing(out):
        save_grid(np.stack(images), out)
    print(f"grid: {out}")


def _chosen_method():
    """The one method of sampling that the flags ask for: a function of the model and the number of seeds."""
    methods = {
        "noise_seed": (_NOISE_SEED, _from_seeds),
        "interpolate_to": (_INTERPOLATE_TO, _between_seeds),
        "detail_seed": (_DETAIL_SEED, _from_bands),
        "image": (_IMAGE, _from_image),
        "trajectory": (_TRAJECTORY, _trajectory),
    }
    asked = [name for name, (flag, _) in methods.items() if flag.value is not None and flag.value is not False]
    if len(asked) > 1:
        raise UserError(f"give one of --{' and --'.join(asked)}, not both")
    for name, of in (("strength", "image"), ("cutoff", "detail_seed")):
        if FLAGS.values[name].present and of not in asked:
            raise UserError(f"--{name} is for --{of}, which is not given")
    return methods[asked[0]][1] if asked else _from_seeds


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
        **FLAGS.sampling_arguments(),
        "labels": command_line.labels_in_turn(_LABELS, model.num_classes, count, _LABEL, model.class_names),
        "guidance_scale": _GUIDANCE_SCALE.value,
        "batch_size": _BATCH_SIZE.value,
        "verbose": True,
    }


def _seeds(first, count):
    return list(range(first, first + count))


def _names(seeds):
    return [f"seed_{seed}" for seed in seeds]


def _is_npz(path):
    return path is not None and path.suffix.lower() == ".npz"


def _places():
    """The file (grid or .npz) and the images' folder, either may be None; made before hours of sampling, not after."""
    out_dir = writable_folder(_OUT_DIR.value, f"--out_dir {_OUT_DIR.value}") if _OUT_DIR.value else None
    out = _OUT.value or (None if out_dir else "samples.png")
    if out and not pathlib.Path(out).is_dir() and pathlib.Path(out).suffix.lower() not in (*WRITTEN, ".npz"):
        raise UserError(f"--out must end in {', '.join(WRITTEN)} or .npz. Received: {out}")
    return writable_file(out, f"--out {out}") if out else None, out_dir


if __name__ == "__main__":
    command_line.run(main, FLAGS.values)
