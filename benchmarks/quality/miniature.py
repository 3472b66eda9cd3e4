"""The paper in miniature: the four families and the strength of the blur, on Fashion-MNIST at 16x16.

    python benchmarks/quality/miniature.py --runs runs/miniature
    python benchmarks/quality/miniature.py --runs runs/miniature --part evaluate --only blurring --only gaussian
    python benchmarks/quality/miniature.py --runs runs/miniature --part tables --out docs/miniature.png

Its parts, all of them unless told otherwise: `train` trains every run, `evaluate` draws and scores the samples of every
run of full length, `calls` those of other samplers, numbers of calls and predictions, the last of runs a third as long,
`curves` trains and scores in turns, `tables` prints what is there. Each is made of calls of the package's own command
lines, which it prints: the same command again goes on where it was stopped. A training takes about twelve minutes of
one core with AVX512_BF16; for all of it plan many hours of two. On a GPU, where a network as small as this leaves most
of the card idle, --jobs 8 trains eight of them side by side, and writes what they say to RUN.log.
"""

import json
import pathlib

import numpy as np
from absl import flags
from family_picture import family_picture
from learning_curves import curves_table, draw_curves
from miniature_tables import calls_table, print_rows, runs_table, samplers_table
from trainings import EPS, PREDICTIONS, overrides, run, side_by_side

from tf_blurdiff import command_line
from tf_blurdiff.config.loading import build_images, load_config
from tf_blurdiff.data.pictures import read_image
from tf_blurdiff.errors import UserError

BLUR, GAUSSIAN = "miniature.yaml", "miniature_gaussian.yaml"
CONFIGS = {"gaussian": GAUSSIAN, "blurring": BLUR}
# docs/results.md has these runs of 3,000 steps with the prediction and the sampler that were the default then.
ONCE = (*EPS, "sample.sampler=multistep3")
TWICE = (*EPS, "train.steps=6000", "train.decay_steps=6000", "train.precision=float32")
SHORT = ("train.steps=1000", "train.decay_steps=1000")
DECIDING = ("preconditioned_0.25", "preconditioned_0.5")
RUNS = {
    "gaussian": (GAUSSIAN, ONCE),
    "blurring": (BLUR, ONCE),
    "heat_dissipation": ("miniature_heat_dissipation.yaml", ()),
    "cold": ("miniature_cold.yaml", ()),
    "gaussian_1": (GAUSSIAN, (*ONCE, "train.seed=1")),
    "blurring_1": (BLUR, (*ONCE, "train.seed=1")),
    "gaussian_2": (GAUSSIAN, (*ONCE, "train.seed=2")),
    "blurring_2": (BLUR, (*ONCE, "train.seed=2")),
    "blurring_small": (BLUR, (*ONCE, "process.sigma_blur_max=2.5")),
    "blurring_strong": (BLUR, (*ONCE, "process.sigma_blur_max=20")),
    "blurring_sin": (BLUR, (*ONCE, "process.blur_schedule=sin")),
    "gaussian_long": (GAUSSIAN, TWICE),
    "blurring_long": (BLUR, TWICE),
}
# What the network predicts, of three seeds where it decides.
PREDICTED_ROWS = {
    f"{family}, {name}": [f"{family}_{name}_{seed}" for seed in range(3 if name in DECIDING else 1)]
    for family in CONFIGS
    for name in PREDICTIONS
}
PREDICTED = {
    run_name: (CONFIGS[family], (*SHORT, *PREDICTIONS[name], f"train.seed={seed}"))
    for title, names in PREDICTED_ROWS.items()
    for family, name in [title.split(", ")]
    for seed, run_name in enumerate(names)
}
# The distances of trainings on the way to 3,000 steps: a line of the picture each.
CURVES = {
    f"{family}, {name}": (config, prediction)
    for family, config in CONFIGS.items()
    for name, prediction in {"eps": EPS, "preconditioned": ()}.items()
}
CURVE_STEPS = (500, 1000, 2000, 3000)
# The rows of the tables, each of one run or of several that differ in the seed.
FAMILIES = {
    "gaussian": ("gaussian", "gaussian_1", "gaussian_2"),
    "blurring": ("blurring", "blurring_1", "blurring_2"),
    "heat dissipation": ("heat_dissipation",),
    "cold": ("cold",),
}
STRENGTHS = {
    "0 (gaussian)": FAMILIES["gaussian"],
    "2.5": ("blurring_small",),
    "10, published": FAMILIES["blurring"],
    "20": ("blurring_strong",),
    "10, sin and not sin squared": ("blurring_sin",),
}
LENGTHS = {
    "gaussian, 3,000 steps": FAMILIES["gaussian"],
    "blurring, 3,000 steps": FAMILIES["blurring"],
    "gaussian, 6,000 steps": ("gaussian_long",),
    "blurring, 6,000 steps": ("blurring_long",),
}
# Whose samples the picture has where they are there: the families' runs predict eps.
PICTURED = {family: f"{family}, preconditioned" for family in CONFIGS}
# The evaluations of `calls`: runs, samplers, calls of the network and number of images.
_SAMPLED = ("blurring", "gaussian", "blurring_long")
MANY_CALLS = {
    "solvers": (_SAMPLED, ("ancestral2", "ddim", "multistep2", "multistep3"), (10, 20, 50), 1000),
    "ancestral": (_SAMPLED, ("ancestral",), (50, 250, 1000), 1000),
    "predictions": (tuple(PREDICTED), ("ancestral2", "multistep3"), (20,), 1000),
}
PARTS = ("train", "evaluate", "calls", "curves", "tables")
_SHOWN, _ZOOM = 36, 3

_RUNS = flags.DEFINE_string("runs", "runs/miniature", "The folder of the run directories.")
_PART = flags.DEFINE_multi_enum("part", None, PARTS, "What to do; repeatable (default: everything).")
_ONLY = flags.DEFINE_multi_enum(
    "only", None, [*RUNS, *PREDICTED, *CURVES], "These runs alone; repeatable (default: all)."
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Trainings side by side.", lower_bound=1)
_DATA_ROOT = flags.DEFINE_string("data_root", None, "Where TFDS keeps its data (default: its own place).")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 3000, "Samples of each run.", lower_bound=256)
_NUM_REFERENCE = flags.DEFINE_integer("num_reference", 6000, "Real images, evenly spaced.", lower_bound=512)
_OUT = flags.DEFINE_string("out", "miniature.png", "The picture of the families.")
_CURVES_OUT = flags.DEFINE_string("curves_out", "learning_curves.png", "The picture of the curves.")


def main():
    """Runs the parts in their order."""
    parts = {"train": _train, "evaluate": _evaluate, "calls": _calls, "curves": _curves, "tables": _tables}
    for name in PARTS:
        if name in (_PART.value or PARTS):
            parts[name]()


def _train():
    runs = RUNS | PREDICTED
    side_by_side(_train_run, [(name, *runs[name]) for name in _chosen(runs)], _JOBS.value)


def _curves():
    pathlib.Path(_RUNS.value).mkdir(parents=True, exist_ok=True)
    side_by_side(_train_curve, [(_curve_folder(name), *CURVES[name]) for name in _chosen(CURVES)], _JOBS.value)


def _train_curve(name, config, settings):
    """One training, stopped at each number of steps for its samples to be scored."""
    for steps in CURVE_STEPS:
        if _report(name, f"at_{steps}") is None:
            _train_run(name, config, (*settings, f"train.steps={steps}"))
            scored = ("--metrics", "frechet,kernel", "--num_images", 1000, "--features", "efficientnet_lite0")
            sizes = ("--num_reference", _NUM_REFERENCE.value, "--out_dir", _folder(name) / f"at_{steps}")
            way = ("--model", _folder(name) / "model.keras", "--config", config, *_data())
            run("evaluate", *way, *scored, *sizes, log=_log(name))


def _train_run(name, config, settings):
    run("train", "--config", config, "--run_dir", _folder(name), *_data(*settings), log=_log(name))


def _log(name):
    return _folder(f"{name}.log") if _JOBS.value > 1 else None


def _evaluate():
    for name in _chosen(RUNS):
        run("evaluate", *_evaluation(name, "report"), "--num_images", _NUM_IMAGES.value)


def _calls():
    for kind, (names, samplers, calls, num_images) in MANY_CALLS.items():
        for name in _chosen(names):
            ways = [("--sampler", sampler) for sampler in samplers] + [("--num_steps", number) for number in calls]
            flat = [each for way in ways for each in way]
            metrics = ("--metrics", "frechet,kernel", "--num_images", num_images)
            run("evaluate", *_evaluation(name, kind), *metrics, *flat)


def _evaluation(name, kind):
    features = ("--features", "efficientnet_lite0")
    sizes = ("--num_reference", _NUM_REFERENCE.value, "--out_dir", _folder(name) / kind)
    return "--model", _folder(name) / "model.keras", "--config", BLUR, *_data(), *features, *sizes


def _data(*settings):
    return overrides((*settings, *(() if _DATA_ROOT.value is None else (f"data.root={_DATA_ROOT.value}",))))


def _chosen(names):
    return [name for name in names if name in (_ONLY.value or names)]


def _folder(name):
    return pathlib.Path(_RUNS.value) / name


def _tables():
    reports = {name: report for name in _chosen(RUNS) if (report := _report(name, "report"))}
    of_calls = [(name, report) for kind in ("solvers", "ancestral") for name, report in _reports_of_calls(kind)]
    predicted = dict(_reports_of_calls("predictions"))
    curves = {name: curve for name in _chosen(CURVES) if (curve := _curve(name))}
    if not (reports or of_calls or predicted or curves):
        raise UserError(f"{_RUNS.value} holds no reports; --part evaluate makes them")
    if of_calls:
        print("\nSamplers and calls of the network:\n")
        print_rows(calls_table(of_calls))
    if predicted:
        print("\nFrechet distances by what the network predicts:\n")
        print_rows(samplers_table(PREDICTED_ROWS, predicted))
    if curves:
        print("\nFrechet distance by steps of training:\n")
        print_rows(curves_table(curves))
        draw_curves(curves, _CURVES_OUT.value)
        print(f"\npicture: {_CURVES_OUT.value}")
    if reports:
        _tables_of_runs(reports)


def _reports_of_calls(kind):
    return [(name, report) for name in _chosen(MANY_CALLS[kind][0]) if (report := _report(name, kind))]


def _tables_of_runs(reports):
    print("\nThe four families:\n")
    print_rows(runs_table(FAMILIES, reports))
    print("\nThe strength of the blur, in pixels:\n")
    print_rows(runs_table(STRENGTHS, reports))
    print("\nThe length of the training:\n")
    print_rows(runs_table(LENGTHS, reports))
    _draw(reports)


def _curve(name):
    return {steps: report for steps in CURVE_STEPS if (report := _report(_curve_folder(name), f"at_{steps}"))}


def _curve_folder(name):
    return f"curve_{name.replace(', ', '_')}"


def _report(name, kind):
    path = _folder(name) / kind / "report.json"
    return json.loads(path.read_text()) if path.exists() else None


def _draw(reports):
    images = build_images(load_config(BLUR, _data()[1::2]))
    sheets = {"real": images.read(np.linspace(0, images.num_images - 1, _SHOWN).astype(int))}
    for family, (name, *_) in FAMILIES.items():
        curve = _curve(PICTURED[family]) if family in PICTURED else {}
        if report := curve.get(CURVE_STEPS[-1], reports.get(name)):
            folder = pathlib.Path(report["models"][0]["folder"])
            paths = [folder / f"seed_{seed}.png" for seed in range(_SHOWN)]
            sheets[family] = np.stack([read_image(path, images.image_shape) for path in paths])
    family_picture(sheets, _ZOOM).save(_OUT.value)
    print(f"\npicture: {_OUT.value}")


if __name__ == "__main__":
    command_line.run(main)
