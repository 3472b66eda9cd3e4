"""Distillation in a run directory: stages one after another, cut anywhere, and what is refused."""

import json
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import tf_blurdiff as bd
from tests.support import commands
from tests.support.runs import TINY, assert_same_weights, environment, steps_of, tiny
from tf_blurdiff.config.loading import load_config
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.training import distill, distillation
from tf_blurdiff.training import loop as training

pytestmark = pytest.mark.usefixtures("small_network")

LARGER = ["data.image_size=16", "network.attention_resolutions=[]"]
FEW = {"steps": 1, "teacher_steps": 8, "stage_steps": 20, "verbose": False}


@pytest.fixture(scope="module")
def distilled(small_run, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("distilled") / "run"
    distill(small_run, TINY, run_dir, **FEW)
    return run_dir


def test_the_last_student_samples_in_its_steps(distilled):
    model = bd.load_model(distilled)
    assert (model.sampler, model.num_steps, model.grid, model.ema_decay) == ("ddim", 1, "quadratic", None)
    assert len(model.sample([0, 1], return_trajectory=True)) == 2
    last = bd.load_model(distilled / "steps_1")
    np.testing.assert_allclose(model.sample([0, 1]), last.sample([0, 1]), atol=1e-6)
    config = load_config(distilled / "config.yaml")
    assert (config.sample.num_steps, config.sample.grid) == (1, "quadratic")


def test_every_stage_is_a_run_of_its_own_and_begins_where_the_one_before_ended(distilled, small_run, tmp_path):
    assert sorted(path.name for path in distilled.glob("steps_*")) == ["steps_1", "steps_2"]
    for stage in ("steps_1", "steps_2"):
        assert steps_of(distilled / stage, "averaged_loss") == [10, 20]
    teacher, student = bd.load_model(small_run), bd.load_model(distilled / "steps_2")
    np.testing.assert_array_equal(student.freq_std, teacher.freq_std)
    moved = [np.abs(one - other).max() for one, other in zip(student.averages, teacher.averages)]
    assert 0 < max(moved) < 0.1
    lesson = json.loads((distilled / "steps_1" / "lesson.json").read_text())
    assert lesson["teacher"] == student.averaged().fingerprint()[:16]


def test_its_card_says_for_how_many_calls_it_is(distilled):
    card = (distilled / "README.md").read_text()
    assert "| distilled | calls of the network: 1 |" in card and "| sampling | ddim, 1 steps |" in card
    (picture,) = re.findall(r"!\[.*\]\((samples/step_.*\.png)\)", card)
    assert (distilled / picture).is_file()
    assert "| distilled | calls of the network: 2 |" in (distilled / "steps_2" / "README.md").read_text()


# At the end of a stage, whose last step is too late to stop it, and within each.
SLOWLY = [pytest.param(stage, 10, marks=pytest.mark.slow) for stage in ("steps_2", "steps_1")]


@pytest.mark.parametrize("stage, step", [("steps_2", 20), *SLOWLY])
def test_an_interruption_anywhere_changes_nothing(distilled, small_run, tmp_path, monkeypatch, stage, step):
    save = training.Run._save

    def stop_after(self, at):
        save(self, at)
        if (self.run_dir.name, at) == (stage, step):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training.Run, "_save", stop_after)
    with pytest.raises(
        Unfinished, match=r"stopped by SIGTERM at (the end of the stage of 2 steps|step 1[0-9] of 20); the"
    ):
        distill(small_run, TINY, tmp_path, **FEW)
    monkeypatch.setattr(training.Run, "_save", save)
    assert (tmp_path / "steps_1").exists() is (stage == "steps_1")
    distill(small_run, TINY, tmp_path, **FEW)
    assert_same_weights(tmp_path, distilled)


def test_a_stage_with_a_checkpoint_says_what_the_config_leaves_open(tmp_path):
    for number in range(9):
        (tmp_path / f"steps_{number}" / "checkpoints").mkdir(parents=True)
    assert distillation._begun(tmp_path) == tmp_path
    (tmp_path / "steps_4" / "checkpoints" / "ckpt-20.index").touch()
    assert distillation._begun(tmp_path) == tmp_path / "steps_4"


def start_distilling(small_run, run_dir):
    """Three stages in a process of its own."""
    what = ["--model", small_run, "--config", "digits.yaml", "--run_dir", run_dir, *commands.overrides(commands.TINY)]
    how = ["--teacher_steps", 16, "--steps", 1, "--stage_steps", 20]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(commands.command("distill", *what, *how), env=environment(), **pipes)


@pytest.mark.slow
def test_killed_ten_times_in_three_stages_it_ends_with_the_same_weights(small_run, tmp_path):
    uncut, cut, rng, died_in = tmp_path / "uncut", tmp_path / "cut", random.Random(0), []
    begun = time.monotonic()
    _, errors = (process := start_distilling(small_run, uncut)).communicate(timeout=300)
    duration = time.monotonic() - begun
    assert process.returncode == 0, errors
    for kill in range(10):
        process = start_distilling(small_run, cut)
        # The later ones are left longer, or they would all die in the first stage.
        time.sleep(duration * rng.uniform(0.3, 0.4 + 0.05 * kill))
        process.kill()
        process.communicate()
        died_in.append(len(list(cut.glob("steps_*"))))
    _, errors = (process := start_distilling(small_run, cut)).communicate(timeout=300)
    assert process.returncode == 0, errors
    print("stages begun at each kill:", died_in)
    assert len(set(died_in) - {0}) >= 2
    assert_same_weights(cut, uncut)


def test_what_is_done_is_not_done_again(distilled, small_run, monkeypatch):
    before = (distilled / "steps_2" / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(training.Run, "_train_from", None)
    distill(small_run, TINY, distilled, **FEW)
    assert (distilled / "steps_2" / "metrics.jsonl").read_bytes() == before


def test_a_folder_of_another_teachers_students_is_refused(distilled, small_run, tmp_path):
    other = shutil.copytree(distilled, tmp_path / "run")
    lesson = other / "steps_2" / "lesson.json"
    lesson.write_text(json.dumps({**json.loads(lesson.read_text()), "teacher": "another"}))
    with pytest.raises(UserError, match="was begun with another teacher, its steps, sampler, grid or guidance scale"):
        distill(small_run, TINY, other, **FEW)


def test_another_grid_is_refused_in_a_folder_that_was_begun(distilled, small_run, tmp_path):
    other = shutil.copytree(distilled, tmp_path / "run")
    with pytest.raises(UserError, match=r'was begun with another teacher.*"grid": "quadratic".*"grid": "uniform"'):
        distill(small_run, TINY, other, grid="uniform", **FEW)


def test_a_folder_that_was_begun_keeps_the_precision_that_auto_chose(distilled, small_run, monkeypatch):
    monkeypatch.setattr("tf_blurdiff.config.loading.fast_precision", lambda: "mixed_bfloat16")  # On another machine.
    assert distill(small_run, tiny(precision="auto"), distilled, **FEW).network.dtype_policy.name == "float32"


@pytest.mark.parametrize("folder", ["of a training", "of the teacher"])
def test_a_student_does_not_take_its_teachers_place(distilled, small_run, tmp_path, folder):
    run_dir = shutil.copytree(small_run if folder == "of a training" else distilled / "steps_2", tmp_path / "run")
    if folder == "of the teacher":
        shutil.rmtree(run_dir / "checkpoints")
    before = (run_dir / "model.keras").read_bytes()
    with pytest.raises(UserError, match="holds another model; expected another folder"):
        distill(run_dir, TINY, run_dir, verbose=False)
    assert (run_dir / "model.keras").read_bytes() == before


@pytest.mark.slow
def test_a_student_can_be_distilled_further(distilled, small_run, tmp_path):
    model = distill(distilled / "steps_2", TINY, tmp_path, steps=1, stage_steps=10, verbose=False)
    assert (model.num_steps, model.grid, model.distilled_guidance) == (1, "quadratic", 1.0)


@pytest.mark.slow
def test_a_grid_goes_on_from_stage_to_stage(small_run, tmp_path):
    few = {"stage_steps": 10, "verbose": False}
    first = distill(small_run, TINY, tmp_path / "two", steps=2, teacher_steps=8, grid="uniform", **few)
    last = distill(tmp_path / "two", TINY, tmp_path / "one", steps=1, **few)
    assert first.grid == last.grid == "uniform"
    with pytest.raises(UserError, match="grid must be one of uniform"):
        distill(tmp_path / "two", TINY, tmp_path / "other", steps=1, grid="quadratic", **few)


def test_a_student_of_one_call_is_not_distilled_further(distilled, tmp_path):
    with pytest.raises(UserError, match="distilled to one call cannot be distilled further"):
        distill(distilled, TINY, tmp_path, verbose=False)


@pytest.mark.parametrize(
    "config, how, message",
    [
        (TINY, {"steps": 3}, "steps must be a power of two. Received: 3"),
        (TINY, {"steps": 0}, "steps must be an integer of 1 or more"),
        (TINY, {"steps": 8}, "steps must be at most 4, the first student's with a teacher of 16. Received: 8"),
        (TINY, {"teacher_steps": 2}, "teacher_steps must be 4 or more. Received: 2"),
        (TINY, {"teacher_steps": 5}, "teacher_steps must be a power of two"),
        (TINY, {"grid": "logsnr"}, "grid must be one of quadratic, uniform. Received: 'logsnr'"),
        (TINY, {"stage_steps": 0}, "stage_steps must be an integer of 1 or more"),
        (TINY, {"peak_learning_rate": -5e-4}, "the learning rate must be above 0. Received: -0.0005"),
        (TINY, {"peak_learning_rate": float("nan")}, "the learning rate must be above 0. Received: nan"),
        (TINY, {"guidance_scale": 2.0}, "needs a model that was trained with labels and label_dropout"),
        (load_config("digits_gaussian"), {}, "the config's process is not the model's"),
        (load_config("digits", LARGER), {}, "the config's image shape is not the model's"),
        (load_config("digits_labels"), {}, "the config's number of labels is not the model's: got 10, expected None"),
        (tiny(batch_size=5000), {}, "train.batch_size: got 5000, expected at most 1797"),
    ],
)
def test_what_cannot_be_distilled_is_refused(small_run, tmp_path, config, how, message):
    with pytest.raises(UserError, match=message):
        distill(small_run, config, tmp_path / "run", verbose=False, **how)
    assert not list((tmp_path).rglob("*.keras"))
