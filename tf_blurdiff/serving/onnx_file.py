"""The whole sampling loop in one ONNX file: seeds in, images out, in ONNX Runtime and without TensorFlow."""

import importlib.util
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf

from tf_blurdiff import __version__
from tf_blurdiff.compilation import for_other_runtimes
from tf_blurdiff.data import to_uint8
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import expanded, writable_file, write_atomically, writing
from tf_blurdiff.model import DiffusionModel
from tf_blurdiff.serving.signatures import sampling_task

_OPSET = 18
_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
# Run in a process of its own: in one with TensorFlow, ONNX Runtime was seen to abort.
_RUN = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(["image"], dict(numpy.load(sys.argv[2])))[0])
"""


def export_onnx(
    model: DiffusionModel,
    path: str | os.PathLike,
    num_steps: int | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    grid: str | None = None,
    delta: float | None = None,
) -> pathlib.Path:
    """Writes a file that samples in ONNX Runtime, and tries it there: complete and right, or not at all.

    Inputs: seed int64 `[B]`; of a model with labels also label int64 `[B]`; of one trained with label dropout
    guidance_scale float32 `[B]`. Output: image uint8 `[B, H, W, C]`. They mean what they mean in `export_savedmodel`,
    but ONNX has no way to refuse a wrong value, and a model that can be guided always calls its network on twice the
    batch. The file's metadata say how it samples and what its labels are called.

    Args:
        model: a `DiffusionModel`.
        path: of the file, which ends in .onnx; another of that name is replaced.
        num_steps, sampler, eta, grid, delta: as in `DiffusionModel.sample`; None takes the model's own.

    Returns:
        The path.

    Raises:
        UserError: for another suffix, without the packages of `tf_blurdiff[onnx]`, for arguments that are not allowed,
            if the model's network has an operation that cannot be converted, or if ONNX Runtime gives other images
            (more than one grey level apart).
    """
    path = expanded(path)
    if path.suffix != ".onnx":
        raise UserError(f"the path of an ONNX file must end in .onnx. Received: {path}")
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"ONNX files need the packages {', '.join(missing)}: pip install 'tf_blurdiff[onnx]'")
    settings = model.sampling_settings(sampler=sampler, num_steps=num_steps, grid=grid, eta=eta, delta=delta)
    model.check_prior()
    writable_file(path, str(path))  # Before minutes of work, not after.
    task = sampling_task(model, settings)
    facts = {
        "tf_blurdiff": __version__,
        "model_sha256": model.fingerprint(),
        "sampling": json.dumps(settings._asdict()),
        "class_names": json.dumps(model.class_names),
    }
    # A copy: what is traced for one runtime is not for another, and a model keeps what it has traced.
    converted = _converted(sampling_task(model.averaged(), settings), facts)
    examples = {name: entry.example for name, entry in task.inputs.items()}
    expected = to_uint8(task.draw(**{name: tf.constant(rows) for name, rows in examples.items()})).numpy()

    def write(temporary):
        temporary.write_bytes(converted.SerializeToString())
        apart = np.abs(_run(temporary, examples).astype(int) - expected).max()
        if apart > 1:
            raise UserError(f"ONNX Runtime gives other images than the model: {apart} grey levels apart")

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    return path


def _converted(task, facts):
    """The task as an ONNX model."""
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # It would warn of each shape that it does not know.

    def images(*values):
        with for_other_runtimes():
            return {"image": to_uint8(task.draw(**dict(zip(task.inputs, values))))}

    specs = [tf.TensorSpec([None, *entry.shape], entry.dtype, name=name) for name, entry in task.inputs.items()]
    function = tf.function(images, input_signature=specs, autograph=False)
    handlers: dict[str, tuple] = {name: (handler, []) for name, handler in _HANDLERS.items()}
    try:
        model, _ = tf2onnx.convert.from_function(function, specs, opset=_OPSET, custom_op_handlers=handlers)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the model cannot be converted to ONNX: {reason}") from error
    onnx.helper.set_model_props(model, facts)
    return model


def _run(path, feeds):
    """The images that ONNX Runtime makes."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = pathlib.Path(folder, "given.npz"), pathlib.Path(folder, "made.npy")
        np.savez(given, **feeds)
        command = [sys.executable, "-c", _RUN, *map(str, (path, given, made))]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise UserError(f"the converted model does not run in ONNX Runtime: {reason}")
        return np.load(made)


def _replaced(context, node, make):
    """Puts `make(*inputs)` in a node's place; `make` gives the name of its result."""
    (output,), inputs = node.output, list(node.input)
    shape, dtype = context.get_shape(output), context.get_dtype(output)
    context.remove_node(node.name)
    context.make_node("Identity", [make(*inputs)], outputs=[output], shapes=[shape], dtypes=[dtype])


def _operation(context, name, *inputs, **attributes):
    return context.make_node(name, list(inputs), attr=attributes).output[0]


def _number(context, value):
    import tf2onnx

    return context.make_const(tf2onnx.utils.make_name("number"), np.float32(value)).output[0]


def _expm1(context, node, name, args):
    """tanh(x / 2) (e^x + 1), which loses nothing near 0."""
    op = lambda *words, **attributes: _operation(context, *words, **attributes)
    half, one = _number(context, 0.5), _number(context, 1.0)
    _replaced(context, node, lambda x: op("Mul", op("Tanh", op("Mul", x, half)), op("Add", op("Exp", x), one)))


def _log1p(context, node, name, args):
    """2 artanh(x / (x + 2)), which loses nothing near 0."""
    op = lambda *words, **attributes: _operation(context, *words, **attributes)
    two = _number(context, 2.0)
    _replaced(context, node, lambda x: op("Mul", two, op("Atanh", op("Div", x, op("Add", x, two)))))


def _right_shift(context, node, name, args):
    """ONNX shifts numbers without a sign; what comes in from the left is masked out where this package shifts."""
    from onnx import TensorProto

    op = lambda *words, **attributes: _operation(context, *words, **attributes)
    unsigned = lambda x: op("Cast", x, to=TensorProto.UINT64)
    shifted = lambda x, places: op("BitShift", unsigned(x), unsigned(places), direction="RIGHT")
    _replaced(context, node, lambda x, places: op("Cast", shifted(x, places), to=TensorProto.INT64))


# What tf2onnx does not know.
_HANDLERS = {"Expm1": _expm1, "Log1p": _log1p, "RightShift": _right_shift}
