"""A program that runs command lines as Python does, each in a fork of this one process that has imported the package.

So the seconds of TensorFlow's import are spent once. On stdin: lines, each a JSON list of command lines to run side by
side, a command line being a list of words, of which the first is a script, -m or -c. On stdout: a line for each,
[[status, stdout, stderr], ...] in JSON.
"""

import json
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import traceback

import tf_blurdiff  # noqa: F401 (what every command line imports first)

SECONDS = int(sys.argv[1])  # After these a command line is killed.


def main():
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            command_lines = json.loads(line)
            outputs = [pathlib.Path(folder, str(number)) for number in range(len(command_lines))]
            statuses = _run_all(command_lines, outputs)
            answer = [[status, *_written(output)] for status, output in zip(statuses, outputs)]
        print(json.dumps(answer), flush=True)


def _run_all(command_lines, outputs):
    numbers, statuses, running = {}, [None] * len(outputs), 0
    for number, (words, output) in enumerate(zip(command_lines, outputs)):
        if running == os.cpu_count():
            _await_one(numbers, statuses)
            running -= 1
        numbers[_start(words, output)] = number
        running += 1
    for _ in range(running):
        _await_one(numbers, statuses)
    return statuses


def _await_one(numbers, statuses):
    pid, status = os.wait()
    statuses[numbers[pid]] = os.waitstatus_to_exitcode(status)


def _start(words, output):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), descriptor)
    status = _run(words)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def _run(words):
    try:
        _run_program(words)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _run_program(words):
    match words:
        case ["-m", module, *arguments]:
            sys.argv, sys.path[0] = [module, *arguments], ""
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", program, *arguments]:
            sys.argv, sys.path[0] = ["-c", *arguments], ""
            exec(program, {"__name__": "__main__"})
        case [script, *_]:
            sys.argv, sys.path[0] = words, os.path.dirname(script)
            runpy.run_path(script, run_name="__main__")


def _written(output):
    return [output.with_suffix(suffix).read_text() for suffix in (".out", ".err")]


if __name__ == "__main__":
    main()
