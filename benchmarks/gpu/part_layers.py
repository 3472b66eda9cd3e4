"""Layers as they are and as they could be: group normalisation, attention, the DCT; each inside of what XLA compiles.

Normalisation and attention are measured with their gradients, the DCT without, as training has them. A measurement is a
loop of calls, compiled as a whole, in which each depends on the one before. The ways of one layer take turns in one
process; a ratio is the median of the rounds', with its lowest and highest. "difference" is
`||y - y_first|| / ||y_first||` of the first way's results, and "error" the same against NumPy in float64.
"""

import functools
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import layer_ways
import markdown_tables
import numpy as np
import rounds
import tensorflow as tf
from part import Part

from tf_blurdiff.compilation import compiled

_ROUNDS = 5
_COLUMNS = "us a call", "time over the first's", "why not measured"


def main(part):
    """Three tables."""
    dtypes = ("float32",) if part.small else ("bfloat16", "float32")
    _normalisation(part, dtypes)
    _attention(part, dtypes)
    _dct(part)


def _normalisation(part, dtypes):
    title = "Group normalisation with SiLU, and its gradient"
    table = part.table(title, "shape", "type", "how", "difference", *_COLUMNS)
    for dtype in dtypes:
        for shape in [(2, 8, 8, 16)] if part.small else [(128, 32, 32, 128), (128, 16, 16, 256), (128, 8, 8, 256)]:
            inputs = _normals(dtype, shape), *_normals("float32", (shape[0], shape[3]), (shape[0], shape[3]))
            ways = {name: _with_gradient(way) for name, way in layer_ways.NORMALISATIONS.items()}
            _compare(part, table, (shape, dtype), ways, _flat(inputs))


def _attention(part, dtypes):
    table = part.table(
        "Self-attention in heads of 64, and its gradient", "shape [B, N, heads, 64]", "type", "how", "difference",
        *_COLUMNS,
    )  # fmt: skip
    for dtype in dtypes:
        for shape in [(2, 16, 1, 64)] if part.small else [(128, 256, 4, 64), (16, 1024, 4, 64)]:
            ways = {name: _with_gradient(way) for name, way in layer_ways.ATTENTIONS.items()}
            _compare(part, table, (shape, dtype), ways, _normals(dtype, *[shape] * 3))


def _dct(part):
    table = part.table(
        "The two-dimensional DCT of float32 images", "shape", "TF32", "how", "difference", "error", *_COLUMNS
    )
    for shape in [(2, 8, 8, 1)] if part.small else [(128, 32, 32, 3), (32, 128, 128, 3), (8, 256, 256, 3)]:
        for tf32 in (True, False):
            tf.config.experimental.enable_tensor_float_32_execution(tf32)
            x = _normals("float32", shape)
            error = functools.partial(_relative, other=layer_ways.dct_in_float64(x[0].numpy()))
            _compare(part, table, (shape, "on" if tf32 else "off"), layer_ways.DCTS, x, error)
    tf.config.experimental.enable_tensor_float_32_execution(True)


def _normals(dtype, *shapes):
    numbers = [np.random.default_rng(seed).standard_normal(shape) for seed, shape in enumerate(shapes)]
    return tuple(tf.cast(tf.constant(array, tf.float32), dtype) for array in numbers)


def _flat(inputs):
    return *inputs[0], *inputs[1:]


def _with_gradient(way):
    """Of the inputs, of the half sum of the result's squares: the result and the gradients."""

    def results(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = way(*inputs)
            loss = 0.5 * tf.reduce_sum(tf.square(tf.cast(y, tf.float32)))
        return y, *tape.gradient(loss, inputs)

    return results


def _compare(part, table, about, ways, inputs, error=None):
    """Rows for the ways, in turn; `about` are the cells before."""
    outputs, actions, failures = {}, {}, {}
    count = 1 if part.small else 100
    for name, way in ways.items():
        try:
            outputs[name] = compiled(lambda *x, way=way: _as_tuple(way(*x)))(*inputs)[0].numpy().astype(np.float64)
            actions[name] = _loop(way, inputs, count)
            actions[name]()
        except Exception as failure:  # What is not to be had here is part of the answer.
            failures[name] = " ".join(f"{type(failure).__name__}: {failure}".split())[:200]
            actions.pop(name, None)
    times = {name: [] for name in actions}
    for _ in range(1 if part.small else _ROUNDS):
        for name, action in actions.items():
            times[name].append(min(rounds.times_of(action, 2)))
    for name in ways:
        first = next(iter(outputs.values()), None)
        cells = [f"{_relative(outputs[name], first):.1e}" if name in outputs else ""]
        if error is not None:
            cells.append(f"{error(outputs[name]):.1e}" if name in outputs else "")
        speed = ("", "")
        if name in times:
            ratio = rounds.ratio(times[name], next(iter(times.values())))
            speed = f"{1e6 * statistics.median(times[name]) / count:.1f}", markdown_tables.ratio_cell(ratio)
        table.put((*about, name), *about, name, *cells, *speed, failures.get(name, ""))


def _as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def _loop(way, inputs, count):
    """An action: `count` calls one after the other, each of inputs that the one before has moved a little."""

    def run(*inputs):
        def body(i, *now):
            moved = _as_tuple(way(*now))[-len(now) :]
            return i + 1, *(x + tf.cast(1e-3, x.dtype) * tf.cast(dx, x.dtype) for x, dx in zip(now, moved))

        return tf.while_loop(lambda i, *now: i < count, body, (0, *inputs))[1]

    traced = compiled(run)
    return lambda: float(tf.reshape(traced(*inputs), (-1,))[0])


def _relative(y, other):
    return float(np.linalg.norm(y - other) / np.linalg.norm(other))


if __name__ == "__main__":
    main(Part.from_command_line())
