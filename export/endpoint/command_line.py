"""What the client and the load test share as programs: --help, and one clear line for a mistake."""

import functools
import os
import sys

from absl import app, flags


class ClientError(Exception):
    """What was asked for cannot be had; the message says why and what to do."""


def run(main, flag_modules=()) -> None:
    """Runs `main()` with the flags parsed, and returns what it returns as the exit status.

    The status is 0 after --help, 2 for a mistake or a server that fails, each in one line on stderr, and 130 after
    Ctrl-C. `flag_modules` are modules whose flags the program uses as its own.
    """
    app.run(lambda argv: _call(main), flags_parser=functools.partial(_parse, flag_modules=flag_modules))


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


def _call(main):
    try:
        return main()
    except (ClientError, OSError) as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message) -> None:
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(2)
