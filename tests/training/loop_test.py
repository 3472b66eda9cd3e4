"""Training into a run directory, by its command line: what it leaves, and that it can be cut at any moment."""

import io
import random
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tf_blurdiff as bd
from tests.support import commands
from tests.support.runs import (
    TINY,
    assert_same_weights,
    kill_training,
    rows_of,
    start_training,
    steps_of,
    tiny,
    train_here,
)
from tf_blurdiff.config.loading import load_config
from tf_blurdiff.data.pictures import image_grid
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.training.loop import learning_rate, train


def test_a_run_directory_holds_what_is_promised(trained_run):
    rows = rows_of(trained_run, "loss")
    assert [row["step"] for row in rows] == list(range(5, 61, 5))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(row["gradient_norm"] > 0 and row["skipped_steps"] == 0 for row in rows)
    # To 2e-3 in a warm-up of 100 steps.
    rates = [2e-3 * (row["step"] + 1) / 101 for row in rows]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], rates, rtol=1e-5)
    np.testing.assert_allclose([np.mean(row["loss_by_time"]) for row in rows], [row["loss"] for row in rows], rtol=1e-4)
    averaged = rows_of(trained_run, "averaged_loss")
    assert [row["step"] for row in averaged] == list(range(10, 61, 10))
    assert averaged[-1]["averaged_loss"] < averaged[0]["averaged_loss"]
    assert sorted(path.name for path in (trained_run / "samples").iterdir()) == [
        "step_00000030.png",
        "step_00000060.png",
    ]
    sheet = np.asarray(Image.open(trained_run / "samples" / "step_00000060.png"))
    images = to_uint8(bd.load_model(trained_run).sample(range(4))).numpy().repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_allclose(sheet.astype(int), image_grid(images)[:, :, 0].astype(int), atol=1)
    assert len(list((trained_run / "checkpoints").glob("*.index"))) == 3
    tags = {
        value.tag
        for path in (trained_run / "tensorboard").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    scalars = {"loss", "averaged_loss", "gradient_norm", "learning_rate", "steps_per_second", "images_per_second"}
    parts = {f"loss_by_time/{part}" for part in ("0.00_0.25", "0.25_0.50", "0.50_0.75", "0.75_1.00")}
    assert tags == scalars | parts | {"skipped_steps", "samples", "config"}
    for row in rows_of(trained_run, "loss"):
        assert row["images_per_second"] == pytest.approx(16 * row["steps_per_second"], rel=1e-3)


@pytest.mark.slow
def test_the_resolved_config_repeats_the_run(trained_run, tmp_path):
    result = commands.run("train", "--config", trained_run / "config.yaml", "--run_dir", "again", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same_weights(tmp_path / "again", trained_run)


def test_a_run_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tf_blurdiff.training.loop.train_on", lambda devices, config, run_dir, verbose: run_dir)
    assert train(TINY, "~/run") == tmp_path / "run"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_learning_rate_rises_and_falls():
    settings = load_config("digits", ["train.learning_rate=0.1", "train.warmup_steps=4", "train.decay_steps=24"]).train
    schedule = learning_rate(settings)
    assert [round(float(schedule(step)), 4) for step in (0, 2, 4, 14, 24, 30)] == [0.02, 0.06, 0.1, 0.05, 0.0, 0.0]
    constant = learning_rate(settings.model_copy(update={"decay_steps": None}))
    assert [round(float(constant(step)), 4) for step in (0, 2, 4, 24, 10**6)] == [0.02, 0.06, 0.1, 0.1, 0.1]
    flat = learning_rate(settings.model_copy(update={"decay_steps": None, "warmup_steps": 0}))
    assert [round(float(flat(step)), 4) for step in (0, 1, 10**6)] == [0.1, 0.1, 0.1]


def test_the_model_file_holds_no_optimizer(trained_run):
    with zipfile.ZipFile(trained_run / "model.keras") as archive, archive.open("model.weights.h5") as file:
        assert "optimizer" not in h5py.File(io.BytesIO(file.read()))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run directory of a whole training in a process of its own, as those are that are killed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    _, errors = (process := start_training(folder)).communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder / "runs" / "digits"


def check_kills(folder, uninterrupted, kills, seed):
    """Kills training at random moments, then lets it finish."""
    rng, run_dir = random.Random(seed), folder / "runs" / "digits"
    killed, in_checkpoint = zip(*[kill_training(folder, rng) for _ in range(kills)])
    _, errors = (last := start_training(folder)).communicate(timeout=300)
    assert last.returncode == 0, errors
    assert any(killed), "every training had ended before it was to be killed"
    print("killed:", killed, "in a checkpoint:", in_checkpoint)
    assert_same_weights(run_dir, uninterrupted)
    assert steps_of(run_dir, "loss") == list(range(5, 61, 5))
    assert steps_of(run_dir, "averaged_loss") == list(range(10, 61, 10))


@pytest.mark.slow
def test_killed_training_ends_with_the_same_weights(tmp_path, uninterrupted):
    check_kills(tmp_path, uninterrupted, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_training_killed_five_times_ends_with_the_same_weights(tmp_path, uninterrupted, seed):
    check_kills(tmp_path, uninterrupted, kills=5, seed=seed + 1)


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(small_run, small_network, tmp_path, capsys):
    train_here(tmp_path, tiny(steps=20))
    # The newest checkpoint is damaged on the way: the one before is as good.
    data = tmp_path / "checkpoints" / "ckpt-20.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    train(TINY, tmp_path)
    told = capsys.readouterr()
    assert "ckpt-20 cannot be read" in told.err and "at step 10" in told.out
    assert_same_weights(tmp_path, small_run)


@pytest.mark.slow
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
