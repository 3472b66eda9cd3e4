"""How far apart the weights of trainings end: two that nothing interrupted, and one that was killed and resumed.

digits.yaml with few steps, in processes of their own, with `tf.config.experimental.enable_op_determinism` and without;
SIGKILL comes at a random step. Compared are all weights and averages of model.keras. All run side by side, so the
images a second say something of each other only.
"""

import functools
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import zipfile

import h5py
import numpy as np
import programs
from part import Part

_TRAIN = """
import sys, tensorflow as tf
from tf_blurdiff.config import load_config
from tf_blurdiff.training import train
if sys.argv[1] == "deterministic":
    tf.config.experimental.enable_op_determinism()
train(load_config("digits.yaml", sys.argv[3:]), sys.argv[2], verbose=False)
"""
_SETTINGS = ("train.steps=1000", "train.checkpoint_every=100", "train.log_every=20", "train.sample_every=1000")
_SMALL = (
    *programs.TINY, "train.steps=40", "train.checkpoint_every=8", "train.log_every=2", "train.sample_every=40",
    "train.warmup_steps=0", "train.decay_steps=null",
)  # fmt: skip
# The first of each way's runs is what the others are compared with.
_OTHERS = {"killed": "one was killed and resumed", "second": "two that nothing interrupted"}


def main(part):
    """Fills the table."""
    ways, others = ("usual", "deterministic"), dict(_OTHERS)
    if part.small:
        ways, others = ("deterministic",), {"killed": _OTHERS["killed"]}
    table = part.table(
        "Weights at the end", "operations", "runs", "largest difference", "relative difference", "equal, bit for bit",
        "killed at step", "images/s",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run_dirs = {f"{run}, {way}": pathlib.Path(folder, f"{run}-{way}") for way in ways for run in ("first", *others)}
        calls = {name: functools.partial(_run, part, name, run_dir) for name, run_dir in run_dirs.items()}
        finished = programs.side_by_side(part, calls)
        for way in ways:
            for other, what in others.items():
                pair = [f"first, {way}", f"{other}, {way}"]
                if set(pair) <= set(finished):
                    apart = differences(*(run_dirs[name] / "model.keras" for name in pair))
                    table.put((way, other), way, what, *apart, finished[pair[1]], _speed(run_dirs[pair[0]]))


def _run(part, name, run_dir):
    """Trains to the end; returns the step after which it was killed on the way, or nothing."""
    run, way = name.split(", ")
    words = ["-c", _TRAIN, way, str(run_dir), *(_SMALL if part.small else _SETTINGS)]
    killed_at = _train_and_kill(words, run_dir, part) if run == "killed" else ""
    programs.run(words, part.left() - 2)
    return killed_at


def _train_and_kill(words, run_dir, part):
    """The last step that was logged when the process was killed."""
    steps, log_every = (int(words[i].split("=")[1]) for i in _places(words, "train.steps", "train.log_every"))
    wanted = random.randrange(2 * log_every, int(0.9 * steps))
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
        while process.poll() is None and _last_step(run_dir) < wanted:
            if part.left() < 5:
                process.kill()
                raise programs.Failure(f"step {wanted} was not reached in time")
            time.sleep(0.002)
        process.kill()
        log.seek(0)
        if process.wait() >= 0:
            last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise programs.Failure(f"it ended with status {process.returncode} before it was killed: {last}")
    return _last_step(run_dir)


def _places(words, *keys):
    return [next(i for i, word in enumerate(words) if word.startswith(f"{key}=")) for key in keys]


def _last_step(run_dir):
    try:
        lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def _speed(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["images_per_second"] for row in rows if "images_per_second" in row][-1]


def differences(path, other):
    """(largest, relative by the norm, whether equal) of all that two .keras files hold."""
    ours, theirs = weights(path), weights(other)
    if ours.keys() != theirs.keys():
        raise ValueError("the files hold other weights")
    apart = np.concatenate([(ours[name] - theirs[name]).ravel() for name in ours])
    norm = np.linalg.norm(np.concatenate([value.ravel() for value in ours.values()]))
    return f"{np.abs(apart).max():.1e}", f"{np.linalg.norm(apart) / norm:.1e}", not apart.any()


def weights(path):
    """The arrays of a .keras file, float64, by their places; without Keras."""
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset) and np.issubdtype(item.dtype, np.floating):
            found[name] = np.asarray(item, np.float64)

    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file, h5py.File(file) as stored:
        stored.visititems(note)
    return found


if __name__ == "__main__":
    main(Part.from_command_line())
