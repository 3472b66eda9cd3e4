"""Files: those that come with the package, and writing others, each whole or not there."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

from tf_blurdiff.errors import UserError


def shipped_files(folder: str, suffix: str) -> list[pathlib.Path]:
    """The files that come with the package in "configs" or "weights", by their names.

    Example:
        >>> [path.name for path in shipped_files("weights", ".keras")]
        ['digits.keras', 'digits_4.keras', 'emoji.keras', 'fashion_mnist.keras', 'fashion_mnist_4.keras']
    """
    package = pathlib.Path(__file__).parent
    # In a wheel they are inside the package, in a checkout beside it.
    place = package / folder if (package / folder).is_dir() else package.parent / folder
    return sorted(place.glob(f"*{suffix}"))


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """The path; one that begins with ~ from the home folder on, if there is such a user.

    Raises:
        UserError: if it has bytes that are no text: TensorFlow and config.yaml cannot hold these.

    Example:
        >>> expanded("~nobody that we know/picture.png").name
        'picture.png'
    """
    path = os.path.expanduser(path)
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fspath(path)!r}: expected a name in UTF-8") from None
    return pathlib.Path(path)


def writable_folder(path: str | os.PathLike, what: object) -> pathlib.Path:
    """Makes a folder and checks that files can be written to it.

    Args:
        path: the folder, relative to the home folder if it begins with ~; missing ones above it are made too.
        what: what a message calls it, such as "--out pictures/a.png".

    Returns:
        The folder.

    Raises:
        UserError: where nothing can be written.
    """
    path = expanded(path)
    with writing(what):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise UserError(f"{what} cannot be written: no permission in {path}")
    return path


def writable_file(path: str | os.PathLike, what: object) -> pathlib.Path:
    """Makes the folder of a file, and checks that the file can be written; as `writable_folder`."""
    path = expanded(path)
    writable_folder(path.parent, what)
    if path.is_dir():
        raise UserError(f"{what} cannot be written: it is a folder")
    return path


@contextlib.contextmanager
def writing(what: object, advice: str = "", errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turns a failure to write into a UserError: what cannot be written, and why.

    Args:
        what: the file or folder, as a message calls it.
        advice: what the message ends with.
        errors: what counts as such a failure.

    Example:
        >>> with writing("picture.png"):
        ...     raise OSError(28, "")
        Traceback (most recent call last):
        tf_blurdiff.errors.UserError: picture.png cannot be written: No space left on device
    """
    try:
        yield
    except errors as error:
        raise UserError(f"{what} cannot be written: {_reason(error)}{advice}") from error


def write_atomically(
    path: pathlib.Path, write: Callable[[pathlib.Path], object], writer: object = "", lasting: bool = False
) -> None:
    """Calls `write` with a temporary path and renames it: a reader sees the old file or the new one, never a part.

    Args:
        path: of the file; its folder is there.
        write: a function of a path with the same suffix and in the same folder.
        writer: what tells this process from others that may write the same file at the same time.
        lasting: whether to wait until the disk has it, so that this holds when the machine loses its power, too.
    """
    # The suffix stays: Keras and Pillow look at it.
    temporary = path.with_name(f".{path.stem}.writing{writer}{path.suffix}")
    try:
        write(temporary)
        if lasting:
            on_disk(temporary)
        os.replace(temporary, path)
        if lasting:
            on_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what a process left in a folder that was killed in `write_atomically`; raises OSError where it cannot."""
    for path in folder.glob(".*.writing*"):
        path.unlink(missing_ok=True)


def on_disk(*paths: pathlib.Path) -> None:
    """Waits until the disk has these files; of a folder, its names."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: Exception) -> str:
    # h5py puts a page of text where the system's own words are.
    number = getattr(error, "errno", None)
    text = os.strerror(number) if number else getattr(error, "strerror", None) or str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]
