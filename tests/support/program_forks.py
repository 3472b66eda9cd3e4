"""A program that runs others, one after the other, each in a fork of itself.

So what they import, half a second of it, is imported once. It is given the folder of the programs; each line of stdin
is [path, arguments, environment] in JSON, and is answered by a line [status, stdout, stderr].
"""

import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path

SECONDS = 120  # that a program may take


def main(folder):
    sys.path.insert(0, folder)
    import_what_they_import()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as outputs:
            names = [Path(outputs, name) for name in ("stdout", "stderr")]
            pid = os.fork()
            if pid == 0:
                become(*json.loads(line), names)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(json.dumps([status, *[name.read_text() for name in names]]), flush=True)


def import_what_they_import():
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import requests  # noqa: F401

    import dev_server.checks  # noqa: F401
    import endpoint.connection
    import endpoint.load_levels
    import endpoint.restoration_inputs  # noqa: F401


def become(path, arguments, environment, outputs):
    """Runs the program, and ends with its status."""
    signal.alarm(SECONDS)
    for descriptor, output in zip((1, 2), outputs):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, status = [path, *arguments], 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
