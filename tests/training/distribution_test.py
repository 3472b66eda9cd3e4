"""Training on one device, on two replicas, and on two worker processes: the same weights, dropout included."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.support import commands
from tests.support.runs import TINY, assert_same_weights, environment, rows_of, small_training, train_here
from tf_blurdiff.config.loading import load_config
from tf_blurdiff.devices import Devices
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.launch import free_ports, run_workers
from tf_blurdiff.training import loop as training

SETTINGS = [*commands.TINY, "train.steps=50", "train.sample_every=1000", "train.checkpoint_every=10"]
# Dropout, and labels that are dropped.
CONFIG = load_config("digits_labels", SETTINGS)
# Workers that share two processor cores wait for each other at every step.
FEW_STEPS = ["train.steps=12", "train.checkpoint_every=6"]
ENOUGH = 1e-6


def train_on(devices, run_dir, config=CONFIG):
    run_dir.mkdir()
    training.train_on(devices, config, run_dir, verbose=False)
    return run_dir


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return train_on(Devices(tf.distribute.get_strategy()), tmp_path_factory.mktemp("one") / "run")


def assert_same_run(run_dir, other):
    assert_same_weights(run_dir, other, atol=ENOUGH)
    for name in ("loss", "gradient_norm", "averaged_loss", "loss_by_time"):
        ours, theirs = ([row[name] for row in rows_of(each, name)] for each in (run_dir, other))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_two_replicas_end_with_the_weights_of_one(one_device, two_replicas, tmp_path):
    assert CONFIG.network.dropout > 0 and CONFIG.model.label_dropout > 0
    assert_same_run(train_on(Devices(two_replicas), tmp_path / "run"), one_device)


def test_a_batch_that_the_replicas_cannot_share_is_refused(two_replicas, tmp_path):
    odd = load_config("digits_labels", [*SETTINGS, "train.batch_size=15"])
    with pytest.raises(UserError, match=r"train.batch_size: got 15, expected a multiple of 2, the number of replicas"):
        train_on(Devices(two_replicas), tmp_path / "run", odd)


def workers_command(run_dir, *more):
    settings = commands.overrides([*SETTINGS, *more])
    return commands.command("train", "--config", "digits_labels.yaml", "--run_dir", run_dir, *settings)


def test_two_workers_end_with_the_weights_of_one_device(tmp_path, small_network):
    """By the launcher's command line, with the chief alone telling what it does."""
    settings = [*SETTINGS, *FEW_STEPS]
    one_device = train_on(
        Devices(tf.distribute.get_strategy()), tmp_path / "one", load_config("digits_labels", settings)
    )
    words = ["--config", "digits_labels.yaml", "--run_dir", tmp_path / "run", *commands.overrides(settings)]
    command = commands.command("launch", "--num_workers", 2, "--", *small_training(*words))
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_same_run(tmp_path / "run", one_device)
    assert "[0] gathering" in result.stdout and "[1] gathering" not in result.stdout


def children(command_part):
    """Process numbers of the workers, by their TF_CONFIG's index."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if command_part in (folder / "cmdline").read_text():
                environment = (folder / "environ").read_text()
                if '"index": ' in environment:
                    found[int(environment.split('"index": ')[1][0])] = int(folder.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("num_workers, kind", [(2, Unfinished), (1, tf.errors.UnavailableError)])
def test_a_lost_worker_is_work_to_go_on_with(num_workers, kind):
    devices = Devices(tf.distribute.get_strategy(), num_workers=num_workers)
    with pytest.raises(kind) as caught, training.errors_in_words(devices, "train.batch_size: got 16"):
        raise tf.errors.UnavailableError(None, None, "failed to connect to all addresses\nmore of it")
    if num_workers == 2:
        assert caught.value.status == 75
        assert str(caught.value).startswith("another worker is gone (failed to connect to all addresses); start all")


def test_memory_that_is_out_is_a_batch_that_is_too_large():
    message = r"^train.batch_size: got 16, which does not fit into the memory of .*CPU"
    devices = Devices(tf.distribute.get_strategy())
    with pytest.raises(UserError, match=message), training.errors_in_words(devices, "train.batch_size: got 16"):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_costs_a_restart(one_device, tmp_path, victim):
    run_dir, output, statuses = tmp_path / "run", io.StringIO(), []
    command = workers_command(run_dir)
    thread = threading.Thread(target=lambda: statuses.append(run_workers(command, 2, 2, output)))
    thread.start()
    while not list((run_dir / "checkpoints").glob("*.index")) and thread.is_alive():
        time.sleep(0.005)
    os.kill(children(str(run_dir))[victim], signal.SIGKILL)
    thread.join(300)
    assert statuses == [0], output.getvalue()
    assert "a worker ended with status 137; starting all again" in output.getvalue()
    assert "[0] resuming" in output.getvalue()
    assert_same_run(run_dir, one_device)


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_workers(tmp_path):
    command = commands.command("launch", "--", *workers_command(tmp_path / "run", "train.steps=1000000"))
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not list((tmp_path / "run" / "checkpoints").glob("*.index")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "[0] train: stopped by SIGTERM at step" in output and "starting all again" not in output
    assert not children(str(tmp_path / "run"))


WORKER = "import json, os, sys; index = json.loads(os.environ['TF_CONFIG'])['task']['index']; "


def launched(tmp_path, program, max_restarts=2, num_workers=2):
    output = io.StringIO()
    status = run_workers([sys.executable, "-c", WORKER + program, str(tmp_path)], num_workers, max_restarts, output)
    return status, output.getvalue()


def test_the_launcher_marks_lines_and_ends_with_0(tmp_path):
    status, output = launched(tmp_path, "print('hello from', index)")
    assert status == 0 and sorted(output.splitlines()) == ["[0] hello from 0", "[1] hello from 1"]


def test_the_launcher_starts_all_again_when_one_fails(tmp_path):
    """The first time worker 1 fails, and worker 0 would wait for it for ever."""
    program = (
        "import time; seen = os.path.exists(sys.argv[1] + '/seen')\n"
        "if index == 1 and not seen: open(sys.argv[1] + '/seen', 'w').close(); sys.exit(75)\n"
        "if index == 0 and not seen: time.sleep(600)\n"
    )
    status, output = launched(tmp_path, program)
    assert status == 0 and output.count("a worker ended with status 75; starting all again") == 1


def test_the_launcher_gives_up_in_the_end_and_at_once_on_mistakes(tmp_path):
    status, output = launched(tmp_path, "sys.exit(7)")
    assert status == 7 and output.count("starting all again") == 2
    status, output = launched(tmp_path, "sys.exit(2)")
    assert status == 2 and not output
    with pytest.raises(UserError, match="'nothing-such' cannot be started"):
        run_workers(["nothing-such"], 1)


def test_the_launcher_stops_what_a_wrapper_started(tmp_path):
    """Worker 0 is a shell whose child would sleep on; the child holds the output open."""
    program = (
        "import subprocess, time\n"
        "if index == 1: time.sleep(1); sys.exit(7)\n"
        "subprocess.run(['sh', '-c', 'sleep 300; echo ' + sys.argv[1]])\n"
    )
    status, _ = launched(tmp_path, program, max_restarts=0)
    assert status == 7
    assert not any(str(tmp_path) in command_of(folder) for folder in pathlib.Path("/proc").glob("[0-9]*"))


def command_of(folder):
    try:
        # A process that has ended and was not asked for its status has an empty one.
        return (folder / "cmdline").read_text()
    except OSError:
        return ""


def test_the_launcher_does_not_wait_for_a_worker_that_does_not_hear_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_blurdiff.launch._SECONDS_TO_STOP", 0.5)
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if index == 0: os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(300)\n"
    )
    status, output = launched(tmp_path, program)
    assert status == 75 and "starting all again" not in output
    assert not any(str(tmp_path) in command_of(folder) for folder in pathlib.Path("/proc").glob("[0-9]*"))


def test_workers_that_see_other_checkpoints_are_refused(small_run, monkeypatch, small_network):
    mean = Devices.mean
    # As if another worker had found no checkpoint.
    monkeypatch.setattr(Devices, "mean", lambda self, values: [value / 2 for value in mean(self, values)])
    with pytest.raises(UserError, match=r"the workers see other checkpoints in run directory .* \(step 60 here\)"):
        train_here(small_run)


def test_the_launcher_does_not_wait_for_a_reader(tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    command = [sys.executable, "-c", "for number in range(30_000): print('line', number)"]
    assert run_workers(command, 1, 0, Closed()) == 0
    assert run_workers(["false"], 1, 1, Closed()) == 1


def test_a_worker_that_is_lost_while_the_model_is_made_is_work_to_go_on_with(tmp_path, monkeypatch):
    def lost(*args):
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted")

    monkeypatch.setattr(training.configs, "build_model", lost)
    devices = Devices(tf.distribute.get_strategy(), num_workers=2)
    with pytest.raises(Unfinished, match="another worker is gone"):
        training.train_on(devices, TINY, tmp_path, verbose=False)


def test_a_network_that_is_too_large_is_one_line(tmp_path, monkeypatch):
    def too_large(*args):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(training.configs, "build_model", too_large)
    with pytest.raises(UserError, match=r"^network, which does not fit into the memory of .*CPU"):
        training.train_on(Devices(tf.distribute.get_strategy()), TINY, tmp_path, verbose=False)


def test_free_ports_are_different():
    assert len(set(free_ports(20))) == 20
