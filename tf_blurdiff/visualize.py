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
from collections.abc import Iterator

import numpy as np

from tf_blurdiff import command_line
from tf_blurdiff.config import build_process, load_config, with_pictures
from tf_blurdiff.data import open_images, read_image, to_unit_range
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writable_file, writing
from tf_blurdiff.model import load_model
from tf_blurdiff.visualization import drawings, inspection, plotting

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

FLAGS = command_line.Flags()
_WHAT = FLAGS.enum("what", None, list(_TAKES), "What to draw.", required=True)
_CONFIG = FLAGS.shared("config", repeatable=True)
_SET = FLAGS.shared("set")
_IMAGE = FLAGS.string("image", None, "A picture (default: a digit of scikit-learn's).")
_IMAGE_SIZE = FLAGS.integer(
    "image_size", None, "Height and width in pixels (default: the config's, or 32).", lower_bound=2, upper_bound=1024
)
_MODEL = FLAGS.shared("model")
FLAGS.shared("imports")
_SEEDS = FLAGS.list("seeds", None, "Seeds; interpolate takes them in pairs (default: 0,1,2,3; for solvers 0 to 15).")
_LABELS = FLAGS.shared("labels")
_NUM_IMAGES = FLAGS.integer(
    "num_images", 9, "Pictures in a row of a sheet; of interpolate, also in an animation.", lower_bound=2,
    upper_bound=256,
)  # fmt: skip
_NUM_STEPS = FLAGS.list(
    "num_steps", None, "Calls of the network (default: the model's own); for solvers several (5,10,20,40,80)."
)
_REFERENCE_STEPS = FLAGS.integer("reference_steps", 400, "For solvers: what counts as the limit.")
_SAMPLER, _GRID = FLAGS.shared("sampler"), FLAGS.shared("grid")
_OUT = FLAGS.multi_string("out", [], "File to write (default: WHAT.png, and solvers.csv)")


def main() -> None:
    """Draws, and says where the files are."""
    _check_flags()
    outs = _outs()
    if any(out.suffix.lower() in plotting.FIGURE_SUFFIXES for out in outs):
        plotting.check_matplotlib()
    draw = {
        "forward": _forward, "schedules": _schedules, "trajectory": _trajectory, "interpolate": _interpolate,
        "solvers": _solvers,
    }  # fmt: skip
    drawing = draw[_WHAT.value](outs)
    for out in outs:
        with writing(out, errors=(OSError, ValueError)):  # Which Pillow raises for a picture too large for the form.
            drawing.write(out)
        print(f"{_WHAT.value}: {out}")


def _forward(outs: list[pathlib.Path]) -> drawings.Drawing:
    moving = any(out.suffix.lower() in plotting.ANIMATION_SUFFIXES for out in outs)
    processes = ((name, process, _picture(shape)) for name, process, shape in _processes())
    return drawings.forward(processes, _NUM_IMAGES.value, _FRAMES if moving else 0)


def _schedules(outs: list[pathlib.Path]) -> drawings.Drawing:
    return drawings.schedules((name, process, shape[1]) for name, process, shape in _processes())


def _trajectory(outs: list[pathlib.Path]) -> drawings.Drawing:
    seeds, model = _seeds(range(4), at_most=_MOST_SEEDS), load_model(_MODEL.value)
    labels = command_line.labels_in_turn(_LABELS, model.num_classes, len(seeds))
    return drawings.trajectory(model, seeds, _NUM_IMAGES.value, labels, verbose=True, **_sampling())


def _interpolate(outs: list[pathlib.Path]) -> drawings.Drawing:
    seeds = _seeds(range(4), at_most=2 * _MOST_SEEDS)
    if len(seeds) % 2:
        raise UserError(f"--seeds must be pairs for --what interpolate. Received: {len(seeds)} seeds")
    pairs, model = list(zip(seeds[::2], seeds[1::2])), load_model(_MODEL.value)
    labels = command_line.labels_in_turn(_LABELS, model.num_classes, len(pairs))
    return drawings.interpolations(model, pairs, _NUM_IMAGES.value, labels, verbose=True, **_sampling())


def _solvers(outs: list[pathlib.Path]) -> drawings.Drawing:
    counts = sorted(set(command_line.integers(_NUM_STEPS))) if _NUM_STEPS.present else [5, 10, 20, 40, 80]
    seeds, model = _seeds(range(16)), load_model(_MODEL.value)
    labels = command_line.labels_in_turn(_LABELS, model.num_classes, len(seeds))
    errors = inspection.solver_errors(model, seeds, counts, _REFERENCE_STEPS.value, _GRID.value, labels, verbose=True)
    drawing = drawings.SolverErrors(errors)
    print(drawing)
    return drawing


def _check_flags() -> None:
    """A flag that would do nothing is a mistake."""
    what, takes = _WHAT.value, _TAKES[_WHAT.value][0]
    for name in dict.fromkeys(name for names, _ in _TAKES.values() for name in names):
        if FLAGS.values[name].present and name not in takes:
            raise UserError(f"--{name} is not for --what {what}, which takes --{', --'.join(takes)} and --out")
    if "model" in takes and not _MODEL.value:
        raise UserError(f"--what {what} needs --model, a .keras file")
    if _SET.value and not _CONFIG.value:
        raise UserError("--set overrides values of a config: give --config too")


def _outs() -> list[pathlib.Path]:
    """The files to write; their folders are made before the work, not after."""
    what = _WHAT.value
    outs = _OUT.value or [f"{what}.png", *([f"{what}.csv"] if what == "solvers" else [])]
    for out in outs:
        if pathlib.Path(out).suffix.lower() not in _TAKES[what][1]:
            raise UserError(f"--out of --what {what} must end in {', '.join(_TAKES[what][1])}. Received: {out}")
    return [writable_file(out, f"--out {out}") for out in outs]


def _processes() -> Iterator[tuple[str, Process, tuple[int, int, int]]]:
    """Yields `(name, Process, image_shape)` of the configs, or of the four families as published."""
    for name in _CONFIG.value or []:
        config, size = load_config(name, _SET.value), _IMAGE_SIZE.value
        shape = (size, size, config.data.channels) if size else with_pictures(config).image_shape
        path = pathlib.Path(name)
        # All run directories' configs are called so.
        yield path.stem if path.stem != "config" else path.absolute().parent.name, build_process(config), shape
    if not _CONFIG.value:
        size, channels = _IMAGE_SIZE.value or 32, 3 if _IMAGE.value else 1
        for name, process in inspection.families().items():
            yield name, process, (size, size, channels)


def _picture(image_shape: tuple[int, int, int]) -> np.ndarray:
    """The picture that the user gave or a digit, float32 `[H, W, C]` in [-1, 1]."""
    if _IMAGE.value:
        return to_unit_range(read_image(_IMAGE.value, image_shape)).numpy()
    first = open_images("digits", image_size=list(image_shape[:2]), channels=1, split="train[:1]")
    return to_unit_range(first.read(np.array([0]))[0]).numpy().repeat(image_shape[2], axis=-1)


def _sampling() -> dict:
    num_steps = command_line.integers(_NUM_STEPS) if _NUM_STEPS.present else [None]
    if len(num_steps) != 1:
        raise UserError(f"--num_steps must be one number for --what {_WHAT.value}. Received: {len(num_steps)}")
    return {**FLAGS.sampling_arguments(), "num_steps": num_steps[0]}


def _seeds(default: range, at_most: int | None = None) -> list[int]:
    seeds = command_line.integers(_SEEDS) if _SEEDS.present else list(default)
    if at_most is not None and len(seeds) > at_most:
        raise UserError(f"--seeds must be at most {at_most} for --what {_WHAT.value}. Received: {len(seeds)}")
    return seeds


if __name__ == "__main__":
    command_line.run(main, FLAGS.values)
