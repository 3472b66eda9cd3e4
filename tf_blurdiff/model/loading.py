"""Models from .keras files, and the models that come with the package."""

import re
from pathlib import Path

import keras

from tf_blurdiff.errors import UserError, one_of
from tf_blurdiff.files import shipped_files
from tf_blurdiff.model.diffusion_model import DiffusionModel


def shipped_models() -> dict[str, Path]:
    """The models that come with the package: `{name: path}`; weights/README.md says how each was trained.

    Example:
        >>> sorted(shipped_models())
        ['digits', 'fashion_mnist']
    """
    return {path.stem: path for path in shipped_files("weights", ".keras")}


def find_model(path_or_name: str | Path) -> Path:
    """The path of a .keras file, of a run directory's `model.keras`, or of a shipped model by its name.

    A file goes before a name.

    Raises:
        UserError: if there is none.

    Example:
        >>> find_model("digits").name
        'digits.keras'
    """
    path, shipped = Path(path_or_name).expanduser(), shipped_models()
    if path.is_file():
        return path
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    if (path / "model.keras").is_file():
        return path / "model.keras"
    expected = f"expected a .keras file, a run directory that holds one, or one of {', '.join(shipped)}"
    raise UserError(f"model file not found: {path_or_name}; {expected}")


def load_model(path_or_name: str | Path, precision: str | None = None) -> DiffusionModel:
    """Loads a `DiffusionModel` from a .keras file or a run directory, or a shipped one by its name.

    Args:
        path_or_name: the file or folder, or "digits" or "fashion_mnist".
        precision: of the network's arithmetic, as of `DiffusionModel.in_precision`; None for that of its training.

    Raises:
        UserError: if there is no such file, if it holds no DiffusionModel, and for a precision that is not allowed.
    """
    path = find_model(path_or_name)
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
    """A model that comes with the package, ready to sample from: "digits" or "fashion_mnist".

    Both are blurring diffusion; weights/README.md says how they were trained and how good they are.

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
