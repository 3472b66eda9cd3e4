"""The shipped models: found by name, small, and good."""

import json
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import tf_blurdiff as bd
from tests.support import commands
from tests.support.models import make
from tf_blurdiff.config.loading import build_images, load_config
from tf_blurdiff.data.pixels import to_uint8, to_unit_range
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.metrics import frechet_distance
from tf_blurdiff.model.loading import find_model, shipped_models


def test_a_run_directory_is_its_model(tmp_path):
    with pytest.raises(UserError, match="a run directory that holds one"):
        find_model(tmp_path)
    (tmp_path / "model.keras").touch()
    assert find_model(tmp_path) == tmp_path / "model.keras"


@pytest.mark.parametrize("where", ["digits", "digits/model.keras"])
def test_what_is_there_goes_before_a_shipped_name(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("mine")
    assert find_model("digits").read_text() == "mine"


@pytest.mark.parametrize("open_model", [bd.load_model, bd.load_pretrained])
def test_an_unknown_name_is_answered_with_the_known_ones(open_model):
    with pytest.raises(UserError, match="digits, digits_4, emoji, fashion_mnist, fashion_mnist_4") as caught:
        open_model("cifar100")
    assert "cifar100" in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the package huggingface_hub, with one repository of a model as Keras saves it there."""

    def snapshot_download(repo_id, *, library_name):
        if repo_id != "me/model":
            raise OSError(f"404: {repo_id}\nis not there")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    model = make(num_steps=2)
    keras.saving.save_model(model, tmp_path, zipped=False)
    return model


def test_a_model_at_the_hub_is_loaded_by_its_address(hub):
    np.testing.assert_array_equal(bd.load_model("hf://me/model").sample([1]), hub.sample([1]))
    with pytest.raises(UserError, match=r"^hf://me/other cannot be downloaded: 404: me/other$"):
        bd.load_model("hf://me/other")


def test_the_hub_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs the package huggingface_hub: pip install huggingface_hub"):
        bd.load_model("hf://me/model")


@pytest.mark.parametrize("name", shipped_models())
def test_they_are_small_and_hold_the_averages_alone(name):
    assert shipped_models()[name].stat().st_size < 6e6
    model = bd.load_pretrained(name)
    assert model.ema_decay is None and model.freq_std.numpy().max() < 100
    assert str(commands.ROOT) not in str(model.get_config())


def test_digits_are_as_far_from_real_ones_as_results_say():
    images = build_images(load_config("digits.yaml"))
    real = to_unit_range(images.read(np.arange(images.num_images))).numpy()
    sampled = to_unit_range(to_uint8(bd.load_pretrained("digits").sample(seeds=range(512)))).numpy()
    distance = frechet_distance(sampled.reshape(512, -1), real.reshape(len(real), -1))
    halves = frechet_distance(*np.array_split(real.reshape(len(real), -1), 2))
    assert distance < 2 * halves


@pytest.mark.slow
def test_make_results_repeats_its_row(tmp_path):
    command = subprocess.run(["make", "-n", "results"], cwd=commands.ROOT, capture_output=True, text=True).stdout
    (line,) = re.findall(r"-m tf_blurdiff\.evaluate .*", command.replace("\\\n", " "))
    name, *arguments = line.replace("runs/results", str(tmp_path)).split()[1:]
    result = commands.run(name.removeprefix("tf_blurdiff."), *arguments, cwd=tmp_path, timeout=1200)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "report.json").read_text())["models"][0]["scores"]["pixels"]
    page = (commands.ROOT / "docs" / "results.md").read_text()
    distance, error, precision, recall = re.search(
        r"\| digits \| 2,048 \| ([\d.]+) ± ([\d.]+) \| ([\d.]+) ± .* \| ([\d.]+) ± .* \|", page
    ).groups()
    assert abs(found["frechet"] - float(distance)) < 2 * float(error)
    assert abs(found["precision"] - float(precision)) < 0.05 and abs(found["recall"] - float(recall)) < 0.05
