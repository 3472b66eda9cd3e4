"""Running the command lines as a user does, in processes of their own."""

import json
import os
import pathlib
import subprocess
import sys

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


def run_forked(command_lines, cwd, timeout=300):
    """Runs many, each in a fork of one process: as `run`, but TensorFlow is imported once."""
    program = [sys.executable, ROOT / "tests" / "support" / "forks.py"]
    text = json.dumps([list(map(str, words)) for words in command_lines])
    done = subprocess.run(program, input=text, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return [subprocess.CompletedProcess(words, *rest) for words, rest in zip(command_lines, json.loads(done.stdout))]


def run_python(code, cwd, **kwargs):
    """Runs a Python program in a new process and returns what it printed."""
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout


def environment(**variables):
    return {**os.environ, **variables}
