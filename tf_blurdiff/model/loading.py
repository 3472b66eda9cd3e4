"""Models from .keras files, and the models that come with the package."""

import re
import zipfile
from pathlib import Path

import keras

from tf_blurdiff.errors import UserError, one_of
from tf_blurdiff.files import expanded, shipped_files
from tf_blurdiff.model.diffusion_model import DiffusionModel

_HUB = "hf://"


def shipped_models() -> dict[str, Path]:
    """The models that come with the package: `{name: path}`; weights/README.md says how each was trained.

    Example:
        >>> sorted(shipped_models())
        ['digits', 'digits_4', 'emoji', 'fashion_mnist', 'fashion_mnist_4']
    """
    return {path.stem: path for path in shipped_files("weights", ".keras")}


def find_model(path_or_name: str | Path) -> Path:
    """The path of a .keras file, of a run directory's `model.keras`, or of a shipped model by its name.

    What is there goes before a shipped name. "hf://user/model" is downloaded from the Hugging Face Hub first, as Keras
    does: what `model.save("hf://user/model")` has written there, which is a folder, or a file model.keras.

    Raises:
        UserError: if there is none, or if it cannot be downloaded.

    Example:
        >>> find_model("digits").name
        'digits.keras'
    """
    name, shipped = str(path_or_name), shipped_models()
    path = _downloaded(name) if name.startswith(_HUB) else expanded(name)
    if path.is_file():
        return path
    if (path / "model.keras").is_file():
        return path / "model.keras"
    if (path / "model.weights.h5").is_file() and (path / "config.json").is_file():
        return path
    if name in shipped:
        return shipped[name]
    expected = (
        f"expected a .keras file, a run directory that holds one, one of {', '.join(shipped)}, or {_HUB}user/model"
    )
    raise UserError(f"model file not found: {name}; {expected}")


def _downloaded(address):
    """The folder with what a repository of the Hugging Face Hub holds."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{address} needs the package huggingface_hub: pip install huggingface_hub") from None
    try:
        return Path(huggingface_hub.snapshot_download(address.removeprefix(_HUB), library_name="keras"))
    except Exception as error:  # Errors of its own, of HTTP, of the network and of the disk.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{address} cannot be downloaded: {reason}") from error


def load_model(path_or_name: str | Path, precision: str | None = None) -> DiffusionModel:
    """Loads a `DiffusionModel` from a file, a run directory or the Hugging Face Hub, or a shipped one by its name.

    Args:
        path_or_name: the file or folder, "hf://user/model", or the name of a shipped one.
        precision: of the network's arithmetic, as of `DiffusionModel.in_precision`; None for that of its training.

    Raises:
        UserError: if there is no such file, if it holds no DiffusionModel, and for a precision that is not allowed.
    """
    path = find_model(path_or_name)
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not a .keras file that can be read: it is damaged or cut short, or of another kind")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # A damaged file makes zipfile, h5py, json or Keras fail, each in its own way.
        missing = _missing_class(error)
        if missing:
            raise UserError(
                f"{path} holds a class {missing}, which nothing has brought: import its package first, on the command "
                "line with --imports, and register it with Keras"
            ) from error
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path} is not a .keras file that can be read: {reason}") from error
    if not isinstance(model, DiffusionModel):
        raise UserError(f"{path} holds a {type(model).__name__}; a DiffusionModel is expected")
    return model if precision is None else model.in_precision(precision)


def load_pretrained(name: str) -> DiffusionModel:
    """A model that comes with the package, ready to sample from: "digits", "emoji", "fashion_mnist" and others.

    All are blurring diffusion; "digits_4" and "fashion_mnist_4" were distilled from those without a number, and sample
    in four calls of their network. weights/README.md says how they were trained and how good they are.

    Raises:
        UserError: for another name.

    Example:
        >>> import tf_blurdiff as bd
        >>> bd.load_pretrained("digits").sample(seeds=[0, 1], num_steps=5).shape
        (2, 8, 8, 1)
    """
    one_of("name", name, shipped_models())
    return load_model(shipped_models()[name])


def _missing_class(error: BaseException | None) -> str | None:
    """The name of the class that Keras did not find, if that is what an error comes from."""
    while error is not None:
        match = re.match(r"Could not locate class '(\w+)'", str(error))
        if match:
            return match[1]
        error = error.__cause__ or error.__context__
    return None
