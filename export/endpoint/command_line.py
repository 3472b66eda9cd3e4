"""What the three programs share: --help, and one clear line for a mistake."""

import functools
import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType

import numpy as np
from absl import app, flags

INT64 = range(-(2**63), 2**63)
LARGEST = float(np.finfo(np.float32).max)


class ClientError(Exception):
    """What was asked for cannot be had; the message says why and what to do."""


def run(
    main: Callable[[], int | None],
    flag_modules: Iterable[ModuleType] = (),
    mistakes: tuple[type[Exception], ...] = (ClientError, OSError),
) -> None:
    """Runs `main()` with the flags parsed, and ends with what it returns as the exit status.

    The status is 0 after --help, 2 for a mistake or a server that fails, each in one line on stderr, and 130 after
    Ctrl-C.

    Args:
        main: the program.
        flag_modules: modules whose flags the program uses as its own.
        mistakes: the errors that are told in one line.
    """
    call = functools.partial(_call, main, mistakes)
    app.run(lambda argv: call(), flags_parser=functools.partial(_parse, flag_modules=flag_modules))


def _parse(argv, flag_modules) -> list:
    if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
        described = [flags.FLAGS.module_help(module) for module in (argv[0], *flag_modules)]
        print(f"{sys.modules['__main__'].__doc__.strip()}\n\nflags:\n{''.join(described)}")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error} (--help lists the flags)")
    if len(rest) > 1:
        _fail(f"unknown arguments: {' '.join(rest[1:])} (--help lists the flags)")
    return rest


def _call(main, mistakes):
    try:
        return main()
    except mistakes as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message) -> None:
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(2)
