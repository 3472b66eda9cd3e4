"""Running the command lines: as a user does, in processes of their own, or in this one."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import unittest.mock

from tf_blurdiff import command_line

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A network that is traced and trained in seconds, and what a run of it is.
TINY = [
    "network.channels=8", "network.multipliers=[1]", "network.num_res_blocks=1", "network.attention_resolutions=[]",
    "train.steps=60", "train.batch_size=16", "train.checkpoint_every=10", "train.sample_every=30", "train.log_every=5",
    "sample.num_steps=5", "sample.num_images=4",
]  # fmt: skip


def overrides(settings):
    return [f"--set={setting}" for setting in settings]


def command(name, *arguments):
    return [sys.executable, "-m", f"tf_blurdiff.{name}", *map(str, arguments)]


def run(name, *arguments, cwd, timeout=300):
    """Runs a command line to its end; returns the finished process with its output as text."""
    return subprocess.run(command(name, *arguments), cwd=cwd, capture_output=True, text=True, timeout=timeout)


def call(name, *arguments, cwd):
    """As `run`, but in this process, without the seconds of TensorFlow's import."""
    module, words = importlib.import_module(f"tf_blurdiff.{name}"), [name, *map(str, arguments)]
    for flag in module.FLAGS.values:
        module.FLAGS.values[flag].unparse()
    output, errors, status = io.StringIO(), io.StringIO(), 0
    streams = contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors)
    with contextlib.chdir(cwd), unittest.mock.patch.object(sys, "argv", words), streams[0], streams[1]:
        try:
            command_line.run(module.main, module.FLAGS.values)
        except SystemExit as end:
            status = end.code or 0
    return subprocess.CompletedProcess(words, status, output.getvalue(), errors.getvalue())


def run_forked(command_lines, cwd, timeout=300):
    """Runs many, side by side, each in a fork of one process: as `run`, but TensorFlow is imported once.

    A command line is `[name of a command, *arguments]` or `[path of a script, *arguments]`.
    """
    with Forks(cwd, timeout=timeout) as forks:
        return forks.run_all([[*_program(name), *words] for name, *words in command_lines])


def _program(name):
    return [name] if str(name).endswith(".py") else ["-m", f"tf_blurdiff.{name}"]


class Forks:
    """Runs Python's command lines in forks of one process, which imports TensorFlow once; a context manager."""

    def __init__(self, cwd, env=None, timeout=300):
        program = [sys.executable, ROOT / "tests" / "support" / "forks.py", str(timeout)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(program, cwd=cwd, env=env, text=True, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        assert self._process.wait(60) == 0

    def run(self, *words):
        """Runs `python *words` to its end; returns the finished process with its output as text."""
        return self.run_all([words])[0]

    def run_all(self, command_lines):
        """Runs several side by side."""
        command_lines = [list(map(str, words)) for words in command_lines]
        print(json.dumps(command_lines), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the process that forks has ended at {command_lines}"
        answers = json.loads(answer)
        return [subprocess.CompletedProcess(words, *answer) for words, answer in zip(command_lines, answers)]


def run_python(code, cwd, **kwargs):
    """Runs a Python program in a new process and returns what it printed."""
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout


def environment(**variables):
    return {**os.environ, **variables}
