"""What can go wrong in training: signals, full disks, other processes, numbers that are not finite."""

import json
import os
import signal
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import commands
from tests.support.runs import START, assert_same_weights, rows_of, start_training, steps_of
from tf_blurdiff.config.schema import load_config
from tf_blurdiff.devices import Devices
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.files import write_atomically
from tf_blurdiff.model.learning import StepGuard, StepRecord
from tf_blurdiff.training import loop as training
from tf_blurdiff.training.run_directory import MetricsLog, check_config, locked

ONE_DEVICE = Devices(tf.distribute.get_strategy())
TINY = load_config("digits", commands.TINY)


def train_here(run_dir, config=TINY):
    run_dir.mkdir(exist_ok=True)
    return training.train_on(ONE_DEVICE, config, run_dir, verbose=False)


def test_a_signal_to_stop_loses_nothing(tmp_path, trained_run, monkeypatch):
    log = training.Run._log

    def signal_at_25(self, step, pace):
        log(self, step, pace)
        if step == 25:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training.Run, "_log", signal_at_25)
    with pytest.raises(Unfinished, match=r"stopped by SIGTERM at step (26|27|28|29|30) of 60") as stopped:
        train_here(tmp_path)
    assert stopped.value.status == 75
    assert steps_of(tmp_path, "averaged_loss")[-1] in range(26, 31)
    train_here(tmp_path)
    assert_same_weights(tmp_path, trained_run)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_command_line_tells_by_its_status(tmp_path, number, status):
    process = start_training(tmp_path, "--set", "train.steps=1000000")
    log = tmp_path / "runs" / "digits" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        pass
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    last = errors.splitlines()[-1]
    assert last.startswith(f"train: stopped by {number.name} at step") and last.endswith("goes on from there")
    assert "Traceback" not in errors
    checkpoint = max(json.loads(line)["step"] for line in log.read_text().splitlines() if "averaged" in line)
    assert f"at step {checkpoint} of 1000000" in last
    assert (log.parent / "checkpoints" / f"ckpt-{checkpoint}.index").exists()


def test_a_second_process_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
        locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass


def test_a_changed_config_is_refused_unless_it_is_asked_for(trained_run, tmp_path):
    changed = load_config(trained_run / "config.yaml", ["train.learning_rate=1e-3", "train.log_every=7"])
    with pytest.raises(UserError, match=r"train.learning_rate \(0.002 there, 0.001 here\); .*--override_config"):
        check_config(changed, trained_run)
    check_config(load_config(trained_run / "config.yaml", ["train.steps=90", "train.keep_checkpoints=1"]), trained_run)
    (tmp_path / "config.yaml").write_bytes((trained_run / "config.yaml").read_bytes())
    check_config(changed, tmp_path)  # Without a checkpoint there is nothing to spoil.
    train_here(tmp_path, load_config(trained_run / "config.yaml", ["train.steps=10"]))
    result = commands.run(
        "train", "--config", tmp_path / "config.yaml", "--run_dir", tmp_path, "--override_config",
        "--set", "train.steps=20", "--set", "train.learning_rate=1e-3", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0 and "at step 10" in result.stdout, result.stderr
    assert load_config(tmp_path / "config.yaml").train.learning_rate == 1e-3
    np.testing.assert_allclose(rows_of(tmp_path, "loss")[-1]["learning_rate"], 1e-3 * 21 / 101, rtol=1e-5)


def test_a_checkpoint_of_another_network_is_one_message(trained_run, tmp_path):
    train_here(tmp_path, load_config(trained_run / "config.yaml", ["train.steps=10"]))
    other = load_config(trained_run / "config.yaml", ["network.channels=16", "train.steps=20"])
    with pytest.raises(UserError, match="expected one that is whole and of this network"):
        train_here(tmp_path, other)


def mount(folder, *options):
    return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.3 MB: room for a tiny model and its checkpoint, and not for several."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "-t", "tmpfs", "-o", "size=1300k", "tmpfs"):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_and_a_read_only_disk_lose_nothing(small_disk, trained_run, tmp_path):
    run_dir = small_disk / "run"

    def run():
        return commands.run("train", *START, "--run_dir", run_dir, cwd=tmp_path)

    def assert_refused(result, reason):
        assert result.returncode == 2, result.stderr
        assert f"run directory {run_dir} cannot be written (" in result.stderr and reason in result.stderr
        assert "Traceback" not in result.stderr

    assert_refused(run(), "No space left on device")
    steps = [path.stem for path in (run_dir / "checkpoints").glob("*.index")]
    assert steps and not list(run_dir.glob("**/.*writing*"))
    assert mount(small_disk, "-o", "remount,ro")
    assert_refused(run(), "Read-only file system")
    assert mount(small_disk, "-o", "remount,rw,size=50m")
    result = run()
    assert result.returncode == 0 and "resuming" in result.stdout and "cannot be read" not in result.stderr
    assert_same_weights(run_dir, trained_run)


def with_bad_batches(monkeypatch, bad_steps):
    """Makes the batches of these steps not a number."""
    batches = training.training_batches

    def spoiled(images, batch_size, seed, start_step=0, **options):
        good = batches(images, batch_size, seed, start_step=start_step, **options)
        is_bad = lambda step: tf.reduce_any(tf.constant(bad_steps, tf.int64) == step)
        return good.enumerate(start_step).map(lambda step, x: tf.where(is_bad(step), np.nan, x))

    monkeypatch.setattr(training, "training_batches", spoiled)


def test_a_batch_that_is_not_a_number_is_skipped_and_counted(tmp_path, monkeypatch):
    with_bad_batches(monkeypatch, [12])
    model = train_here(tmp_path)
    assert int(model.step_guard.skipped_steps.value) == 1 and int(model.step_guard.skipped_in_row.value) == 0
    assert int(model.optimizer.iterations.value) == 60
    rows = rows_of(tmp_path, "loss")
    assert [row["skipped_steps"] for row in rows] == [0, 0, *[1] * 10]
    assert np.isfinite(
        [value for row in rows for value in (row["loss"], row["gradient_norm"], *row["loss_by_time"])]
    ).all()
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(np.isfinite(weight.numpy()).all() for weight in model.weights)


def test_a_skipped_step_changes_nothing_but_the_count(tmp_path, monkeypatch):
    short = TINY.model_copy(update={"train": TINY.train.model_copy(update={"steps": 10})})
    before = train_here(tmp_path / "short", short)
    with_bad_batches(monkeypatch, list(range(10, 15)))
    longer = TINY.model_copy(update={"train": TINY.train.model_copy(update={"steps": 15})})
    after = train_here(tmp_path / "short", longer)
    assert int(after.step_guard.skipped_in_row.value) == 5
    ours, theirs = ([*model.weights, *model.optimizer.variables] for model in (after, before))
    for one, other in zip(ours, theirs, strict=True):
        if "iteration" in one.path:
            assert int(one.value) == int(other.value) + 5
        elif "seed_generator" not in one.path:
            np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_batches_that_are_all_not_a_number_stop_training(tmp_path, monkeypatch):
    with_bad_batches(monkeypatch, list(range(15, 60)))
    with pytest.raises(UserError, match=r"not finite in the last \d+ steps, up to step .*training has diverged"):
        train_here(tmp_path)
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.index"))[0] == "ckpt-10"
    losses = [row["loss"] for row in rows_of(tmp_path, "loss")]
    assert np.isfinite(losses[:3]).all() and set(losses[3:]) <= {None}


def test_the_loss_scale_falls_at_once_and_rises_in_time(monkeypatch):
    monkeypatch.setattr("tf_blurdiff.model.learning._QUIET_STEPS", 3)
    guard = StepGuard(scales_loss=True)
    scales = []
    for step in ("skipped", "skipped", "passed", "passed", "skipped", "passed", "passed", "passed", "passed"):
        getattr(guard, step)()
        scales.append(float(guard.loss_scale.value) / 2**15)
    assert scales == [1 / 2, 1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 4, 1 / 4]
    assert int(guard.skipped_steps.value) == 3
    plain = StepGuard(scales_loss=False)
    plain.skipped(), plain.passed()
    assert float(plain.loss_scale.value) == 1.0 and int(plain.skipped_in_row.value) == 0


def test_loss_scaling_saves_what_float16_would_lose():
    """A gradient of 1e-8 is 0 in float16."""
    from tests.support.models import images, make

    def gradients(scale):
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = make(clip_norm=None)
        finally:
            keras.config.set_dtype_policy("float32")
        assert model.step_guard.scales_loss
        model.step_guard.loss_scale.assign(scale)
        for weight in model.network.trainable_variables[-2:]:
            weight.assign(1e-7 * np.ones(weight.shape))
        before = [weight.numpy() for weight in model.network.trainable_variables]
        model.compile(keras.optimizers.SGD(1e4))
        model.train_on_batch(images(8))
        return np.abs(model.network.trainable_variables[0].numpy() - before[0]).max()

    assert gradients(2.0**15) > 100 * gradients(1.0)


def test_checkpoints_of_a_best_that_is_old_stay(tmp_path):
    from tf_blurdiff.training.checkpoints import Checkpoints

    checkpoints = Checkpoints(tmp_path / "checkpoints", [tf.Variable(1.0)], keep=2)
    for step in range(10, 70, 10):
        checkpoints.save(step, keep_too=20 if step > 20 else None)
    assert checkpoints.steps() == [20, 50, 60]
    (tmp_path / "checkpoints" / "ckpt-70.data-00000-of-00001").write_bytes(b"part")
    (tmp_path / "checkpoints" / "ckpt-70_temp").mkdir()
    checkpoints.remove_parts()
    assert {path.name.split(".")[0] for path in (tmp_path / "checkpoints").iterdir()} == {
        "ckpt-20",
        "ckpt-50",
        "ckpt-60",
    }


def test_a_damaged_checkpoint_does_not_push_out_the_one_after(tmp_path):
    from tf_blurdiff.training.checkpoints import Checkpoints

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


def test_the_best_model_is_kept(tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    saved = []
    monkeypatch.setattr(training.Run, "_averaged_loss", lambda self: next(losses))
    save_model = training.Run._save_model
    monkeypatch.setattr(training.Run, "_save_model", lambda self, names: (saved.append(names), save_model(self, names)))
    train_here(tmp_path)
    assert [names[-1] for names in saved] == ["best.keras", "best.keras", *["model.keras"] * 4]
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.index")) == [
        f"ckpt-{step}" for step in (20, 40, 50, 60)
    ]


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


def test_a_loss_of_nothing_is_none():
    record = StepRecord()
    record.update(tf.constant([np.nan, np.nan]), tf.constant([0.1, 0.9]), tf.constant(np.nan))
    assert record.read() == {"loss": None, "gradient_norm": None, "loss_by_time": [None] * 4}
    record.update(tf.constant([1.0, 3.0]), tf.constant([0.1, 0.9]), tf.constant(2.0))
    assert record.read() == {"loss": 2.0, "gradient_norm": 2.0, "loss_by_time": [1.0, None, None, 3.0]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(place):
        place.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"] and path.read_text() == "old"


def test_a_run_of_more_steps_is_left_alone(trained_run, tmp_path):
    train_here(tmp_path, load_config(trained_run / "config.yaml", ["train.steps=10"]))
    before = (tmp_path / "config.yaml").read_text()
    (tmp_path / "model.keras").unlink()
    train_here(tmp_path, load_config(trained_run / "config.yaml", ["train.steps=5"]))
    assert (tmp_path / "config.yaml").read_text() == before
    assert (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("precision, warned", [("mixed_bfloat16", True), ("float32", False)])
def test_a_precision_that_is_emulated_is_warned_of(precision, warned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "processor_lacks", lambda name: name == "mixed_bfloat16")
    monkeypatch.setattr(training.tf.config, "list_physical_devices", lambda kind=None: [])
    settings = [*commands.TINY, "train.steps=1", f"train.precision={precision}"]
    training.train(load_config("digits", settings), tmp_path, verbose=False)
    told = capsys.readouterr().err
    assert (f"train.precision: this processor has no instructions for {precision}" in told) is warned
