"""The errors that the command lines report without a traceback, and checks that raise them."""

from collections.abc import Iterable

import numpy as np


class UserError(ValueError):
    """A mistake in what was asked for. The message names what was given and what is allowed.

    The command lines print it and end with status 2; to Python code it is a ValueError.
    """


class Unfinished(Exception):
    """Work that stopped before its end, with nothing lost: the same command goes on with it.

    The command lines print the message and end with `status`.
    """

    # What sysexits.h calls a temporary failure: "try again".
    TRY_AGAIN, INTERRUPTED = 75, 130

    def __init__(self, message: object, status: int = TRY_AGAIN) -> None:
        super().__init__(message)
        self.status = status


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raises a UserError unless the value is an integer, of Python or NumPy, from `least` to 2^31 - 1.

    Example:
        >>> check_count("num_steps", 20)
        >>> check_count("num_steps", 0)
        Traceback (most recent call last):
        tf_blurdiff.errors.UserError: num_steps must be an integer of 1 or more, below 2^31. Received: 0
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < 2**31:
        raise UserError(f"{name} must be an integer of {least} or more, below 2^31. Received: {value!r}")


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raises a UserError unless the value is one of the allowed names.

    Example:
        >>> one_of("grid", "uniform", ["uniform", "quadratic"])
        >>> one_of("grid", "cubic", ["uniform", "quadratic"])
        Traceback (most recent call last):
        tf_blurdiff.errors.UserError: grid must be one of uniform, quadratic. Received: 'cubic'
    """
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        raise UserError(f"{name} must be one of {', '.join(names)}. Received: {value!r}")


def is_number(value: object) -> bool:
    """Whether it is an integer or a float, of Python or NumPy.

    Example:
        >>> is_number(0.5), is_number(True), is_number("0.5")
        (True, False, False)
    """
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
