"""What blurring costs: the time of a training step and of sampling, of `blurring` over `gaussian`.

    python benchmarks/speed/blurring.py

Both processes drive the same network, in turn. Four rounds of all sizes take about five minutes on two cores.
"""

import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the command lines do.

import blurdiff_work
import numpy as np
import options
import rounds
import tensorflow as tf
from absl import flags

import tf_blurdiff as bd
from tf_blurdiff import command_line

_SAMPLING_STEPS = 4


def main():
    """Prints the table."""
    report, count = options.Report(), options.ROUNDS.value
    report.line(options.machine([f"TensorFlow {tf.__version__}"]))
    report.title(f"What blurring costs: the two processes in turn, {count} rounds, float32")
    report.header("image", "batch", "what", "gaussian, ms", "blurring, ms", "ratio: median", "lowest", "highest")
    for size in options.chosen_sizes():
        processes = (bd.process.gaussian(), bd.process.blurring(sigma_blur_max=size.image / 2))
        gaussian, blurring = (_actions(size, process) for process in processes)
        for what in gaussian:
            contenders = [functools.partial(rounds.times_of, actions[what]) for actions in (gaussian, blurring)]
            times = rounds.take_turns(contenders, count, least_runs=1, warmup=2)
            ratio = rounds.ratio(times[1], times[0])
            milliseconds = [f"{1e3 * np.median(own):.1f}" for own in times]
            figures = [f"{figure:.3f}" for figure in (ratio.median, ratio.lowest, ratio.highest)]
            report.row(size.name, size.batch, what, *milliseconds, *figures)


def _actions(size, process):
    model = blurdiff_work.make_model(size, "float32", process)
    x0, step = blurdiff_work.images(size), blurdiff_work.training_function(model)
    seeds = range(size.batch)
    return {
        "training step": lambda: float(step(x0)["loss"]),
        f"{_SAMPLING_STEPS} sampling steps": lambda: model.sample(
            seeds, _SAMPLING_STEPS, "ddim", batch_size=size.batch
        ),
    }


if __name__ == "__main__":
    flags.adopt_module_key_flags(options)
    command_line.run(main)
