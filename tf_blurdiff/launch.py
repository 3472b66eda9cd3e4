"""Runs a command as several workers on this machine, and all of them again when one is lost.

    python -m tf_blurdiff.launch --num_workers 2 -- python -m tf_blurdiff.train --config digits.yaml

Each worker gets a TF_CONFIG with addresses on this machine's loopback interface, and its lines are marked with its
number. For several machines, set TF_CONFIG on each and start the command there (docs/training.md).

The status is 0 when every worker ended with 0; else that of one that did not, after the restarts are used up. A
signal to stop is passed on to all workers.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from tf_blurdiff import command_line
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.training import Interruption

_POLL_SECONDS = 0.1
# After a signal the workers stop together, unless one does not hear it, or waits for one that is gone.
_SECONDS_TO_STOP = 60
# A line of its own for each time that a bar is drawn: not too often.
_CALM_PROGRESS = {"TQDM_MININTERVAL": "10"}
# A user's mistake is one on every try.
_HOPELESS = 2

FLAGS = command_line.Flags()
_NUM_WORKERS = FLAGS.integer("num_workers", 2, "How many processes.", lower_bound=1)
_MAX_RESTARTS = FLAGS.integer("max_restarts", 3, "How often all are started again.", lower_bound=0)


def main() -> None:
    """Launches, and ends with the workers' status."""
    if "--" not in sys.argv or sys.argv[-1] == "--":
        raise UserError("give the command after --, such as -- python -m tf_blurdiff.train --config digits.yaml")
    command = sys.argv[sys.argv.index("--") + 1 :]
    sys.exit(run_workers(command, _NUM_WORKERS.value, _MAX_RESTARTS.value))


def run_workers(command: Sequence[str], num_workers: int, max_restarts: int = 3, output: TextIO | None = None) -> int:
    """Runs a command as so many workers of a TF_CONFIG until all have ended well.

    When one ends otherwise, the rest are stopped, and all are started again: a command that goes on from its last
    checkpoint then loses no more than the steps since.

    Args:
        command: list of words.
        num_workers: how many processes.
        max_restarts: how often all are started again.
        output: a text stream for the workers' lines, each with its worker's number in front; None is stdout.

    Returns:
        0 when every worker ended with status 0, else the status of one that did not (128 and the signal's number for
        one that was killed). After SIGTERM or Ctrl-C, which every worker is told, nothing is started again.

    Raises:
        UserError: if the command cannot be started.
    """
    output = output or sys.stdout
    with Interruption() as interruption:
        for _ in range(max_restarts):
            status = _run_once(command, num_workers, output, interruption)
            if status in (0, _HOPELESS) or interruption.signal:
                return status
            with contextlib.suppress(OSError):  # Who reads it may have gone.
                print(f"launch: a worker ended with status {status}; starting all again", file=output, flush=True)
        return _run_once(command, num_workers, output, interruption)


def free_ports(count: int) -> list[int]:
    """Numbers of TCP ports that nothing on this machine listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def tf_configs(addresses: Sequence[str]) -> list[str]:
    """The TF_CONFIG of each worker, as text.

    Example:
        >>> tf_configs(["one:2222", "two:2222"])[1]
        '{"cluster": {"worker": ["one:2222", "two:2222"]}, "task": {"type": "worker", "index": 1}}'
    """
    cluster = {"worker": addresses}
    return [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(len(addresses))
    ]


def _run_once(command, num_workers, output, interruption):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(num_workers)]
    processes, threads = [], []
    try:
        for number, text in enumerate(tf_configs(addresses)):
            processes.append(_start(command, {**_CALM_PROGRESS, **os.environ, "TF_CONFIG": text}))
            threads.append(threading.Thread(target=_mark_lines, args=(processes[-1], number, output), daemon=True))
            threads[-1].start()
        return _wait(processes, interruption)
    finally:
        _stop(processes)
        for thread in threads:
            thread.join(1.0)  # What a worker leaves behind may keep its output open.


def _start(command, environment):
    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,  # So that a progress bar's carriage return ends a line.
            errors="replace",
            # Ctrl-C reaches the launcher alone, which passes it on.
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"the command {command[0]!r} cannot be started: {error.strerror}") from error


def _wait(processes, interruption):
    """A status that is not 0, once there is one, or 0 once all have ended; after a signal, once all have ended."""
    deadline = None
    while True:
        statuses = [process.poll() for process in processes]
        failed = [status if status > 0 else 128 - status for status in statuses if status]
        if None not in statuses or (failed and deadline is None):
            return failed[0] if failed else 0
        if interruption.signal and deadline is None:
            for process in processes:
                _send(process, interruption.signal)
            deadline = time.monotonic() + _SECONDS_TO_STOP
        if deadline is not None and time.monotonic() > deadline:
            return Unfinished.TRY_AGAIN
        time.sleep(_POLL_SECONDS)


def _stop(processes):
    # A worker that waits for a lost one does not hear SIGTERM before it has finished its steps, which it never will.
    for process in processes:
        _send(process, signal.SIGKILL)
        process.wait()


def _send(process, number):
    # To all that the worker started, too: the command may be a wrapper, which may be gone already.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _mark_lines(process, number, output):
    for line in filter(str.strip, process.stdout):
        # Who reads the lines may have gone; the worker must not wait for that.
        with contextlib.suppress(OSError):
            output.write(f"[{number}] {line}")
            output.flush()


if __name__ == "__main__":
    command_line.run(main, FLAGS.values, takes_command=True)
