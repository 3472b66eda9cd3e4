"""Checks an export as a server would see it: in TensorFlow's C++ runtime, without Python TensorFlow, XLA off."""

import os
import pathlib
import zipfile

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from tf_blurdiff.errors import UserError
from tf_blurdiff.files import expanded
from tf_blurdiff.serving import assets as export_assets
from tf_blurdiff.serving.cpp_runtime import run_in_cpp_runtime


def verify(export_dir: str | os.PathLike) -> int:
    """Runs an export's warm-up requests and its known inputs, and compares the images.

    Args:
        export_dir: `<base_dir>/<version>`, or `<base_dir>` for its newest version.

    Returns:
        The largest difference to the known images over all signatures, in grey levels.

    Raises:
        UserError: if the folder holds no export of this package, if it does not run, or if an image differs by more
            than one grey level.
    """
    export_dir = _newest_version(expanded(export_dir))
    folder = export_dir / export_assets.FOLDER / export_assets.KNOWN
    if not folder.is_dir():
        raise UserError(f"{export_dir} is no export of tf_blurdiff: it has no {export_assets.FOLDER}/{folder.name}")
    definitions = _signature_defs(export_dir)
    known = {path.stem: _known(path) for path in sorted(folder.glob("*.npz"))}
    if missing := definitions.keys() - known.keys():
        raise UserError(f"{export_dir} is no export of tf_blurdiff: known images are missing for {sorted(missing)[0]}")
    requests = [(name, feeds) for name, (feeds, _) in known.items()] + _warmup(export_dir)
    runs = [_run(export_dir, definitions, *request) for request in requests]
    try:
        answers = run_in_cpp_runtime(export_dir, runs)
    except RuntimeError as error:
        raise UserError(f"{export_dir} does not run in TensorFlow's C++ runtime: {error}") from error
    worst = max(_difference(answer, expected) for answer, (_, expected) in zip(answers, known.values()))
    if worst > 1:
        raise UserError(f"{export_dir} gives other images than when it was written: {worst} grey levels apart")
    return worst


def _newest_version(folder: pathlib.Path) -> pathlib.Path:
    """A folder of versions' newest; any other folder as it is."""
    versions = [path for path in folder.glob("*/") if path.name.isdecimal()]
    is_version = (folder / export_assets.FOLDER).is_dir()
    return folder if is_version else max(versions, key=lambda path: int(path.name), default=folder)


def _signature_defs(export_dir):
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString((export_dir / "saved_model.pb").read_bytes())
        definitions = saved_model.meta_graphs[0].signature_def
    except (OSError, DecodeError, IndexError) as error:
        raise UserError(f"{export_dir}/saved_model.pb cannot be read: {error}") from error
    # The loader's own signature has no method.
    return {name: each for name, each in definitions.items() if each.method_name}


def _known(path):
    """(inputs by name, images) of a signature."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
            images = arrays.pop("image")
    except (OSError, ValueError, EOFError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return {name.removeprefix("input_"): _as_objects(rows) for name, rows in arrays.items()}, images


def _as_objects(rows):
    return rows.astype(object) if rows.dtype.kind == "S" else rows


def _warmup(export_dir):
    path = export_dir / export_assets.FOLDER / export_assets.WARMUP
    try:
        return list(export_assets.read_warmup(path))
    except (tf.errors.OpError, DecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read: {reason}") from error


def _run(export_dir, definitions, name, feeds):
    if name not in definitions or feeds.keys() != definitions[name].inputs.keys():
        names = ", ".join(feeds) or "nothing"
        raise UserError(f"{export_dir} has no signature {name!r} of {names}, which its assets name")
    inputs, outputs = definitions[name].inputs, definitions[name].outputs
    fetches = {key: tensor.name for key, tensor in outputs.items()}
    return {inputs[key].name: rows for key, rows in feeds.items()}, fetches


def _difference(answer, expected):
    (images,) = answer.values()
    if images.dtype == object:
        images = np.stack([tf.io.decode_png(file).numpy() for file in images])
    if images.shape != expected.shape or (expected.dtype == np.int64 and (images != expected).any()):
        return 255  # Labels have no levels in between.
    return int(np.abs(images.astype(np.int64) - expected).max())
