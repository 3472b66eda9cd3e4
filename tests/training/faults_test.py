"""What can go wrong in training: signals, full disks, other networks, numbers that are not finite."""

import json
import shutil
import signal
import subprocess
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import commands
from tests.support.runs import TINY, assert_same_weights, rows_of, start_training, steps_of, tiny, train_here
from tf_blurdiff.config.loading import build_images, load_config
from tf_blurdiff.data.pixels import to_unit_range
from tf_blurdiff.devices import Devices
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.files import write_atomically
from tf_blurdiff.model.learning import StepGuard, StepRecord
from tf_blurdiff.training import loop as training
from tf_blurdiff.training.loop import train

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_to_stop_loses_nothing(tmp_path, small_run, monkeypatch, number, status):
    log, handler = training.Run._log, signal.getsignal(number)

    def signal_at_25(self, step, pace):
        log(self, step, pace)
        if step == 25:
            signal.raise_signal(number)

    monkeypatch.setattr(training.Run, "_log", signal_at_25)
    with pytest.raises(Unfinished, match=rf"stopped by {number.name} at step (26|27|28|29|30) of 60") as stopped:
        train_here(tmp_path)
    assert stopped.value.status == status
    assert steps_of(tmp_path, "averaged_loss")[-1] in range(26, 31)
    train_here(tmp_path)
    assert_same_weights(tmp_path, small_run)
    assert signal.getsignal(number) == handler


def test_a_signal_before_the_first_step_is_not_kept_waiting(tmp_path, monkeypatch):
    adapt = training.Run._adapt
    monkeypatch.setattr(training.Run, "_adapt", lambda self: adapt(self) or signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Unfinished, match="stopped by SIGTERM at step 0 of 60"):
        train_here(tmp_path)


def test_the_command_line_tells_by_its_status(tmp_path):
    process = start_training(tmp_path, "--set", "train.steps=1000000")
    log = tmp_path / "runs" / "digits" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    last = errors.splitlines()[-1]
    assert ": stopped by SIGINT at step" in last and last.endswith("goes on from there")
    assert "Traceback" not in errors
    checkpoint = max(json.loads(line)["step"] for line in log.read_text().splitlines() if "averaged" in line)
    assert f"at step {checkpoint} of 1000000" in last
    assert (log.parent / "checkpoints" / f"ckpt-{checkpoint}.index").exists()


def test_a_checkpoint_of_another_network_is_one_message(small_run, tmp_path, monkeypatch):
    run_dir = shutil.copytree(small_run, tmp_path / "run")
    monkeypatch.undo()  # A U-Net again.
    with pytest.raises(UserError, match="expected one that is whole and of this network"):
        train_here(run_dir, tiny(steps=90))


def mount(folder, *options):
    return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 132 KB: room for a small model and its checkpoint, and not for several."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "-t", "tmpfs", "-o", "size=132k", "tmpfs"):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_and_a_read_only_disk_lose_nothing(small_disk, small_run, capsys):
    run_dir = small_disk / "run"

    def assert_refused(reason):
        with pytest.raises(UserError, match=rf"^run directory {run_dir} \([a-z. ]+\) cannot be written: {reason};"):
            train(TINY, run_dir, verbose=False)

    assert_refused("No space left on device")
    steps = [path.stem for path in (run_dir / "checkpoints").glob("*.index")]
    assert steps and not list(run_dir.glob("**/.*writing*"))
    assert mount(small_disk, "-o", "remount,ro")
    assert_refused("Read-only file system")
    assert mount(small_disk, "-o", "remount,rw,size=50m")
    capsys.readouterr()
    train(TINY, run_dir)
    told = capsys.readouterr()
    assert "resuming" in told.out and "cannot be read" not in told.err
    assert_same_weights(run_dir, small_run)


def with_bad_batches(monkeypatch, bad_steps):
    """Makes the batches of these steps not a number."""
    batches = training.training_batches

    def spoiled(images, batch_size, seed, start_step=0, **options):
        good = batches(images, batch_size, seed, start_step=start_step, **options)
        is_bad = lambda step: tf.reduce_any(tf.constant(bad_steps, tf.int64) == step)
        return good.enumerate(start_step).map(lambda step, x: tf.where(is_bad(step), np.nan, to_unit_range(x)))

    monkeypatch.setattr(training, "training_batches", spoiled)
    monkeypatch.setattr(training, "to_unit_range", lambda x: x)  # Bytes could not say what is not a number.


@pytest.mark.slow
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
    before = train_here(tmp_path / "short", tiny(steps=10))
    with_bad_batches(monkeypatch, list(range(10, 15)))
    after = train_here(tmp_path / "short", tiny(steps=15))
    assert int(after.step_guard.skipped_in_row.value) == 5
    ours, theirs = ([*model.weights, *model.optimizer.variables] for model in (after, before))
    for one, other in zip(ours, theirs, strict=True):
        if "iteration" in one.path or one.path.endswith("age"):
            assert int(one.value) == int(other.value) + 5
        elif "seed_generator" not in one.path:
            np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_batches_that_are_all_not_a_number_stop_training(tmp_path, monkeypatch):
    with_bad_batches(monkeypatch, list(range(15, 60)))
    with pytest.raises(UserError, match=r"not finite in the last 2[0-4] steps, up to step .*training has diverged"):
        train_here(tmp_path)
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.index"))[0] == "ckpt-10"
    losses = [row["loss"] for row in rows_of(tmp_path, "loss")]
    assert np.isfinite(losses[:3]).all() and set(losses[3:]) <= {None}


def test_a_run_says_what_it_computes_on_and_that_its_schedule_ends_before_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr("tf_blurdiff.devices._NVIDIA", str(tmp_path / "nvidia0"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = tiny(steps=6, decay_steps=4, warmup_steps=2)
    (tmp_path / "run").mkdir()
    training.train_on(Devices(tf.distribute.get_strategy()), config, tmp_path / "run")
    told = capsys.readouterr()
    assert "\n1 replica on CPU\n" in f"\n{told.out}"
    assert "has an NVIDIA GPU, and TensorFlow does not see it: pip install 'tensorflow[and-cuda]'" in told.err
    assert "train.decay_steps: got 4, expected 6, which is train.steps, or null: from step 4 on" in told.err


def test_a_label_that_there_is_not_ends_a_run_in_one_line(tmp_path, monkeypatch):
    config = load_config("digits_labels", [*commands.TINY, "train.steps=5", "model.prediction=eps"])
    images = build_images(config)
    monkeypatch.setattr(images, "labels", images.labels + 1)
    monkeypatch.setattr("tf_blurdiff.config.loading.build_images", lambda config: images)
    with pytest.raises(UserError, match="labels: got 1 to 10, expected 0 to 9"):
        train_here(tmp_path, config)


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
        for weight in model.network.trainable_variables[-2:]:
            weight.assign(1e-7 * np.ones(weight.shape))
        before = [weight.numpy() for weight in model.network.trainable_variables]
        model.compile(keras.optimizers.SGD(1e4))
        assert model.step_guard.scales_loss
        model.step_guard.loss_scale.assign(scale)
        model.train_on_batch(images(8))
        return np.abs(model.network.trainable_variables[0].numpy() - before[0]).max()

    assert gradients(2.0**15) > 100 * gradients(1.0)


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


@pytest.mark.parametrize("precision, warned", [("mixed_bfloat16", True), ("float32", False)])
def test_a_precision_that_is_emulated_is_warned_of(precision, warned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "processor_lacks", lambda name: name == "mixed_bfloat16")
    monkeypatch.setattr(training.tf.config, "list_physical_devices", lambda kind=None: [])
    monkeypatch.setattr(training.Run, "_adapt", lambda self: None)
    monkeypatch.setattr(training.Run, "_train_from", lambda self, step, interruption: None)
    train(tiny(precision=precision), tmp_path, verbose=False)
    told = capsys.readouterr().err
    assert (f"train.precision: this processor has no instructions for {precision}" in told) is warned
