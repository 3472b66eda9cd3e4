"""A small .keras file for apps and for shipping: the averaged weights alone, kept as float16."""

import io
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import h5py
import numpy as np

from tf_blurdiff.errors import UserError
from tf_blurdiff.files import expanded, writable_file, write_atomically, writing
from tf_blurdiff.model import DiffusionModel

_WEIGHTS = "model.weights.h5"
# What rounding may cost: float16 has 11 bits, and below 6e-5 fewer.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-6


def export_keras(model: DiffusionModel, path: str | os.PathLike) -> pathlib.Path:
    """Writes a model file without averages and optimizer: about a quarter of a run's model.keras, loaded as any other.

    It holds the averaged weights as float16, which Keras casts to float32 when it reads them; weights that float16
    cannot hold stay float32. Images are within a grey level of the model's, mostly equal.

    Args:
        model: a `DiffusionModel`.
        path: of the file, which ends in .keras; another of that name is replaced.

    Returns:
        The path.

    Raises:
        UserError: for another suffix, and where the file cannot be written.

    Example:
        >>> import tempfile, tf_blurdiff as bd
        >>> path = export_keras(bd.load_pretrained("digits"), f"{tempfile.mkdtemp()}/small.keras")
        >>> bd.load_model(path).sample([0]).shape
        (1, 8, 8, 1)
    """
    path = expanded(path)
    if path.suffix != ".keras":
        raise UserError(f"the path of a Keras model must end in .keras. Received: {path}")
    writable_file(path, path)
    with tempfile.TemporaryDirectory() as folder, writing(path):
        whole = pathlib.Path(folder, "whole.keras")
        model.averaged().save(whole)
        write_atomically(path, lambda part: _halve(whole, part))
    return path


def _halve(source: pathlib.Path, target: pathlib.Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, _halved(content) if name == _WEIGHTS else content)


def _halved(content: bytes) -> bytes:
    result = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(result, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                copied = new.create_dataset(name, data=_as_float16(item[()]))
            else:
                copied = new.require_group(name)
            copied.attrs.update(item.attrs)

        old.visititems(copy)
    return result.getvalue()


def _as_float16(values: Any) -> Any:
    if getattr(values, "dtype", None) != np.float32:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.allclose(half, values, rtol=_RELATIVE, atol=_ABSOLUTE) else values
