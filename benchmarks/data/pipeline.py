"""How many images a second the training pipeline gives, of pictures that are in memory, and nothing else.

    python benchmarks/data/pipeline.py

For each size one batch after another is taken by a traced loop, as in training: from an array, and from a folder of
PNG files whose decoded pictures are kept; with and without random flips. All rows run in turn, round after round. The
files are noise, written anew into a temporary folder. Three rounds take about two minutes on two cores.
"""

import dataclasses
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image
from tqdm import tqdm

from tf_blurdiff import command_line
from tf_blurdiff.data.batches import training_batches
from tf_blurdiff.data.sources import in_memory, open_images
from tf_blurdiff.errors import UserError

_SIZES = flags.DEFINE_list("sizes", ["28x28x1", "32x32x1", "64x64x3", "32x32x3"], "Height, width, channels (1 or 3).")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each row.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 1.0, "How long a turn lasts, or longer.", lower_bound=0.0)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=1)
_MEGABYTES = flags.DEFINE_integer("megabytes", 100, "Of the array's pixels.", lower_bound=1)
_NUM_FILES = flags.DEFINE_integer("num_files", 4000, "In the folder.", lower_bound=1)

# Between two looks at the clock, and before the first turn: enough that what is read ahead is a small part.
_STEPS = 100


@dataclasses.dataclass
class Row:
    """A row of the table: its names, its batches, and images a second of each round."""

    size: str
    source: str
    flip: bool
    batches: tf.data.Iterator
    rates: list[float] = dataclasses.field(default_factory=list)

    def take_turn(self, batch_size):
        """Takes batches for a while."""
        steps, start = 0, time.monotonic()
        while not steps or time.monotonic() - start < _SECONDS.value:
            _take(self.batches, tf.constant(_STEPS))
            steps += _STEPS
        self.rates.append(steps * batch_size / (time.monotonic() - start))


def main():
    """Prints the table."""
    shapes = {size: _shape(size) for size in _SIZES.value}
    batch_size = _BATCH_SIZE.value
    print(f"Batches of {batch_size}, the pipeline alone: images/s of {_ROUNDS.value} rounds")
    print(f"| image | source | flips | median | lowest | highest | µs a batch |\n|{'---|' * 7}", flush=True)
    for size, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = [
                Row(size, source, flip, iter(training_batches(images, batch_size, seed=0, flip=flip, labels=labels)))
                for source, images, labels in _sources(shape, pathlib.Path(folder))
                for flip in (False, True)
            ]
            for row in rows:
                _take(row.batches, tf.constant(_STEPS))
            for _ in range(_ROUNDS.value):
                for row in rows:
                    row.take_turn(batch_size)
        for row in rows:
            median = statistics.median(row.rates)
            figures = [f"{rate:.0f}" for rate in (median, min(row.rates), max(row.rates), 1e6 * batch_size / median)]
            print(f"| {row.size} | {row.source} | {'yes' if row.flip else 'no'} | {' | '.join(figures)} |", flush=True)


def _sources(shape, folder):
    """An array with labels and a folder without, `(name, images, labels)`, both decoded."""
    random = np.random.default_rng(0)
    count = max(_BATCH_SIZE.value, _MEGABYTES.value * 10**6 // int(np.prod(shape)))
    array = in_memory(random.integers(0, 256, (count, *shape), np.uint8), random.integers(0, 10, count), 10)
    yield "array", array, True
    for number in range(max(_BATCH_SIZE.value, _NUM_FILES.value)):
        picture = random.integers(0, 256, shape[:2] if shape[-1] == 1 else shape, np.uint8)
        Image.fromarray(picture).save(folder / f"{number:06}.png", compress_level=1)
    kept = open_images("image_folder", shape[:2], shape[-1], root=folder)
    for _ in tqdm(kept.batches(64), "Decoding", disable=None):
        pass
    yield "folder, kept", kept, False


@tf.function(autograph=False)
def _take(batches, count):
    def body(i):
        batches.get_next()
        return (i + 1,)

    tf.while_loop(lambda i: i < count, body, (tf.constant(0),), parallel_iterations=1)


def _shape(size):
    try:
        height, width, channels = map(int, size.split("x"))
    except ValueError:
        raise UserError(f"--sizes: got {size!r}, expected sizes such as 28x28x1") from None
    if min(height, width) < 1 or channels not in (1, 3):
        raise UserError(f"--sizes: got {size!r}, expected sizes such as 28x28x1, of 1 or 3 channels")
    return height, width, channels


if __name__ == "__main__":
    command_line.run(main)
