"""The picture that a benchmark writes at its end, checked at its beginning."""

import os
import pathlib

from tf_blurdiff import plotting
from tf_blurdiff.errors import UserError


def figure_file(flag, given):
    """The path of a figure, whose folder is made.

    Args:
        flag: the name of the flag that it comes from.
        given: its value.

    Raises:
        UserError: for a file that no figure can be written to, and where matplotlib is missing.
    """
    path = pathlib.Path(given)
    if path.suffix.lower() not in plotting.FIGURE_SUFFIXES:
        raise UserError(f"--{flag} must end in {', '.join(plotting.FIGURE_SUFFIXES)}. Received: {given}")
    plotting.check_matplotlib()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--{flag} {given} cannot be written: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--{flag} {given} cannot be written: {'it is a folder' if path.is_dir() else 'no permission'}")
    return path
