"""A part as the main program sees it: a process with a group of its own, a limit, and a file of results.

Standard library only, so that nothing that a part may break or wait for is in the main program.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from part import write_json

# A part is told to end so many seconds before it is ended; a process that hangs in the driver may outlive its end.
_GRACE, _PATIENCE = 3.0, 5.0
_LINES_KEPT = 15


class Stopped(Exception):
    """A signal to stop came; its name is the argument."""


@dataclasses.dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        state: "done", "failed with status 1", "ended after 30 s, its limit", "stopped by SIGTERM".
        seconds: it took.
        last_lines: of what it wrote to its standard output and error.
    """

    state: str
    seconds: float
    last_lines: list


def run_in_group(command, seconds, environment):
    """Runs a command and ends it, with all processes that it started, at its limit or when `Stopped` is raised.

    Returns:
        (`End`, the `Stopped` or None).
    """
    started, stopped = time.monotonic(), None
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, process_group=0
        )
        try:
            status = process.wait(seconds)
            state = "done" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            state = f"ended after {seconds:.0f} s, its limit"
        except Stopped as error:
            stopped, state = error, f"stopped by {error}"
        finally:
            _end_group(process)
        return End(state, time.monotonic() - started, _last_lines(log)), stopped


def not_started(name):
    """What is said of a part for which no time was left; it has no file."""
    return {**_nothing_of(name), "state": "not started, for no time was left", "seconds": 0.0}


def _nothing_of(name):
    return {"part": name, "tables": [], "problems": [], "details": {}}


def _end_group(process):
    with contextlib.suppress(ProcessLookupError):  # The group is gone with its last process.
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)


def _last_lines(log):
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 100_000))
    return log.read().decode(errors="replace").strip().splitlines()[-_LINES_KEPT:]


def run_part(name, program, out_dir, seconds, request, environment, machine):
    """Runs a part's program to its end or its limit, and completes its file of results.

    Args:
        name: of the part and, with .json, of its file in `out_dir`.
        program: a Python file, called with the request in JSON; see `part.Part`.
        seconds: its limit.
        request: of its keys, those that are the same for all parts.
        environment: of the process.
        machine: what is known of the machine, for the file.

    Returns:
        (the results, the `Stopped` or None).
    """
    path = pathlib.Path(out_dir, f"{name}.json")
    path.unlink(missing_ok=True)
    request = {**request, "name": name, "out": str(path), "seconds": max(1.0, seconds - _GRACE)}
    end, stopped = run_in_group([sys.executable, str(program), json.dumps(request)], seconds, environment)
    results = _nothing_of(name)
    with contextlib.suppress(FileNotFoundError):  # It failed before its first table.
        results = json.loads(path.read_text())
    results |= {"state": end.state, "seconds": round(end.seconds, 1), "limit": round(seconds, 1), "machine": machine}
    if end.state != "done":
        results["last_lines"] = end.last_lines
    write_json(path, results)
    return results, stopped
