"""Training into a run directory, by its command line: what it leaves, and that it can be cut at any moment."""

import io
import json
import random
import subprocess
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests import commands
from tf_blurdiff.config import load_config
from tf_blurdiff.training import _write_atomically, learning_rate

START = ["--config", "digits.yaml", *commands.overrides(commands.TINY)]


def weights(run_dir):
    import tf_blurdiff as bd

    model = bd.load_model(run_dir / "model.keras")
    # Without the states of Keras's seed generators, which nothing here depends on.
    return {variable.path: variable.numpy() for variable in model.weights}


def assert_same_weights(run_dir, other):
    ours, theirs = weights(run_dir), weights(other)
    assert len(ours) == len(theirs)
    for (name, one), two in zip(ours.items(), theirs.values()):
        np.testing.assert_array_equal(one, two, err_msg=name)


def test_a_run_directory_holds_what_is_promised(trained_run):
    rows = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(5, 61, 5))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert sorted(path.name for path in (trained_run / "samples").iterdir()) == [
        "step_00000030.png",
        "step_00000060.png",
    ]
    assert Image.open(trained_run / "samples" / "step_00000060.png").size == (2 + 2 * 50, 2 + 2 * 50)
    assert len(list((trained_run / "checkpoints").glob("*.index"))) == 3
    tags = {
        value.tag
        for path in (trained_run / "tensorboard").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert tags == {"loss", "steps_per_second", "images_per_second", "samples"}


def test_the_resolved_config_repeats_the_run(trained_run, tmp_path):
    result = commands.run("train", "--config", trained_run / "config.yaml", "--run_dir", "again", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same_weights(tmp_path / "again", trained_run)


def test_learning_rate_rises_and_falls():
    settings = load_config("digits", ["train.learning_rate=0.1", "train.warmup_steps=4", "train.decay_steps=24"]).train
    schedule = learning_rate(settings)
    assert [round(float(schedule(step)), 4) for step in (0, 2, 4, 14, 24, 30)] == [0.02, 0.06, 0.1, 0.05, 0.0, 0.0]
    constant = learning_rate(settings.model_copy(update={"decay_steps": None}))
    assert [round(float(constant(step)), 4) for step in (0, 2, 4, 24, 10**6)] == [0.02, 0.06, 0.1, 0.1, 0.1]
    flat = learning_rate(settings.model_copy(update={"decay_steps": None, "warmup_steps": 0}))
    assert [round(float(flat(step)), 4) for step in (0, 1, 10**6)] == [0.1, 0.1, 0.1]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(place):
        place.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        _write_atomically(path, write)
    assert path.read_text() == "old"


def test_the_model_file_holds_no_optimizer(trained_run):
    with zipfile.ZipFile(trained_run / "model.keras") as archive, archive.open("model.weights.h5") as file:
        assert "optimizer" not in h5py.File(io.BytesIO(file.read()))


def test_metrics_of_a_run_cut_before_its_first_checkpoint_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 1')
    settings = [*START, "--set", "train.steps=10", "--run_dir", tmp_path]
    result = commands.run("train", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [5, 10]


def killed_training(folder, run_dir, rng):
    """Starts training and kills it some time after its next checkpoint; returns whether it was still running."""
    latest = run_dir / "checkpoints" / "checkpoint"
    before = latest.stat().st_mtime_ns if latest.exists() else 0
    process = subprocess.Popen(
        commands.command("train", *START), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if latest.exists() and latest.stat().st_mtime_ns > before:
            time.sleep(rng.uniform(0.0, 1.0))
            break
        time.sleep(0.01)
    process.kill()
    return process.wait() == -9


def check_kills(folder, trained_run, kills, seed):
    rng, run_dir = random.Random(seed), folder / "runs" / "digits"
    killed = [killed_training(folder, run_dir, rng) for _ in range(kills)]
    result = commands.run("train", *START, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert killed[0] and "resuming" in result.stdout
    assert_same_weights(run_dir, trained_run)
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 61, 5))


def test_killed_training_ends_with_the_same_weights(tmp_path, trained_run):
    check_kills(tmp_path, trained_run, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_training_killed_twice_ends_with_the_same_weights(tmp_path, trained_run, seed):
    check_kills(tmp_path, trained_run, kills=2, seed=seed + 1)


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(trained_run, tmp_path):
    run_dir = tmp_path / "run"
    result = commands.run("train", *START, "--set", "train.steps=20", "--run_dir", run_dir, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # The newest checkpoint is damaged on the way: the one before is as good.
    data = run_dir / "checkpoints" / "ckpt-20.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    (run_dir / "checkpoints" / "checkpoint").unlink()  # TensorFlow's own list, too.
    result = commands.run("train", *START, "--run_dir", run_dir, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "ckpt-20 cannot be read" in result.stderr and "at step 10" in result.stdout
    assert_same_weights(run_dir, trained_run)


def test_the_model_file_loads_in_a_new_process_from_another_folder(trained_run, trained_model, tmp_path):
    code = f"""
import keras, numpy as np
import tf_blurdiff
model = keras.models.load_model({str(trained_run / "model.keras")!r})
np.save("images.npy", model.sample([3, 1, 2]))
"""
    commands.run_python(code, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), trained_model.sample([3, 1, 2]), atol=1e-4)
    assert np.isfinite(trained_model.freq_std.numpy()).all(), "the data's statistics travel with the model"
    assert trained_model.num_steps == 5
    assert keras.saving.get_registered_name(type(trained_model)) == "tf_blurdiff>DiffusionModel"
