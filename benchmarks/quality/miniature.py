"""The paper in miniature: the four families and the strength of the blur, on Fashion-MNIST at 16x16.

    python benchmarks/quality/miniature.py --runs runs/miniature
    python benchmarks/quality/miniature.py --runs runs/miniature --part evaluate --only blurring --only gaussian
    python benchmarks/quality/miniature.py --runs runs/miniature --part tables --out docs/miniature.png

Its parts, all of them unless told otherwise: `train` trains every run, `evaluate` draws and scores the samples of every
run of full length, `calls` those of other samplers, numbers of calls and predictions, the last of runs a third as long,
`curves` trains and scores in turns, and so does `order`, without blur and with two strengths of it, three seeds each,
four times as long, `tables` prints what is there. Each is made of calls of the package's own command lines, which it
prints: the same command again goes on where it was stopped. A training takes seven to twelve minutes of one core with
AVX512_BF16, those of `order` half an hour or more; for all of it plan many hours of two. On a GPU, where a network as
small as this leaves most of the card idle, --jobs 8 trains eight of them side by side, and writes what they say to
RUN.log.
"""

import json
import pathlib

import numpy as np
from absl import flags
from family_picture import check_picture, family_picture
from learning_curves import curves_table, draw_curves
from miniature_runs import (
    BLUR,
    CURVE_ROWS,
    CURVE_STEPS,
    CURVES,
    FAMILIES,
    LENGTHS,
    MANY_CALLS,
    ORDER,
    ORDER_ROWS,
    PICTURED,
    PREDICTED,
    PREDICTED_ROWS,
    RUNS,
    STRENGTHS,
)
from miniature_tables import calls_table, print_rows, runs_table, samplers_table
from trainings import overrides, run, side_by_side

from tf_blurdiff import command_line
from tf_blurdiff.config.loading import build_images, load_config
from tf_blurdiff.data.pictures import read_image
from tf_blurdiff.errors import UserError

PARTS = ("train", "evaluate", "calls", "curves", "order", "tables")
_SHOWN, _ZOOM = 36, 3

_RUNS = flags.DEFINE_string("runs", "runs/miniature", "The folder of the run directories.")
_PART = flags.DEFINE_multi_enum("part", None, PARTS, "What to do; repeatable (default: everything).")
_ONLY = flags.DEFINE_multi_enum(
    "only", None, [*RUNS, *PREDICTED, *CURVES, *ORDER], "These runs alone; repeatable (default: all)."
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Trainings side by side.", lower_bound=1)
_DATA_ROOT = flags.DEFINE_string("data_root", None, "Where TFDS keeps its data (default: its own place).")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 3000, "Samples of each run.", lower_bound=256)
_NUM_REFERENCE = flags.DEFINE_integer("num_reference", 6000, "Real images, evenly spaced.", lower_bound=512)
_OUT = flags.DEFINE_string("out", "miniature.png", "The picture of the families.")
_CURVES_OUT = flags.DEFINE_string("curves_out", "learning_curves.png", "The picture of the curves.")
_ORDER_OUT = flags.DEFINE_string("order_out", "order.png", "The picture of the strengths.")


def main():
    """Runs the parts in their order."""
    for flag in (_OUT, _CURVES_OUT, _ORDER_OUT):
        check_picture(flag.value, f"--{flag.name}")
    parts = {"train": _train, "evaluate": _evaluate, "calls": _calls, "tables": _tables}
    parts |= {"curves": lambda: _in_turns(CURVES), "order": lambda: _in_turns(ORDER)}
    for name in PARTS:
        if name in (_PART.value or PARTS):
            parts[name]()


def _train():
    pathlib.Path(_RUNS.value).mkdir(parents=True, exist_ok=True)
    runs = RUNS | PREDICTED
    side_by_side(_train_run, [(name, *runs[name]) for name in _chosen(runs)], _JOBS.value)


def _in_turns(runs):
    pathlib.Path(_RUNS.value).mkdir(parents=True, exist_ok=True)
    side_by_side(_train_in_turns, [(name, *runs[name]) for name in _chosen(runs)], _JOBS.value)


def _train_in_turns(name, config, settings, stops):
    """One training, stopped at each number of steps for its samples to be scored."""
    for steps in stops:
        report = _report(name, f"at_{steps}")
        if report and report["real"]["num_images"] != _NUM_REFERENCE.value:
            raise UserError(
                f"--num_reference: got {_NUM_REFERENCE.value}, expected {report['real']['num_images']}, of which "
                f"{_folder(name) / f'at_{steps}'} is"
            )
        if report is None:
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
    curves = _curves(CURVE_ROWS, CURVES)
    order = _curves(ORDER_ROWS, ORDER)
    if not (reports or of_calls or predicted or curves or order):
        raise UserError(f"{_RUNS.value} holds no reports; --part evaluate makes them")
    if of_calls:
        print("\nSamplers and calls of the network:\n")
        print_rows(calls_table(of_calls))
    if predicted:
        print("\nFrechet distances by what the network predicts:\n")
        print_rows(samplers_table(PREDICTED_ROWS, predicted))
    for what, found, out in (
        ("", curves, _CURVES_OUT.value),
        (" and the strength of the blur", order, _ORDER_OUT.value),
    ):
        if found:
            print(f"\nFrechet distance by steps of training{what}:\n")
            print_rows(curves_table(found))
            draw_curves(found, out)
            print(f"\npicture: {out}")
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


def _curves(rows, runs):
    """`{title: {steps: reports}}` of what there is."""
    found = {title: [_curve(name, runs[name][2]) for name in _chosen(names)] for title, names in rows.items()}
    return {title: curve for title, of_row in found.items() if (curve := _together(of_row))}


def _together(curves):
    steps = sorted({each for curve in curves for each in curve})
    return {each: [curve[each] for curve in curves if each in curve] for each in steps}


def _curve(name, stops):
    return {steps: report for steps in stops if (report := _report(name, f"at_{steps}"))}


def _report(name, kind):
    path = _folder(name) / kind / "report.json"
    return json.loads(path.read_text()) if path.exists() else None


def _draw(reports):
    images = build_images(load_config(BLUR, _data()[1::2]))
    sheets = {"real": images.read(np.linspace(0, images.num_images - 1, _SHOWN).astype(int))}
    for family, (name, *_) in FAMILIES.items():
        curve = _curve(PICTURED[family], CURVE_STEPS) if family in PICTURED else {}
        if report := curve.get(CURVE_STEPS[-1], reports.get(name)):
            folder = pathlib.Path(report["models"][0]["folder"])
            paths = [folder / f"seed_{seed}.png" for seed in range(_SHOWN)]
            sheets[family] = np.stack([read_image(path, images.image_shape) for path in paths])
    family_picture(sheets, _ZOOM).save(_OUT.value)
    print(f"\npicture: {_OUT.value}")


if __name__ == "__main__":
    command_line.run(main)
