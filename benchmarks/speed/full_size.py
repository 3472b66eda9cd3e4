"""The CIFAR-10 and LSUN configs at their full size: parameters, a training step on the processor, memory for a GPU.

    python benchmarks/speed/full_size.py

For each config, processes of their own make two training steps at two small batch sizes, on noise; of the second step
the time is printed. The memory of an image is the difference of the two processes' peaks, per image; it holds the
activations that the gradient needs. What a GPU needs is then estimated as `bytes of the state + batch size * bytes of
an image`. The state is five numbers of four bytes a parameter: weight, gradient, Adam's two moments, average. Nothing
here ran on a GPU, whose convolutions ask for work space of their own. On two cores: about ten minutes, and 10 GB.
"""

import math
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

from absl import flags
from rounds import times_of

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError

# Config, overrides of its network, and the parameters that were published, in millions.
_DDPM = "network.channels=128 network.multipliers=[1,2,2,2] network.num_res_blocks=2 network.attention_resolutions=[16]"
_ROWS = {
    "cifar10": ("cifar10", [], "not found"),
    "lsun": ("lsun", [], "not found"),
    "lsun rematerialized": ("lsun", ["network.rematerialize=true"], "not found"),
    "DDPM's network for CIFAR-10": ("cifar10_gaussian", _DDPM.split(), "35.7 (Ho et al., 2020)"),
}
_ONLY = flags.DEFINE_list("rows", list(_ROWS), f"Rows of the table: {', '.join(_ROWS)}.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["2", "6"], "Two batch sizes to tell an image's memory by.")
_PRECISION = flags.DEFINE_string("precision", "float32", "train.precision of the steps.")

_GIGABYTE, _BYTES_OF_STATE = 1e9, 5 * 4


def main():
    """Prints the table."""
    unknown = [name for name in _ONLY.value if name not in _ROWS]
    if unknown:
        raise UserError(f"--rows must be of {', '.join(_ROWS)}. Received: {unknown[0]}")
    sizes = sorted(set(command_line.integers(_BATCH_SIZES)))
    if len(sizes) != 2 or sizes[0] < 1:
        raise UserError(f"--batch_sizes must be two numbers of 1 or more. Received: {','.join(_BATCH_SIZES.value)}")
    print(
        "| config | parameters, millions | published | seconds a step, batch | state, GB | an image, GB "
        "| one GPU at the config's batch, GB | largest batch in 24 GB |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    few, many = sizes
    for name in _ONLY.value:
        (parameters, seconds, low, batch_size), (_, _, high, _) = (in_new_process(name, size) for size in (few, many))
        state, image = parameters * _BYTES_OF_STATE / _GIGABYTE, (high - low) / (many - few) / _GIGABYTE
        print(
            f"| {name} | {parameters / 1e6:.1f} | {_ROWS[name][2]} | {seconds:.1f}, {few} | {state:.2f} "
            f"| {image:.3f} | {state + batch_size * image:.1f} | {int((24 - state) / image)} |",
            flush=True,
        )


def in_new_process(name, batch_size):
    """`measure`, with a peak of memory that is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, name, batch_size, _PRECISION.value).result()


def measure(name, batch_size, precision):
    """(parameters, seconds of the second step, peak bytes of the process, the config's own batch size)."""
    import tensorflow as tf

    import tf_blurdiff as bd
    from tf_blurdiff.config.loading import build_model, load_config

    name, overrides, _ = _ROWS[name]
    config = load_config(name, [*overrides, f"train.precision={precision}"])
    model = build_model(config)
    model.compile(bd.optimizers.Adam(1e-4))
    step = tf.function(model.train_step, autograph=False)
    images = tf.random.stateless_uniform((batch_size, *config.image_shape), [0, 0], -1.0, 1.0)
    *_, seconds = times_of(lambda: float(step(images)["loss"]), 2)
    parameters = sum(math.prod(weight.shape) for weight in model.network.trainable_variables)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return parameters, seconds, peak, config.train.batch_size


if __name__ == "__main__":
    command_line.run(main)
