"""A run directory: one process at a time, one config, and metrics that can be read."""

import os
import re
import shutil

import numpy as np
import pytest

from tests.support import commands
from tests.support.runs import START, assert_same_weights, rows_of, steps_of, tiny, train_here
from tf_blurdiff.config.loading import load_config, save_config
from tf_blurdiff.config.schema import Model
from tf_blurdiff.errors import UserError
from tf_blurdiff.training.loop import train
from tf_blurdiff.training.run_directory import MetricsLog, check_config, locked, resolved

pytestmark = pytest.mark.usefixtures("small_network")


def test_a_second_process_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
        locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"run directory .*photo\.jpg is a file; expected a folder"):
        train(tiny(), tmp_path / "photo.jpg", verbose=False)


def test_images_that_are_held_out_are_named_where_a_batch_is_too_large(tmp_path):
    config = tiny(batch_size=64)
    held_out = config.model_copy(update={"data": config.data.model_copy(update={"held_out": 0.99})})
    with pytest.raises(
        UserError, match=r"train.batch_size: got 64, expected at most 18, .*data.held_out keeps 1779 aside"
    ):
        train(held_out, tmp_path, verbose=False)


def test_a_changed_config_is_refused_unless_it_is_asked_for(tmp_path):
    train(tiny(steps=10), tmp_path, verbose=False)
    changed = load_config(tmp_path / "config.yaml", ["train.learning_rate=1e-3", "train.log_every=7", "train.steps=20"])
    message = r"train.learning_rate \(0.002 there, 0.001 here\); expected the same config, or another run directory"
    with pytest.raises(UserError, match=message + "$"):
        check_config(changed, tmp_path)
    with pytest.raises(UserError, match=message + r" \(--override_config goes on with the new one\)$"):
        train(changed, tmp_path)
    check_config(load_config(tmp_path / "config.yaml", ["train.steps=90", "train.keep_checkpoints=1"]), tmp_path)
    train(changed, tmp_path, verbose=False, override_config=True)
    assert load_config(tmp_path / "config.yaml").train.learning_rate == 1e-3
    np.testing.assert_allclose(rows_of(tmp_path, "loss")[-1]["learning_rate"], 1e-3 * 21 / 101, rtol=1e-5)


@pytest.mark.parametrize(
    "override, may_change",
    [
        *((override, False) for override in (
            "train.batch_size=8", "train.ema_decay=0.5", "train.clip_norm=2.0", "train.warmup_steps=1",
            "train.decay_steps=500", "network.channels=4", "network.dropout=0.5", "data.held_out=0.5", "data.flip=true",
            "data.split=train[:90%]", "model.loss_exponent=1.0", "process.sigma_blur_max=3",
        )),
        *((override, True) for override in (
            "train.steps=90", "train.log_every=7", "train.sample_every=7", "train.checkpoint_every=7",
            "train.keep_checkpoints=1", "train.strategy=one_device", "train.compile=off", "sample.num_images=4",
            "sample.num_steps=9",
        )),
    ],
)  # fmt: skip
def test_what_a_run_learns_may_not_change(small_run, override, may_change):
    changed = load_config(small_run / "config.yaml", [override])
    if may_change:
        check_config(changed, small_run)
    else:
        with pytest.raises(UserError, match=rf"with another config: {re.escape(override.partition('=')[0])} \("):
            check_config(changed, small_run)


def test_a_run_keeps_the_precision_that_auto_chose(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_blurdiff.config.loading.fast_precision", lambda: "mixed_bfloat16")
    train(tiny(steps=5, precision="auto", checkpoint_every=5), tmp_path, verbose=False)
    assert load_config(tmp_path / "config.yaml").train.precision == "mixed_bfloat16"
    monkeypatch.setattr("tf_blurdiff.config.loading.fast_precision", lambda: "float32")  # On another machine.
    assert resolved(tiny(precision="auto"), tmp_path).train.precision == "mixed_bfloat16"
    assert resolved(tiny(precision="auto"), tmp_path / "new").train.precision == "float32"
    with pytest.raises(UserError, match=r"train.precision \(mixed_bfloat16 there, float32 here\)"):
        train(tiny(precision="float32"), tmp_path)


def test_a_run_keeps_the_prediction_that_its_process_chose(tmp_path):
    left_open = tiny(steps=5).model_copy(update={"model": Model()})
    train_here(tmp_path, left_open)
    model = load_config(tmp_path / "config.yaml").model
    assert (model.prediction, model.loss_exponent) == ("preconditioned", 0.5)
    check_config(left_open, tmp_path)


def test_a_run_that_left_its_prediction_open_predicts_eps(tmp_path):
    """As runs did that are older than the prediction "preconditioned"."""
    eps, left_open, other = (
        tiny(steps=5).model_copy(update={"model": Model(prediction=name)}) for name in ("eps", None, "preconditioned")
    )
    train_here(tmp_path, eps)
    save_config(left_open, tmp_path / "config.yaml")
    check_config(left_open, tmp_path)
    assert resolved(left_open, tmp_path).model == Model(prediction="eps")
    assert resolved(left_open, tmp_path / "new").model.prediction == "preconditioned"
    with pytest.raises(UserError, match=r"model.prediction \(eps there, preconditioned here\)"):
        check_config(other, tmp_path)
    further = tiny(steps=10).model_copy(update={"model": Model()})
    assert train_here(tmp_path, further).prediction == "eps"


@pytest.mark.slow
def test_the_command_line_can_ask_for_a_changed_config(trained_run, tmp_path):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    command = ["train", *START, "--run_dir", run_dir, "--set", "train.learning_rate=1e-3"]
    refused, done = commands.run_forked([command, [*command, "--override_config"]], cwd=tmp_path)
    assert refused.returncode == 2 and "was begun with another config: train.learning_rate" in refused.stderr
    assert done.returncode == 0 and "holds all 60 steps; nothing to train" in done.stdout, done.stderr


def test_a_config_without_a_checkpoint_may_change(tmp_path):
    save_config(tiny(), tmp_path / "config.yaml")
    check_config(tiny(learning_rate=1e-3), tmp_path)


def test_metrics_of_a_run_cut_before_its_first_checkpoint_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 1')
    train_here(tmp_path, tiny(steps=10))
    assert steps_of(tmp_path, "loss") == [5, 10]


def test_a_run_of_more_steps_is_left_alone(small_run, tmp_path):
    run_dir = shutil.copytree(small_run, tmp_path / "run")
    before = (run_dir / "config.yaml").read_text()
    (run_dir / "model.keras").unlink()
    train_here(run_dir, tiny(steps=30))
    assert (run_dir / "config.yaml").read_text() == before
    assert_same_weights(run_dir, small_run)


def test_metrics_are_read_up_to_a_broken_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.rows() == [] and log.best("loss") == (float("inf"), None)
    for step, loss in ((1, None), (5, 2.0), (10, 1.0), (15, 1.5)):
        log.append({"step": step, "loss": loss})
    with open(log.path, "a") as file:
        file.write('{"step": 20, "lo')
    assert log.best("loss") == (1.0, 10)
    log.drop_after(10)
    assert [row["step"] for row in log.rows()] == [1, 5, 10]
