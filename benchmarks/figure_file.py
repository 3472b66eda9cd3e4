"""The picture that a benchmark writes at its end, checked at its beginning."""

import pathlib

from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writable_file
from tf_blurdiff.visualization import plotting


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
    return writable_file(path, f"--{flag} {given}")
