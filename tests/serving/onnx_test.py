"""The ONNX file: the model's own images, of every family, in a process without TensorFlow."""

import json
import re
import subprocess
import sys
import types

import numpy as np
import onnx
import pytest

import tf_blurdiff as bd
from tests.support import commands
from tests.support.models import make, randomized, small_network
from tf_blurdiff.compilation import for_other_runtimes
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError
from tf_blurdiff.serving import onnx_file

SEEDS = np.array([7, -8, 2**40 + 5, -(2**63), 0])
PROGRAM = """
import sys, numpy, onnxruntime
feeds = dict(numpy.load("feeds.npz"))
images = onnxruntime.InferenceSession(sys.argv[1]).run(None, feeds)[0]
assert "tensorflow" not in sys.modules
numpy.save("images.npy", images)
"""


def in_onnx_runtime(path, folder, **feeds):
    np.savez(folder / "feeds.npz", **feeds)
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], cwd=folder, check=True)
    return np.load(folder / "images.npy")


def assert_same_images(actual, expected):
    assert actual.dtype == np.uint8
    np.testing.assert_allclose(actual.astype(int), to_uint8(expected).numpy().astype(int), atol=1)


RARE = [("gaussian", "v", "multistep3"), ("heat_dissipation", "less_blurred", "heat"), ("cold", "x0", "cold")]


@pytest.mark.parametrize(
    "process, prediction, sampler",
    [("blurring", "preconditioned", "ancestral2"), *(pytest.param(*rare, marks=pytest.mark.slow) for rare in RARE)],
)
def test_every_family_samples_as_the_model(tmp_path, process, prediction, sampler):
    model = randomized(make(process=process, prediction=prediction, sampler=sampler))
    num_steps = 3 if prediction != "less_blurred" else None  # Which takes all levels.
    model.sample([0], num_steps)  # What is traced for this is nothing for ONNX.
    path = bd.export_onnx(model, tmp_path / "new" / "model.onnx", num_steps=num_steps)
    for seeds in (SEEDS, SEEDS[:1]):
        assert_same_images(in_onnx_runtime(path, tmp_path, seed=seeds), model.sample(seeds.tolist(), num_steps))
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    facts = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(facts["sampling"])["sampler"] == sampler
    assert facts["model_sha256"] == model.fingerprint()


@pytest.mark.slow
def test_labels_and_guidance_are_inputs(tmp_path):
    model = randomized(
        make(small_network(num_classes=3), prediction="v", label_dropout=0.1, class_names=["a", "b", "c"])
    )
    path = bd.export_onnx(model, tmp_path / "model.onnx", num_steps=2)
    labels, scales = np.array([0, 1, 2, 0, 1]), np.array([1, 1.5, 2, 3, 0], "float32")
    images = in_onnx_runtime(path, tmp_path, seed=SEEDS, label=labels, guidance_scale=scales)
    expected = model.sample(SEEDS.tolist(), labels=labels, guidance_scale=scales, num_steps=2)
    assert_same_images(images, expected)
    facts = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(facts["class_names"]) == ["a", "b", "c"]


@pytest.mark.slow
def test_shipped_digits_are_the_same_from_the_command_line(tmp_path):
    arguments = ["--model", "digits", "--format", "onnx", "--out", "digits.onnx", "--num_steps", "4"]
    result = commands.call("export", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "export: digits.onnx\n"), result.stderr
    images = in_onnx_runtime(tmp_path / "digits.onnx", tmp_path, seed=SEEDS)
    assert_same_images(images, bd.load_pretrained("digits").sample(SEEDS.tolist(), num_steps=4))
    (snippet,) = re.findall(r"```python\n(.*?)```", (commands.ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
    check = "assert images.shape == (3, 8, 8, 1) and images.dtype == np.uint8 and images.std() > 10"
    subprocess.run([sys.executable, "-c", f"{snippet}\n{check}"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("size", [(8, 8), (5, 12)])
def test_the_transform_is_the_same_by_matrices(rng, size):
    x = rng.normal(size=(2, *size, 3)).astype("float32")
    with for_other_runtimes():
        freq = bd.dct2(x)
        back = bd.idct2(freq)
    np.testing.assert_allclose(freq, bd.dct2(x), atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    model = randomized(make())
    with pytest.raises(UserError, match=r"must end in \.onnx. Received: .*model\.bin"):
        bd.export_onnx(model, tmp_path / "model.bin")
    with pytest.raises(UserError, match="num_steps must be an integer of 1 or more"):
        bd.export_onnx(model, tmp_path / "model.onnx", num_steps=0)
    with pytest.raises(UserError, match="call adapt"):
        bd.export_onnx(make(process="cold", prediction="x0"), tmp_path / "model.onnx")
    result = commands.call(
        "export", "--model", "digits", "--format", "onnx", "--out", "x.onnx", "--keep", "2", cwd=tmp_path
    )
    assert (result.returncode, result.stderr) == (
        2,
        "export: --keep is for --format savedmodel. Received: --format onnx --keep\n",
    )
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"need the packages tf2onnx, onnx, onnxruntime: pip install 'tf_blurdiff\[onnx"
    ):
        bd.export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_other_images_are_noticed_and_nothing_is_left(tmp_path, monkeypatch):
    """As if a converted operation were wrong."""
    converted = types.SimpleNamespace(SerializeToString=lambda: b"converted")
    monkeypatch.setattr(onnx_file, "_converted", lambda task, facts: converted)
    monkeypatch.setattr(onnx_file, "_run", lambda path, feeds: np.zeros((4, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match=r"gives other images than the model: .* grey levels apart"):
        bd.export_onnx(randomized(make()), tmp_path / "model.onnx", num_steps=1)
    assert not list(tmp_path.iterdir())
