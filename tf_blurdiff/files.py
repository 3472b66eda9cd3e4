"""Where a program writes: checked before its long work, and each file whole or not there."""

import contextlib
import os
import pathlib

from tf_blurdiff.errors import UserError


def writable_folder(path, said):
    """Makes a folder and checks that files can be written to it.

    Args:
        path: the folder; missing ones above it are made too.
        said: what a message calls it, such as "--out pictures/a.png".

    Returns:
        The folder, a pathlib.Path.

    Raises:
        UserError: where nothing can be written.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{said} cannot be written: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{said} cannot be written: no permission in {path}")
    return path


def writable_file(path, said):
    """Makes the folder of a file, and checks that the file can be written; as `writable_folder`."""
    path = pathlib.Path(path)
    writable_folder(path.parent, said)
    if path.is_dir():
        raise UserError(f"{said} cannot be written: it is a folder")
    return path


def write_atomically(path, write):
    """Calls `write` with a temporary path and renames it: a reader sees the old file or the new one, never a part."""
    # The suffix stays: Keras looks at it.
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
