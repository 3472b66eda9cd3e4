"""Times the first ten steps of digits.yaml's training and the next: `first_steps.py on|off [OVERRIDE ...]`.

Prints `[seconds of the first ten with tracing and compiling, seconds of one of the next]`.
"""

import json
import sys
import time

import tensorflow as tf

import tf_blurdiff as bd
from tf_blurdiff.config import load_config
from tf_blurdiff.config.loading import build_model
from tf_blurdiff.model import train_step

_STEPS, _TIMES = 10, 5


def main(compiling, *overrides):
    """Steps in a traced loop, as the trainer has them, on one batch."""
    config = load_config("digits.yaml", ["train.precision=mixed_bfloat16", *overrides])
    model = build_model(config)
    x = tf.random.stateless_uniform((config.train.batch_size, *model.image_shape), [0, 0], -1.0, 1.0)
    model.adapt([x])
    model.compile(bd.optimizers.Adam(1e-3), jit_compile=compiling)
    model.optimizer.build(model.network.trainable_variables)

    @tf.function(autograph=False)
    def steps():
        def body(i, last):
            losses, _ = train_step(model, x)
            return i + 1, tf.reduce_mean(losses)

        return tf.while_loop(lambda i, last: i < _STEPS, body, (0, 0.0), parallel_iterations=1)[1]

    seconds = [_timed(steps) for _ in range(1 + _TIMES)]
    print(json.dumps([seconds[0], min(seconds[1:]) / _STEPS]))


def _timed(steps):
    started = time.monotonic()
    float(steps())  # Fetched, so it is done.
    return time.monotonic() - started


if __name__ == "__main__":
    main(*sys.argv[1:])
