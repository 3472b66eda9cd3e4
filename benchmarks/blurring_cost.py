"""What blurring costs: the time of a training step and of sampling, of `blurring` over `gaussian`.

    python benchmarks/blurring_cost.py

Both processes drive the same network. They run in turn, round after round, so that a change in the machine's speed
falls on both; the figure to quote is the median of the rounds' ratios.
"""

import os
import platform
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tf_blurdiff as bd
from tf_blurdiff import command_line

_ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds after the warm-up.", lower_bound=1)

# image shape, batch size, the network's width and multipliers
SIZES = [
    ((8, 8, 1), 64, 32, (1, 2)),
    ((32, 32, 1), 64, 32, (1, 2, 2)),
    ((32, 32, 3), 16, 64, (1, 2, 2)),
    ((64, 64, 3), 4, 64, (1, 2, 3)),
]
_SAMPLING_STEPS = 4


def main():
    """Prints the table."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, TensorFlow {tf.__version__}")
    print("| image | batch | what | gaussian, ms | blurring, ms | ratio: median | lowest | highest |")
    print("|---|---|---|---|---|---|---|---|")
    for image_shape, batch_size, channels, multipliers in SIZES:
        actions = [
            _actions(process, image_shape, batch_size, channels, multipliers)
            for process in (bd.process.gaussian(), bd.process.blurring(sigma_blur_max=image_shape[0] / 2))
        ]
        for what in ("training step", f"{_SAMPLING_STEPS} sampling steps"):
            gaussian, blurring = _times([each[what] for each in actions])
            ratio = blurring / gaussian
            figures = [np.median(gaussian), np.median(blurring), np.median(ratio), ratio.min(), ratio.max()]
            shape = "x".join(map(str, image_shape))
            numbers = "{:.1f} | {:.1f} | {:.3f} | {:.3f} | {:.3f}".format(*figures)
            print(f"| {shape} | {batch_size} | {what} | {numbers} |", flush=True)


def _actions(process, image_shape, batch_size, channels, multipliers):
    network = bd.UNet(image_shape, channels, multipliers, num_res_blocks=1, attention_resolutions=())
    model = bd.DiffusionModel(network, process)
    model.compile(keras.optimizers.Adam(1e-4))
    model.optimizer.build(network.trainable_variables)
    x0 = tf.random.stateless_uniform((batch_size, *image_shape), [0, 0], -1.0, 1.0)
    train_step = tf.function(model.train_step, autograph=False)
    seeds = range(batch_size)
    return {
        "training step": lambda: train_step(x0),
        f"{_SAMPLING_STEPS} sampling steps": lambda: model.sample(seeds, _SAMPLING_STEPS, batch_size=batch_size),
    }


def _times(actions):
    """Milliseconds, `[2, rounds]`, the two in turn."""
    for action in actions:
        action()
        action()
    times = np.zeros((len(actions), _ROUNDS.value))
    for number in range(_ROUNDS.value):
        for row, action in enumerate(actions):
            start = time.perf_counter()
            action()
            times[row, number] = 1e3 * (time.perf_counter() - start)
    return times


if __name__ == "__main__":
    command_line.run(main)
