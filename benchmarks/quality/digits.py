"""How good the models of the 8x8 digits are: the tables on digits in docs/results.md and docs/performance.md.

    python benchmarks/quality/digits.py --part families --runs runs --out docs/families.png
    python benchmarks/quality/digits.py --part solvers --model runs/digits/model.keras
    python benchmarks/quality/digits.py --part guidance --model runs/digits_labels/model.keras --out docs/labels.png
    python benchmarks/quality/digits.py --part precision --model runs/digits/model.keras
    python benchmarks/quality/digits.py --part classifier --model runs/digits/model.keras

Each part is one table, of every --model in turn:
    families: the models of the configs digits*.yaml in --runs, each with its own sampler; --out draws them.
    solvers: samplers and grids, for several numbers of calls of the network; the cells are pixels / hidden layer.
    guidance: how often a classifier sees the label that was asked for, by strength of guidance; --out draws the labels.
    precision: each model in its own precision and in the other, and how far apart the same seeds' images are.
    classifier: the share of samples of which other classifiers are more than 90 % sure, over that of real digits, and
        the rarest class's share by the first of them.

"Pixels" and "hidden layer" are Frechet distances to all real digits, of the pixels and of a small classifier's hidden
layer, over those between two halves of the real digits; none is an FID. "Outside" counts samples with a pixel outside
[-1.5, 1.5] before the final clip to [-1, 1]. Classifiers but that of the hidden layer are fitted on one half of the
real digits and measured on the other. On two cores with the trained models: solvers takes about ten
minutes a model, families five, the others one to three.
"""

import pathlib

import numpy as np
from absl import flags
from digits_scores import Scores, digits_model, eight_bits, flat
from family_picture import check_picture, family_picture
from miniature_tables import print_rows
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from tf_blurdiff import command_line
from tf_blurdiff.data.pictures import save_grid
from tf_blurdiff.data.pixels import to_unit_range
from tf_blurdiff.errors import UserError

FAMILIES = {
    "gaussian": "digits_gaussian",
    "blurring": "digits",
    "heat dissipation": "digits_heat_dissipation",
    "cold": "digits_cold",
}
SOLVERS = [
    ("ancestral", "uniform"), ("ancestral2", "quadratic"), ("ddim", "uniform"), ("multistep2", "quadratic"),
    ("multistep3", "quadratic"), ("multistep3", "logsnr"),
]  # fmt: skip
# Sampler, calls, eta.
CLASSIFIED = [
    *(("ancestral2", calls, 0.0) for calls in (10, 20, 50)),
    *(("multistep3", calls, 0.0) for calls in (10, 20)),
    *(("ddim", 50, eta) for eta in (0.0, 0.5)),
    ("ancestral", 250, 0.0),
]
GUIDANCE_SCALES = [1.0, 1.5, 2.0, 3.0]
_SHOWN, _ZOOM, _SURE = 36, 5, 0.9
_DISTANCES, _OUTSIDE = ("pixels", "hidden layer"), "outside, of 1000"


def families(scores, count):
    """Yields the titles, then a row for each family; draws the picture at the end."""
    yield "family", "prediction", "sampler", "calls", *_DISTANCES, _OUTSIDE, "bits per dimension"
    sheets = {"real": scores.pixels[:_SHOWN]}
    for family, name in FAMILIES.items():
        model = open_model(pathlib.Path(_RUNS.value) / name / "model.keras")
        samples, figures = scored_samples(scores, model, count)
        yield family, model.prediction, model.sampler, model.num_steps, *figures, bits(model, scores)
        sheets[family] = eight_bits(samples[:_SHOWN])
    if _OUT.value:
        family_picture(sheets, _ZOOM).save(_OUT.value)


def solvers(scores, model, count):
    """Yields the titles and the rows."""
    numbers = (5, 10, 20, 50) if _CALLS.value is None else command_line.integers(_CALLS, least=1)
    yield "sampler", "grid", *(f"{calls} calls" for calls in numbers)
    for sampler, grid in SOLVERS:
        samples = (model.sample(range(count), sampler=sampler, grid=grid, num_steps=calls) for calls in numbers)
        yield sampler, grid, *(" / ".join(two_digits(scores.distances(each))) for each in samples)


def guidance(scores, model, count):
    """Yields the titles and the rows; draws the picture at the end."""
    judge = MLPClassifier((64,), max_iter=400, random_state=0).fit(*scores.half(0))
    print(f"right of the real digits' other half: {judge.score(*scores.half(1)):.3f}")
    yield "guidance scale", "as asked", "rarest right class", *_DISTANCES
    labels = np.arange(count) % 10
    for scale in GUIDANCE_SCALES:
        samples = model.sample(range(count), labels=labels, guidance_scale=scale)
        right = judge.predict(samples.reshape(count, -1)) == labels
        rarest = min(right[labels == label].mean() for label in range(10))
        yield scale, f"{right.mean():.3f}", f"{rarest:.2f}", *two_digits(scores.distances(samples))
    if _OUT.value:
        save_grid(model.sample(range(100), labels=np.arange(100) // 10), _OUT.value)


def precision(scores, model, count):
    """Yields the titles and two rows."""
    yield "sampled in", *_DISTANCES, "grey levels to the other: median", "largest"
    own = model.network.dtype_policy.name
    other = {"float32": "mixed_bfloat16"}.get(own, "float32")
    samples = [eight_bits(each.sample(range(count))) for each in (model, model.in_precision(other))]
    difference = np.abs(samples[0].astype(int) - samples[1])
    for policy, images in zip((f"{own}, as trained", other), samples):
        yield policy, *two_digits(scores.distances(images)), f"{np.median(difference):.0f}", difference.max()


def classifier(scores, model, count):
    """Yields the titles and the rows."""
    judges = {
        "logistic regression": LogisticRegression(C=10, max_iter=2000),
        "support vectors": CalibratedClassifierCV(SVC(), ensemble=False),
        "multilayer perceptron": MLPClassifier((64,), max_iter=400, random_state=1),
    }
    for judge in judges.values():
        judge.fit(*scores.half(0))
    sure_share = lambda judge, vectors: (judge.predict_proba(vectors).max(axis=1) > _SURE).mean()
    real = {name: sure_share(judge, scores.half(1)[0]) for name, judge in judges.items()}
    print("sure of the real digits' other half:", ", ".join(f"{name} {share:.3f}" for name, share in real.items()))
    yield "sampler", "calls", "eta", *_DISTANCES, *judges, "rarest class"
    ways = CLASSIFIED if model.distilled_guidance is None else ((model.sampler, model.num_steps, 0.0),)
    for sampler, calls, eta in ways:
        samples = model.sample(range(count), num_steps=calls, sampler=sampler, eta=eta)
        vectors = flat(samples)
        rarest = np.bincount(judges["logistic regression"].predict(vectors), minlength=10).min() / count
        sure = (sure_share(judge, vectors) / real[name] for name, judge in judges.items())
        yield sampler, calls, eta, *two_digits([*scores.distances(samples), *sure]), f"{rarest:.3f}"


# A function of the scores, a model and the number of samples, and that number unless told.
PARTS = {
    "families": (families, 2048),
    "solvers": (solvers, 2048),
    "guidance": (guidance, 500),
    "precision": (precision, 2048),
    "classifier": (classifier, 512),
}

_PART = flags.DEFINE_enum("part", None, list(PARTS), "The table.", required=True)
_MODELS = flags.DEFINE_multi_string(
    "model", ["runs/digits/model.keras"], "A model of the 8x8 digits: a .keras file or a shipped name; repeatable."
)
_RUNS = flags.DEFINE_string("runs", "runs", "For families: the folder of the run directories.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", None, "Samples of each row (default: the part's own).", lower_bound=36)
_BITS_IMAGES = flags.DEFINE_integer("bits_images", 512, "For families: real digits of the bound.", lower_bound=2)
_CALLS = flags.DEFINE_list("calls", None, "Calls of the network, for solvers (5,10,20,50).")
_OUT = flags.DEFINE_string("out", None, "A picture, for families and guidance.")
_ONLY_FOR = [
    (_MODELS, ("solvers", "guidance", "precision", "classifier")),
    (_RUNS, ("families",)),
    (_BITS_IMAGES, ("families",)),
    (_CALLS, ("solvers",)),
    (_OUT, ("families", "guidance")),
]


def main():
    """Prints the tables."""
    part, default = PARTS[_PART.value]
    for flag, parts in _ONLY_FOR:
        if flag.present and _PART.value not in parts:
            raise UserError(f"--{flag.name} is for --part {' and '.join(parts)}. Received: --part {_PART.value}")
    if _OUT.value:
        check_picture(_OUT.value)
        if part is guidance and len(_MODELS.value) > 1:
            raise UserError(f"--out of --part guidance is of one --model. Received: {len(_MODELS.value)}")
    models = {} if part is families else {path: open_model(path) for path in _MODELS.value}
    count, scores = _NUM_IMAGES.value or default, Scores()
    print("half/half:", ", ".join(f"{name} {floor:.3f}" for name, floor in scores.floors.items()))
    if part is families:
        print_rows(families(scores, count))
    else:
        for path, model in models.items():
            print(f"\n{path}: {count} samples, seeds from 0; its own sampler {model.sampler}, {model.num_steps} calls")
            print_rows(part(scores, model, count))
    if _OUT.value:
        print(f"picture: {_OUT.value}")


def open_model(path):
    """A model of digits, with labels if the part needs them."""
    model = digits_model(path)
    if _PART.value == "guidance" and model.num_classes is None:
        raise UserError(f"--model: a model with labels is expected for --part guidance. Received: {path}")
    return model


def scored_samples(scores, model, count, **sampling):
    """Samples before the final clip, and three cells: both distances, and how many in a thousand are outside."""
    samples = model.sample(range(count), return_trajectory=True, **sampling)[-1]
    outside = 1000 * (np.abs(samples).max(axis=(1, 2, 3)) > 1.5).mean()
    return samples, [*two_digits(scores.distances(samples)), f"{outside:.1f}"]


def bits(model, scores):
    """The bound of some real digits, in 1,000 steps of which 100 are looked at, and its standard error."""
    if not model.process.ends_in_noise:
        return "no bound"
    total = model.bits_per_dimension(to_unit_range(scores.pixels[: _BITS_IMAGES.value]).numpy(), num_times=100).total
    return f"{total.mean():.3f} ± {total.std() / np.sqrt(len(total)):.3f}"


def two_digits(figures):
    """Cells."""
    return [f"{figure:.2f}" for figure in figures]


if __name__ == "__main__":
    command_line.run(main)
