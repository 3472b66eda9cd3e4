"""The tables of training, forward pass and sampling: the sides in turn."""

import statistics
import tempfile

import rounds
from options import PRECISIONS, Report
from rounds import Contender
from sizes import SAMPLING_STEPS

_THEIRS = {"float32": "float32", "bfloat16": "bfloat16 autocast"}
# Dtypes, ours and theirs.
_PAIRINGS = [
    pairing
    for pairing in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16"))
    if set(pairing) <= set(PRECISIONS)
]


def compare_steps(report: Report, sides, what, sizes, count):
    """The table of "training step" or "forward pass", and its means over the sizes."""
    report.title(f"{what.capitalize()}: tf_blurdiff and diffusers, the two in turn, {count} rounds")
    report.header(
        "image", "batch", "tf_blurdiff", "diffusers", "tf_blurdiff, ms", "diffusers, ms", "ratio of times: median",
        "lowest", "highest", "parameters: ratio",
    )  # fmt: skip
    ratios = {pairing: [] for pairing in _PAIRINGS}
    with sides.start("tf_blurdiff") as ours, sides.start("diffusers") as theirs:
        for size in sizes:
            for pairing, ratio in _compare_size(report, ours, theirs, what, size, count).items():
                ratios[pairing].append(ratio)
            ours.ask("release"), theirs.ask("release")
    for (our, their), own in ratios.items():
        mean = f"{rounds.geometric_mean(own):.3f}"
        report.row("geometric mean", "", PRECISIONS[our], _THEIRS[their], "", "", mean, "", "", "")


def _compare_size(report, ours, theirs, what, size, count):
    contenders = [Contender(ours, what, size.name, precision) for precision in PRECISIONS.values()]
    contenders += [Contender(theirs, what, size.name, _THEIRS[dtype]) for dtype in PRECISIONS]
    times = rounds.take_turns([each.run for each in contenders], count, least_runs=3, warmup=3)
    our_times, their_times = dict(zip(PRECISIONS, times)), dict(zip(PRECISIONS, times[len(PRECISIONS) :]))
    parameters = f"{contenders[0].parameters / contenders[-1].parameters:.4f}"
    ratios = {}
    for our, their in _PAIRINGS:
        ratios[our, their] = ratio = rounds.ratio(our_times[our], their_times[their])
        report.row(
            size.name, size.batch, PRECISIONS[our], _THEIRS[their], _ms(our_times[our]), _ms(their_times[their]),
            *_figures(ratio), parameters,
        )  # fmt: skip
    return ratios


def compare_sampling(report: Report, sides, sizes, count):
    """The table of images per second."""
    report.title(f"Sampling: {SAMPLING_STEPS} deterministic steps, the sides in turn, {count} rounds")
    report.header(
        "image", "batch", "precision", "what", "ms", "images per second", "time over the pipeline's: median", "lowest",
        "highest", "over the float32 pipeline's: median",
    )  # fmt: skip
    names = ("tf_blurdiff", "SavedModel", "diffusers")
    with sides.start(names[0]) as ours, sides.start(names[1]) as exported, sides.start(names[2]) as theirs:
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                _compare_sampling(report, ours, exported, theirs, size, folder, count)
            for side in (ours, exported, theirs):
                side.ask("release")


def _compare_sampling(report, ours, exported, theirs, size, folder, count):
    precisions, contenders = [], []
    for name, precision in PRECISIONS.items():
        load_export(ours, exported, size, precision, folder)
        precisions += [precision, precision, _THEIRS[name]]
        contenders += [Contender(side, "sampling", size.name, precision) for side in (ours, exported)]
        contenders.append(Contender(theirs, "sampling", size.name, _THEIRS[name]))
    times = rounds.take_turns([each.run for each in contenders], count, least_runs=1, warmup=2)
    labels = len(PRECISIONS) * ("model.sample", "exported SavedModel", "DDIMPipeline")
    for number, (label, own) in enumerate(zip(labels, times)):
        pipeline = times[3 * (number // 3) + 2]
        rate = f"{size.batch / statistics.median(own):.1f}"
        ratio = _figures(rounds.ratio(own, pipeline))
        over_float32 = f"{rounds.ratio(own, times[2]).median:.3f}"
        report.row(size.name, size.batch, precisions[number], label, _ms(own), rate, *ratio, over_float32)


def load_export(ours, exported, size, precision, folder):
    """Has one side export and tells the other where the export is."""
    export = ours.ask("export", size=size.name, precision=precision, folder=folder)
    exported.ask("load", size=size.name, precision=precision, **export)


def _ms(seconds):
    return f"{1e3 * statistics.median(seconds):.1f}"


def _figures(ratio):
    return [f"{figure:.3f}" for figure in (ratio.median, ratio.lowest, ratio.highest)]
