"""Draws what a process or a model does.

    python -m tf_blurdiff.visualize --what forward --image photo.png --out forward.png --out forward.gif
    python -m tf_blurdiff.visualize --what schedules --config cifar10.yaml
    python -m tf_blurdiff.visualize --what trajectory --model runs/digits/model.keras --seeds 0,1,2
    python -m tf_blurdiff.visualize --what interpolate --model runs/digits/model.keras --seeds 0,1,2,3
    python -m tf_blurdiff.visualize --what solvers --model runs/digits/model.keras --out solvers.png --out solvers.csv

--what is one of

    forward      a picture on its way to t = 1, in each of the four families or as configs say
    schedules    signal, noise, blur and the log-SNR of some frequencies over t, in the same
    trajectory   z_t and the estimate of the image on a model's way from noise to each seed's image
    interpolate  images on the way from one seed to another, for pairs of seeds
    solvers      how far deterministic samplers are from their limit, by the number of steps

--out may be repeated; its suffix says what to write: .png, .pdf or .svg a sheet or a plot; .gif, .webp or .apng an
animation (forward, trajectory, interpolate); .csv or .json the table (solvers). docs/visualize.md shows all of them.
"""

import pathlib

import numpy as np
from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.config.schema import build_process, load_config
from tf_blurdiff.data.image_files import read_image
from tf_blurdiff.data.sources import open_images, to_uint8, to_unit_range
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.samplers import SAMPLERS
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writable_file
from tf_blurdiff.model.diffusion_model import load_model
from tf_blurdiff.visualization import inspection, plotting

# Times of an animation of the forward process, and the most rows of a sheet.
_FRAMES, _MOST_SEEDS = 41, 32
_PICTURES = (*plotting.FIGURE_SUFFIXES, *plotting.ANIMATION_SUFFIXES)
# What each takes beside --what and --out; what it may write.
_OF_MODEL = ("model", "seeds", "labels", "num_images", "num_steps", "sampler", "grid")
_TAKES = {
    "forward": (("config", "set", "image", "image_size", "num_images"), _PICTURES),
    "schedules": (("config", "set", "image_size"), plotting.FIGURE_SUFFIXES),
    "trajectory": (_OF_MODEL, _PICTURES),
    "interpolate": (_OF_MODEL, _PICTURES),
    "solvers": (
        ("model", "seeds", "labels", "num_steps", "grid", "reference_steps"),
        (*plotting.FIGURE_SUFFIXES, *plotting.TABLE_SUFFIXES),
    ),
}

_WHAT = flags.DEFINE_enum("what", None, list(_TAKES), "What to draw.", required=True)
_CONFIG = flags.DEFINE_multi_string(
    "config", [], "YAML file, or the name of one that is shipped; repeatable (default: the four families as published)."
)
_SET = flags.DEFINE_multi_string("set", [], "Overrides one value of the configs; repeatable.")
_IMAGE = flags.DEFINE_string("image", None, "A picture (default: a digit of scikit-learn's).")
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Height and width in pixels (default: the config's, or 32).", lower_bound=2, upper_bound=1024
)
_MODEL = flags.DEFINE_string("model", None, "The model: a .keras file, or digits or fashion_mnist, which are shipped.")
_SEEDS = flags.DEFINE_list(
    "seeds", None, "Seeds; interpolate takes them in pairs (default: 0,1,2,3; for solvers 0 to 15)."
)
_LABELS = flags.DEFINE_list("labels", None, "Labels to take in turn, for a model with labels (default: all classes).")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 9, "Pictures in a row of a sheet; of interpolate, also in an animation.", lower_bound=2,
    upper_bound=256,
)  # fmt: skip
_NUM_STEPS = flags.DEFINE_list(
    "num_steps", None, "Calls of the network (default: the model's own); for solvers several (5,10,20,40,80)."
)
_REFERENCE_STEPS = flags.DEFINE_integer("reference_steps", 400, "For solvers: what counts as the limit.")
_SAMPLER = flags.DEFINE_enum("sampler", None, list(SAMPLERS), "The sampler (default: the model's own).")
_GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "Times of the steps (default: the model's or sampler's own).")
_OUT = flags.DEFINE_multi_string("out", [], "File to write; repeatable (default: WHAT.png, and solvers.csv).")


def main():
    """Draws, and says where the files are."""
    _check_flags()
    outs = _outs()
    if any(out.suffix in plotting.FIGURE_SUFFIXES for out in outs):
        plotting.check_matplotlib()
    writers = {
        "forward": _forward, "schedules": _schedules, "trajectory": _trajectory, "interpolate": _interpolate,
        "solvers": _solvers,
    }  # fmt: skip
    write = writers[_WHAT.value](outs)
    for out in outs:
        try:
            write(out)
        except OSError as error:
            raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
        print(f"{_WHAT.value}: {out}")


# What can be drawn: each does the work and returns a function that writes one file


def _forward(outs):
    rows = {}
    num_times = _FRAMES if any(map(_is_animation, outs)) else 0
    sheet_times, frame_times = np.linspace(0.0, 1.0, _NUM_IMAGES.value), np.linspace(0.0, 1.0, num_times)
    for name, process, image_shape in _processes():
        image = _picture(image_shape)
        rows[name] = [inspection.diffused(process, image, times) for times in (sheet_times, frame_times) if len(times)]
    return _picture_writer(
        lambda: ([row[0] for row in rows.values()], list(rows), [f"t = {t:.2f}" for t in sheet_times]),
        lambda: ({name: row[1] for name, row in rows.items()}, [f"t = {t:.2f}" for t in frame_times]),
    )


def _schedules(outs):
    curves_of = {name: inspection.curves(process, shape[1]) for name, process, shape in _processes()}
    return lambda out: plotting.save_figure(plotting.schedule_figure(curves_of), out)


def _trajectory(outs):
    seeds, model = _seeds(range(4), at_most=_MOST_SEEDS), _model()
    labels = _labels(model, len(seeds))
    way = inspection.trajectory(model, seeds, _NUM_IMAGES.value, labels, verbose=True, **_sampling(model))
    frames = {f"seed {seed}": way.z_t[:, number] for number, seed in enumerate(seeds)}
    return _picture_writer(lambda: _trajectory_sheet(way, seeds), lambda: (frames, [f"t = {t:.2f}" for t in way.times]))


def _trajectory_sheet(way, seeds):
    rows, labels = [], []
    for number, seed in enumerate(seeds):
        rows.append(list(way.z_t[way.chosen, number]))
        labels.append(f"seed {seed}   $z_t$")
        if way.x0_hat is not None:
            # At t = 0 there is no estimate: the image is there.
            rows.append([*way.x0_hat[:, number], None])
            labels.append("$\\hat{x}_0$")
    return rows, labels, [f"t = {t:.2f}" for t in way.times[way.chosen]]


def _interpolate(outs):
    seeds, count = _seeds(range(4), at_most=2 * _MOST_SEEDS), _NUM_IMAGES.value
    if len(seeds) % 2:
        raise UserError(f"--seeds must be pairs for --what interpolate. Received: {len(seeds)} seeds")
    pairs, model = list(zip(seeds[::2], seeds[1::2])), _model()
    labels = _labels(model, len(pairs)) or [None] * len(pairs)
    rows = {}
    for (first, last), label in zip(pairs, labels):
        repeated = None if label is None else [label] * count
        images = model.interpolate(first, last, count, labels=repeated, verbose=True, **_sampling(model))
        rows[f"seed {first} to {last}"] = to_uint8(images).numpy()
    shares = [f"{share:.2f}" for share in np.linspace(0.0, 1.0, count)]
    return _picture_writer(lambda: (list(rows.values()), list(rows), shares), lambda: (rows, shares))


def _solvers(outs):
    counts = sorted(set(_integers("num_steps", _NUM_STEPS.value or ["5", "10", "20", "40", "80"])))
    seeds, model = _seeds(range(16)), _model()
    errors = inspection.solver_errors(
        model, seeds, counts, _REFERENCE_STEPS.value, _GRID.value, _labels(model, len(seeds)), verbose=True
    )
    print(f"{'sampler':<12}{'grid':<11}{'steps':>6}  difference to {_REFERENCE_STEPS.value} steps (root mean square)")
    for error in errors:
        print(f"{error.sampler:<12}{error.grid:<11}{error.num_steps:>6}  {error.error:.3g}")

    def write(out):
        if out.suffix.lower() in plotting.TABLE_SUFFIXES:
            plotting.save_table(errors, out)
        else:
            plotting.save_figure(plotting.solver_figure(errors), out)

    return write


def _picture_writer(sheet, animation):
    def write(out):
        if _is_animation(out):
            plotting.save_animation(plotting.frames(*animation()), out)
        else:
            plotting.save_figure(plotting.sheet(*sheet()), out)

    return write


# What the flags say


def _check_flags():
    """A flag that would do nothing is a mistake."""
    what, takes = _WHAT.value, _TAKES[_WHAT.value][0]
    for name in dict.fromkeys(name for names, _ in _TAKES.values() for name in names):
        if flags.FLAGS[name].present and name not in takes:
            raise UserError(f"--{name} is not for --what {what}, which takes --{', --'.join(takes)} and --out")
    if "model" in takes and not _MODEL.value:
        raise UserError(f"--what {what} needs --model, a .keras file")
    if _SET.value and not _CONFIG.value:
        raise UserError("--set overrides values of a config: give --config too")


def _processes():
    """Yields `(name, Process, image_shape)` of the configs, or of the four families."""
    for name in _CONFIG.value:
        config = load_config(name, _SET.value)
        size = config.image_shape[:2] if _IMAGE_SIZE.value is None else (_IMAGE_SIZE.value,) * 2
        yield pathlib.Path(name).stem, build_process(config), (*size, config.data.channels)
    if not _CONFIG.value:
        size, channels = _IMAGE_SIZE.value or 32, 3 if _IMAGE.value else 1
        for name, process in inspection.families().items():
            yield name, process, (size, size, channels)


def _picture(image_shape):
    """The picture that the user gave or a digit, float32 `[H, W, C]` in [-1, 1]."""
    if _IMAGE.value:
        return to_unit_range(read_image(_IMAGE.value, image_shape)).numpy()
    digits = open_images("digits", image_size=list(image_shape[:2]), channels=image_shape[2])
    return to_unit_range(digits.read(np.array([0]))[0]).numpy()


def _model():
    return load_model(_MODEL.value)


def _sampling(model):
    num_steps = _integers("num_steps", _NUM_STEPS.value or [model.num_steps])
    if len(num_steps) != 1:
        raise UserError(f"--num_steps must be one number for --what {_WHAT.value}. Received: {len(num_steps)}")
    return {"num_steps": num_steps[0], "sampler": _SAMPLER.value, "grid": _GRID.value}


def _seeds(default, at_most=None):
    seeds = list(default) if _SEEDS.value is None else _integers("seeds", _SEEDS.value)
    if at_most is not None and len(seeds) > at_most:
        raise UserError(f"--seeds must be at most {at_most} for --what {_WHAT.value}. Received: {len(seeds)}")
    return seeds


def _labels(model, count):
    if model.num_classes is None and _LABELS.value is None:
        return None
    labels = range(model.num_classes or 1) if _LABELS.value is None else _integers("labels", _LABELS.value)
    return [labels[i % len(labels)] for i in range(count)]


def _integers(name, values):
    try:
        integers = [int(value) for value in values]
    except ValueError:
        raise UserError(f"--{name} must be integers. Received: {','.join(values)}") from None
    if not integers:
        raise UserError(f"--{name} must be integers. Received: nothing")
    return integers


def _is_animation(out):
    return out.suffix.lower() in plotting.ANIMATION_SUFFIXES


def _outs():
    """The files to write; their folders are made before the work, not after."""
    what = _WHAT.value
    defaults = [f"{what}.png", *([f"{what}.csv"] if what == "solvers" else [])]
    outs = [pathlib.Path(out) for out in _OUT.value or defaults]
    for out in outs:
        if out.suffix.lower() not in _TAKES[what][1]:
            raise UserError(f"--out of --what {what} must end in {', '.join(_TAKES[what][1])}. Received: {out}")
        writable_file(out, f"--out {out}")
    return outs


if __name__ == "__main__":
    command_line.run(main)
