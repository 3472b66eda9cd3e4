"""The command lines as a user meets them: what they answer, and what they say to a mistake."""

import pathlib
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests import commands

TRAIN = ["train", "--config", "digits.yaml"]
MODEL = "{run}/model.keras"
PROGRESS = re.compile(r"(statistics|training|sampling): +\d+%")
# A name: the command line, and what its one message must say.
MISTAKES = {
    "no config": (["train"], "--config"),
    "unknown flag": ([*TRAIN, "--steps", "3"], "Unknown command line flag 'steps'"),
    "stray word": ([*TRAIN, "train.steps=3"], "unexpected argument: train.steps=3"),
    "missing file": (["train", "--config", "nowhere.yaml"], "nowhere.yaml: no such file; expected a path or one of"),
    "unknown key": ([*TRAIN, "--set", "train.lr=0.1"], "train.lr"),
    "wrong type": ([*TRAIN, "--set", "train.steps=many"], "train.steps: got 'many', expected an integer"),
    "cannot halve": ([*TRAIN, "--set", "data.image_size=9"], "data.image_size: got 9, expected a multiple of 2"),
    "no folder": (
        [*TRAIN, "--set", "data.source=image_folder", "--set", "data.root=nowhere"],
        "root: got 'nowhere'",
    ),
    "empty folder": ([*TRAIN, "--set", "data.source=image_folder", "--set", "data.root=empty"], "no image"),
    "cut picture": (
        [*TRAIN, *commands.overrides(commands.TINY), "--run_dir", "cut"]
        + ["--set", "data.source=image_folder", "--set", "data.root=pictures"],
        "cannot read the image 'pictures/07.png'",
    ),
    "other config": (
        [*TRAIN, *commands.overrides(commands.TINY), "--run_dir", "{run}", "--set", "train.seed=9"],
        "was begun with another config: train.seed (0 there, 9 here)",
    ),
    "run_dir is a file": ([*TRAIN, "--run_dir", "{run}/metrics.jsonl"], "cannot be written"),
    "no model": (["sample"], "--model"),
    "missing model": (["sample", "--model", "nowhere.keras"], "model file not found: nowhere.keras"),
    "corrupt model": (["sample", "--model", "corrupt.keras"], "corrupt.keras is not a .keras file that can be read"),
    "cut model": (["sample", "--model", "cut.keras"], "cut.keras is not a .keras file that can be read"),
    "unknown sampler": (["sample", "--model", MODEL, "--sampler", "euler"], "ancestral, ddim. Received: 'euler'"),
    "no steps": (["sample", "--model", MODEL, "--num_steps", "0"], "num_steps must be an integer of 1 or more"),
    "no images": (["sample", "--model", MODEL, "--num_images", "0"], "--num_images must be 1 or more. Received: 0"),
    "text for a number": (["sample", "--model", MODEL, "--num_images", "ten"], "--num_images=ten"),
    "eta": (["sample", "--model", MODEL, "--eta", "2"], "eta must be in [0, 1]. Received: 2.0"),
    "labels": (["sample", "--model", MODEL, "--labels", "1"], "has no labels"),
    "unwritable": (["sample", "--model", MODEL, "--out", "corrupt.keras/x.png"], "cannot be written"),
    "nothing to export": (["export"], "give --model and --out"),
    "version 0": (["export", "--model", MODEL, "--out", "served", "--version", "0"], "version must be an integer of 1"),
    "nothing to verify": (["export", "--verify", "nowhere/1"], "nowhere/1 is no export of tf_blurdiff"),
}


@pytest.fixture(scope="module")
def answers(trained_run, tmp_path_factory):
    """Every mistake's finished process; two at a time, since most of each is TensorFlow's start."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "corrupt.keras").write_bytes(b"not a zip file")
    whole = (trained_run / "model.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])

    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    for number in range(20):
        noise = np.random.default_rng(number).integers(0, 256, (40, 30), np.uint8)
        Image.fromarray(noise).save(folder / "pictures" / f"{number:02}.png")
    cut = folder / "pictures" / "07.png"
    cut.write_bytes(cut.read_bytes()[:600])

    def answer(item):
        name, (arguments, _) = item
        return name, commands.run(*(argument.format(run=trained_run) for argument in arguments), cwd=folder)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(answer, MISTAKES.items()))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(answers, name):
    result, message = answers[name], MISTAKES[name][1]
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line and not PROGRESS.match(line)]
    assert len(lines) == 1, result.stderr


@pytest.mark.parametrize("name, flag", [("train", "--run_dir"), ("sample", "--num_steps"), ("export", "--verify")])
def test_help_answers(name, flag, tmp_path):
    result = commands.run(name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert flag in result.stdout and f"python -m tf_blurdiff.{name}" in result.stdout
    assert not result.stderr


def test_sample_writes_a_grid_and_single_files(trained_run, trained_model, tmp_path):
    arguments = ["--num_images", 5, "--seed", 7, "--num_steps", 3, "--sampler", "ancestral", "--batch_size", 2]
    files = ["--out", tmp_path / "new" / "grid.png", "--out_dir", tmp_path / "single"]
    result = commands.run("sample", "--model", trained_run / "model.keras", *arguments, *files, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "new" / "grid.png").size == (2 + 3 * 50, 2 + 2 * 50)
    names = sorted(path.name for path in (tmp_path / "single").iterdir())
    assert names == ["seed_10.png", "seed_11.png", "seed_7.png", "seed_8.png", "seed_9.png"]
    image = np.asarray(Image.open(tmp_path / "single" / "seed_9.png"), np.float32)
    expected = trained_model.sample([9], num_steps=3, sampler="ancestral")[0, :, :, 0]
    np.testing.assert_allclose(image, (expected + 1) * 127.5, atol=1)


def test_export_and_verify(trained_run, tmp_path):
    result = commands.run("export", "--model", trained_run / "model.keras", "--out", "served", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "export: served/1" in result.stdout
    result = commands.run("export", "--verify", "served/1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "served/1 is sound" in result.stdout
    assert pathlib.Path(tmp_path, "served", "1", "saved_model.pb").is_file()
