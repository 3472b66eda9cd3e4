"""Code of the user's own: packages that a command names, and what configs and model files may then name of them.

To import a package is to run it. A config or a model file, which may come from anywhere, therefore imports nothing: it
names objects of packages that the command line, or a program, has named.
"""

import importlib
import os
import traceback
from collections.abc import Iterable
from typing import Any

from tf_blurdiff.errors import UserError

_named: list[str] = []


def import_packages(names: Iterable[str]) -> None:
    """Imports packages or modules, whose objects configs may then name, and whose layers model files may hold.

    Args:
        names: dotted names, as an import statement has them; they are searched where Python searches.

    Raises:
        UserError: if one cannot be imported.

    Example:
        >>> import_packages(["colorsys"])
        >>> find_object("process.class", "colorsys.rgb_to_hsv")(1.0, 1.0, 1.0)
        (0.0, 0.0, 1.0)
    """
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # Whatever a module of the user's raises is what is wrong with it.
            raise UserError(f"--imports: cannot import {name!r}: {type(error).__name__}: {_line(error)}") from error
        if name not in _named:
            _named.append(name)


def check_named(key: str, packages: Iterable[str]) -> None:
    """Raises a UserError unless `import_packages` was called with each of these."""
    for name in packages:
        if name not in _named:
            raise UserError(f"{key}: got {name!r}, expected a package that the command names: {_how_to_import(name)}")


def find_object(key: str, name: str) -> Any:
    """What `package.module.object` is, of a package that was named.

    Args:
        key: the config's key that has the name, for the message.
        name: the dotted name.

    Raises:
        UserError: if no such package was named, or there is no such object.
    """
    module, _, attribute = name.rpartition(".")
    package = next((package for package in _named if f"{name}.".startswith(f"{package}.")), None)
    if package is None or not module:
        raise UserError(
            f"{key}: got {name!r}, expected package.name, of a package that the command names: "
            + _how_to_import(name.partition(".")[0])
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}: got {name!r}: {_line(error)}") from error


def call_object(key: str, name: str, /, *arguments: Any, **named: Any) -> Any:
    """What the object of that name returns, called with these arguments.

    Raises:
        UserError: if there is no such object, and for a TypeError or ValueError, with the place that it comes from.
    """
    function = find_object(key, name)
    try:
        return function(*arguments, **named)
    except (TypeError, ValueError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}, line {place.lineno}"
        raise UserError(f"{key}: {name} cannot be called: {_line(error)} ({where})") from error


def _how_to_import(package):
    return f"--imports={package} imports it. That runs its code"


def _line(error):
    return " ".join(str(error).split())
