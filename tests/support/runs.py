"""Training runs for tests: what they leave, and cutting them at chosen moments."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

import tf_blurdiff as bd
from tests.support import commands
from tests.support.models import small_network
from tf_blurdiff.config.loading import load_config
from tf_blurdiff.devices import Devices
from tf_blurdiff.training.loop import train_on

TINY = load_config("digits", commands.TINY)
START = ["--config", "digits.yaml", *commands.overrides(commands.TINY)]


def with_small_network(monkeypatch):
    """Makes every config's network a plain small one of Keras, which is traced in a quarter of a U-Net's time."""

    def build_network(config):
        size = np.broadcast_to(config.data.image_size, 2).tolist()
        return small_network(config.network.num_classes, (*size, config.data.channels))

    monkeypatch.setattr("tf_blurdiff.config.loading.build_network", build_network)


def tiny(**settings):
    """The tiny config with other settings of train."""
    return TINY.model_copy(update={"train": TINY.train.model_copy(update=settings)})


def train_here(run_dir, config=TINY):
    """Trains in this process, on one device."""
    run_dir.mkdir(exist_ok=True)
    return train_on(Devices(tf.distribute.get_strategy()), config, run_dir, verbose=False)


def weights(run_dir):
    model = bd.load_model(run_dir / "model.keras")
    # Without the states of Keras's seed generators, which nothing here depends on.
    return {variable.path: variable.numpy() for variable in model.weights}


def assert_same_weights(run_dir, other, atol=0.0):
    """Of the model files of two runs; the averages are among them."""
    ours, theirs = weights(run_dir), weights(other)
    assert len(ours) == len(theirs)
    for (name, one), two in zip(ours.items(), theirs.values()):
        np.testing.assert_allclose(one, two, rtol=0.0, atol=atol, err_msg=name)


def rows_of(run_dir, name):
    """The lines of metrics.jsonl that have a value of that name."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if name in row]


def steps_of(run_dir, name):
    return [row["step"] for row in rows_of(run_dir, name)]


def small_training(*arguments):
    """The command of a training with the network of `with_small_network`."""
    return [sys.executable, "-m", "tests.support.small_training", *map(str, arguments)]


def environment():
    """In which that command is found, and computes as tests do."""
    return commands.environment(PYTHONPATH=str(commands.ROOT), TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="1")


def start_training(folder, *arguments):
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(small_training(*START, *arguments), cwd=folder, env=environment(), text=True, **pipes)


def kill_training(folder, rng):
    """Starts training and kills it, every second time as soon as it writes a checkpoint, else at a random moment.

    Returns whether it was killed before its end, and whether a checkpoint was half written then.
    """
    checkpoints = folder / "runs" / "digits" / "checkpoints"
    before, in_checkpoint = files_in(checkpoints), rng.random() < 0.5
    process = start_training(folder)
    deadline = time.monotonic() + (120 if in_checkpoint else rng.uniform(0, 6))
    skipped = rng.randrange(3)
    while process.poll() is None and time.monotonic() < deadline:
        if in_checkpoint and half_written(checkpoints, before):
            if not skipped:
                break
            skipped, before = skipped - 1, files_in(checkpoints)
        time.sleep(0.0002)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL, half_written(checkpoints, before)


def files_in(folder):
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("ckpt-*")}


def half_written(checkpoints, before):
    try:
        new = {name for name, _ in files_in(checkpoints) - before}
    except FileNotFoundError:  # Moved while it was looked at.
        return True
    return any(f"{name.split('.')[0].removesuffix('_temp')}.index" not in new for name in new)
