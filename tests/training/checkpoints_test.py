"""Checkpoints of a run, and which models are kept beside them."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models import images, make
from tests.support.runs import steps_of, train_here
from tf_blurdiff.training.checkpoints import Checkpoints
from tf_blurdiff.training.snapshots import Snapshots


def test_checkpoints_of_a_best_that_is_old_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", [tf.Variable(1.0)], keep=2)
    for step in range(10, 70, 10):
        checkpoints.save(step, keep_too=20 if step > 20 else None)
    assert checkpoints.steps() == [20, 50, 60]
    (tmp_path / "checkpoints" / "ckpt-70.data-00000-of-00001").write_bytes(b"part")
    (tmp_path / "checkpoints" / "ckpt-70_temp").mkdir()
    for mine in ("ckpt-best", "ckpt-60-good.index"):
        (tmp_path / "checkpoints" / mine).mkdir()
    checkpoints.remove_parts()
    assert {path.name.split(".")[0] for path in (tmp_path / "checkpoints").iterdir()} == {
        *("ckpt-20", "ckpt-50", "ckpt-60", "ckpt-best", "ckpt-60-good"),
    }


def test_a_checkpoint_is_on_the_disk_before_an_older_one_goes(tmp_path, monkeypatch):
    seen = []
    own = lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((own(descriptor), checkpoints.steps())))
    checkpoints = Checkpoints(tmp_path, [tf.Variable(1.0)], keep=1)
    checkpoints.save(1)
    seen.clear()
    checkpoints.save(2)
    assert {name for name, _ in seen} == {"", "/ckpt-2.index", "/ckpt-2.data-00000-of-00001"}
    assert all(steps == [1, 2] for _, steps in seen) and checkpoints.steps() == [2]


def test_a_damaged_checkpoint_does_not_push_out_the_one_after(tmp_path):
    variable, lines = tf.Variable(1.0), []
    checkpoints = Checkpoints(tmp_path, [variable], keep=1)
    checkpoints.save(10), checkpoints.save(20, keep_too=10)
    (tmp_path / "ckpt-20.data-00000-of-00001").write_bytes(b"")
    assert checkpoints.restore_newest(lines.append) == 10 and "ckpt-20 cannot be read" in lines[0]
    variable.assign(2.0)
    checkpoints.save(15)
    variable.assign(3.0)
    assert checkpoints.restore_newest(lines.append) == 15 and float(variable) == 2.0
    checkpoints.save(20)
    assert checkpoints.steps() == [20]


def test_the_best_model_is_kept(tmp_path, monkeypatch, small_network):
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    saved = []
    monkeypatch.setattr(Snapshots, "_ema_loss", lambda self: next(losses))
    save_model = Snapshots._save_model
    monkeypatch.setattr(Snapshots, "_save_model", lambda self, names: (saved.append(names), save_model(self, names)))
    train_here(tmp_path)
    assert [names[-1] for names in saved] == ["best.keras", "best.keras", *["model.keras"] * 4]
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.index")) == [
        f"ckpt-{step}" for step in (20, 40, 50, 60)
    ]


def test_the_model_is_written_before_its_checkpoint(tmp_path, monkeypatch, small_network):
    """A run that is cut between the two has a model that is at least as new."""

    def killed(self, step, keep_too=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_here(tmp_path)
    assert (tmp_path / "model.keras").is_file() and steps_of(tmp_path, "averaged_loss") == [10]


@pytest.mark.parametrize(
    "process, ema_decay",
    [
        ("heat_dissipation", 0.9),
        ("blurring", None),
        pytest.param("heat_dissipation", None, marks=pytest.mark.slow),
        pytest.param("blurring", 0.9, marks=pytest.mark.slow),
    ],
)
def test_checkpoints_of_earlier_versions_are_restored(process, ema_decay, tmp_path):
    """They know a variable by its place: the model's own, its averages, the network's, the prior's, the optimizer's."""

    def compiled():
        model = make(process=process, ema_decay=ema_decay)
        model.compile(keras.optimizers.Adam(1e-3))
        model.optimizer.build(model.network.trainable_variables)
        return model

    model = compiled()
    model.adapt(images())
    model.fit(images(16), batch_size=8, verbose=0)
    averages = [] if ema_decay is None else model.averages
    prior = [] if process == "blurring" else model.prior.variables
    own = [model.freq_mean, model.freq_std, *averages, *model.network.variables, *prior]
    variables = [*own, *model.optimizer.variables, *model.step_guard.variables]
    Checkpoints(tmp_path / "checkpoints", [each.value for each in variables], keep=1).save(2)
    restored = compiled()
    assert Snapshots(tmp_path, restored, None, keep=1).restore_newest(pytest.fail) == 2
    for ours, theirs in zip(restored.variables, model.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    assert ema_decay is None or int(restored.weight_averages.age.value) == 2
