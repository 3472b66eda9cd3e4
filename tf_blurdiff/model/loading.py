"""The models that come with the package, as .keras files."""

from pathlib import Path

from tf_blurdiff.errors import UserError


def shipped_models():
    """The models that come with the package: `{name: path}`; weights/README.md says how each was trained.

    Example:
        >>> sorted(shipped_models())
        ['digits', 'fashion_mnist']
    """
    here = Path(__file__).parents[1]
    # In a wheel they are inside the package, in a checkout beside it.
    folder = here / "weights" if (here / "weights").is_dir() else here.parent / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.keras"))}


def find_model(path_or_name):
    """The path of a .keras file, or of a shipped model's by its name. A file goes before a name.

    Raises:
        UserError: if there is neither.

    Example:
        >>> find_model("digits").name
        'digits.keras'
    """
    path, shipped = Path(path_or_name).expanduser(), shipped_models()
    if path.is_file():
        return path
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    expected = f"expected a .keras file, or one of {', '.join(shipped)}"
    raise UserError(f"model file not found: {path_or_name}; {expected}")
