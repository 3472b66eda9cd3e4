"""How close the network comes to what this machine can compute.

    python benchmarks/speed/limit.py

Counts the floating-point operations of the forward pass and of the training step (convolutions and matrix products, 2
per multiply-add), times both, and sets them against the fastest of a large matrix product and of several convolutions.
"nominal" counts an upsampling convolution as repeated pixels and a 3x3 convolution, however it is computed. It takes
about five minutes on two cores.
"""

import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the command lines do.

import blurdiff_work
import options
import tensorflow as tf
from absl import flags
from operations import count_operations
from rounds import times_of

from tf_blurdiff import command_line

_MATRIX = 4096
# Images, height and width, channels before and after, of 3x3 convolutions.
_CONVOLUTIONS = ((16, 32, 192, 64), (16, 16, 256, 128), (64, 32, 64, 64))
_PEAK_RUNS, _WARMUP = 5, 2


def main():
    """Prints both tables."""
    report = options.Report()
    report.line(options.machine([f"TensorFlow {tf.__version__}"]))
    report.title("The machine's peak, GFLOP/s, the best of several")
    peaks = _print_peaks(report)
    report.title(f"The network's share of it, median of {options.ROUNDS.value} runs")
    columns = ("image", "batch", "what", "precision", "GFLOP", "GFLOP, nominal", "ms", "GFLOP/s", "share of the peak")
    report.header(*columns, "share, nominal")
    for size in options.chosen_sizes():
        for dtype, precision in options.PRECISIONS.items():
            for what, function in _functions(size, precision).items():
                _print_row(report, size, what, precision, function, peaks[dtype])


def _print_peaks(report):
    actions = {f"{_MATRIX}x{_MATRIX} matrix product": _matrix_product}
    for convolution in _CONVOLUTIONS:
        images, side, before, after = convolution
        name = f"convolution of [{images}, {side}, {side}, {before}] with [3, 3, {before}, {after}]"
        actions[name] = lambda dtype, c=convolution: _convolution(dtype, *c)
    report.header("what", *options.PRECISIONS)
    rates = []
    for name, make in actions.items():
        rates.append([_best_rate(*make(dtype)) for dtype in options.PRECISIONS])
        report.row(name, *(f"{rate / 1e9:.0f}" for rate in rates[-1]))
    return {dtype: max(column) for dtype, column in zip(options.PRECISIONS, zip(*rates))}


def _matrix_product(dtype):
    a = tf.Variable(tf.cast(tf.random.stateless_normal((_MATRIX, _MATRIX), [0, 0]), dtype))
    return tf.function(lambda: tf.matmul(a, a)), 2 * _MATRIX**3


def _convolution(dtype, images, side, before, after):
    x = tf.cast(tf.random.stateless_normal((images, side, side, before), [0, 0]), dtype)
    kernel = tf.cast(tf.random.stateless_normal((3, 3, before, after), [0, 1]), dtype)
    x, kernel = tf.Variable(x), tf.Variable(kernel)  # Of constants, the product would be computed while tracing.
    return tf.function(lambda: tf.nn.conv2d(x, kernel, 1, "SAME")), 2 * images * side**2 * 9 * before * after


def _best_rate(function, operations):
    return operations / min(times_of(function, _WARMUP + _PEAK_RUNS)[_WARMUP:])


def _functions(size, precision):
    """What -> the concrete function, and a call of it."""
    model = blurdiff_work.make_model(size, precision)
    x, t = blurdiff_work.images(size), tf.linspace(0.0, 1.0, size.batch)
    forward, step = blurdiff_work.forward_function(model), blurdiff_work.training_function(model)
    return {
        "forward pass": (forward.get_concrete_function(x, t), lambda: forward(x, t)),
        "training step": (step.get_concrete_function(x), lambda: step(x)),
    }


def _print_row(report, size, what, precision, function, peak):
    concrete, call = function
    operations = count_operations(concrete)
    seconds = statistics.median(times_of(call, _WARMUP + options.ROUNDS.value)[_WARMUP:])
    rate, nominal_rate = operations.executed / seconds, operations.nominal / seconds
    report.row(
        size.name, size.batch, what, precision, f"{operations.executed / 1e9:.2f}", f"{operations.nominal / 1e9:.2f}",
        f"{1e3 * seconds:.1f}", f"{rate / 1e9:.0f}", f"{rate / peak:.2f}", f"{nominal_rate / peak:.2f}",
    )  # fmt: skip


if __name__ == "__main__":
    flags.adopt_module_key_flags(options)
    command_line.run(main)
