"""What the network of the digits had best predict: eps, v, or preconditioned with several exponents of its loss.

    python benchmarks/quality/digits_predictions.py --runs runs/predictions --seeds 3 --jobs 2

Trains `digits.yaml` and `digits_gaussian.yaml` with each, and with each seed, and prints a row for each: distances as
in digits.py, "pixels / hidden layer", of --num_images samples in 20 calls of two samplers, the mean over the seeds and,
of more than one, the standard deviation. The same command again goes on where it was stopped, and scores anew. A
training of 2,000 steps takes about three minutes of two cores.
"""

import pathlib

import numpy as np
from absl import flags
from digits_scores import Scores
from miniature_tables import mean_and_deviation, print_rows
from trainings import PREDICTIONS, overrides, run, side_by_side

import tf_blurdiff as bd
from tf_blurdiff import command_line

CONFIGS = {"gaussian": "digits_gaussian.yaml", "blurring": "digits.yaml"}
KINDS = {f"{family}, {name}": (family, name) for family in CONFIGS for name in PREDICTIONS}
SAMPLERS = ("ancestral2", "multistep3")
_CALLS = 20

_RUNS = flags.DEFINE_string("runs", "runs/predictions", "The folder of the run directories.")
_ONLY = flags.DEFINE_multi_enum("only", None, list(KINDS), "These kinds alone; repeatable (default: all).")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Trainings of each kind.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2000, "Of each training.", lower_bound=2)
_JOBS = flags.DEFINE_integer("jobs", 1, "Trainings side by side.", lower_bound=1)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 2048, "Samples of each row.", lower_bound=36)


def main():
    """Trains what is not trained yet, and prints the table."""
    pathlib.Path(_RUNS.value).mkdir(parents=True, exist_ok=True)
    kinds = [KINDS[name] for name in _ONLY.value or KINDS]
    side_by_side(_train, [(*kind, seed) for seed in range(_SEEDS.value) for kind in kinds], _JOBS.value)
    print_rows(_rows(Scores(), kinds))


def _rows(scores, kinds):
    yield "family", "prediction", "trainings", *SAMPLERS
    for kind in kinds:
        yield *kind, str(_SEEDS.value), *_cells(scores, *kind)


def _train(family, name, seed):
    steps, run_dir = _STEPS.value, _run_dir(family, name, seed)
    settings = (*PREDICTIONS[name], f"train.steps={steps}", f"train.decay_steps={steps}", f"train.seed={seed}")
    run("train", "--config", CONFIGS[family], "--run_dir", run_dir, *overrides(settings), log=f"{run_dir}.log")


def _run_dir(family, name, seed):
    return pathlib.Path(_RUNS.value) / f"{family}_{name}_{seed}"


def _cells(scores, family, name):
    models = [bd.load_model(_run_dir(family, name, seed)) for seed in range(_SEEDS.value)]
    for sampler in SAMPLERS:
        samples = [model.sample(range(_NUM_IMAGES.value), sampler=sampler, num_steps=_CALLS) for model in models]
        distances = np.transpose([scores.distances(images) for images in samples])
        yield " / ".join(map(mean_and_deviation, distances))


if __name__ == "__main__":
    command_line.run(main)
