"""A program that runs many command lines, each in a fork of one process that has imported the package.

So the seconds of TensorFlow's import are spent once. On stdin: a list of [name, argument, ...] in JSON; on stdout, in
the same order: [[status, stdout, stderr], ...].
"""

import json
import os
import pathlib
import runpy
import sys
import tempfile
import traceback

import tf_blurdiff  # noqa: F401 (what every command line imports first)


def main():
    command_lines = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder, str(number)) for number in range(len(command_lines))]
        statuses = _run_all(command_lines, outputs)
        print(json.dumps([[status, *_written(output)] for status, output in zip(statuses, outputs)]))


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
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), descriptor)
    status = _run(words)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def _run(words):
    sys.argv = words
    try:
        runpy.run_module(f"tf_blurdiff.{words[0]}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _written(output):
    return [output.with_suffix(suffix).read_text() for suffix in (".out", ".err")]


if __name__ == "__main__":
    main()
