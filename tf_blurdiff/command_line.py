"""What the command lines share: flags, --help, and errors without tracebacks."""

import functools
import os
import sys

from absl import app, flags, logging

from tf_blurdiff.errors import Unfinished, UserError


def run(main, takes_command=False):
    """Runs `main()` with the flags parsed, those before `--` if a command follows it.

    The status is 0 when all is well and after --help; 2 for a user's mistake, 75 for work that stopped before its end
    and can be gone on with, 130 after Ctrl-C, each with one message on stderr.
    """
    logging.set_verbosity(logging.WARNING)
    app.run(lambda argv: _call(main), flags_parser=functools.partial(_parse, takes_command=takes_command))


def _parse(argv, takes_command):
    if takes_command and "--" in argv:
        argv = argv[: argv.index("--")]
    if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
        module = sys.modules["__main__"]
        print(f"{(module.__doc__ or '').strip()}\n\nflags:\n{flags.FLAGS.module_help(argv[0])}")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument: {rest[1]}")
        return rest
    except flags.Error as error:
        _fail(f"{error} (--help lists the flags)")


def _call(main):
    try:
        main()
    except UserError as error:
        _fail(error)
    except Unfinished as unfinished:
        _fail(unfinished, unfinished.status)
    except KeyboardInterrupt:
        _fail("interrupted", Unfinished.INTERRUPTED)


def _fail(message, status=2):
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(status)
