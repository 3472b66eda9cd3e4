"""Small Keras files: the same images, a quarter of the size."""

import numpy as np
import pytest

import tf_blurdiff as bd
from tests.support import commands
from tests.support.models import make, randomized, small_network
from tf_blurdiff.errors import UserError


@pytest.fixture
def model():
    return randomized(make(small_network(num_classes=3), num_steps=3, label_dropout=0.1, class_names=["a", "b", "c"]))


def test_a_small_file_is_the_same_model(model, tmp_path):
    model.compile("adam")
    model.save(tmp_path / "model.keras")
    result = commands.call(
        "export", "--model", "model.keras", "--format", "keras", "--out", "new/a.keras", cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (0, "export: new/a.keras, 0.0 MB\n"), result.stderr
    small = bd.load_model(tmp_path / "new" / "a.keras")
    assert small.ema_decay is None and small.class_names == ("a", "b", "c")
    assert [weight.dtype for weight in small.weights] == [weight.dtype for weight in model.averaged().weights]
    images, expected = (each.sample([1, 2], labels=[0, 2], guidance_scale=2.0) for each in (small, model))
    np.testing.assert_allclose(images, expected, atol=2 / 255)
    assert np.abs(images - expected).max() > 0
    sizes = [path.stat().st_size for path in (tmp_path / "new" / "a.keras", tmp_path / "model.keras")]
    assert sizes[0] < 0.3 * sizes[1]


def test_a_small_file_of_a_small_file_is_equal(model, tmp_path):
    first = bd.load_model(bd.export_keras(model, tmp_path / "first.keras"))
    second = bd.load_model(bd.export_keras(first, tmp_path / "second.keras"))
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_small_file_has_no_optimizer(model, tmp_path):
    averaged = model.averaged()
    averaged.compile("adam")
    averaged.optimizer.build(averaged.network.trainable_variables)
    small = bd.load_model(bd.export_keras(averaged, tmp_path / "small.keras"))
    assert not small.compiled


def test_what_float16_cannot_hold_stays_as_it_is(model, tmp_path):
    values = np.full(model.ema_weights[0].shape, 1e6, "float32")
    model.ema_weights[0].assign(values)
    small = bd.load_model(bd.export_keras(model, tmp_path / "small.keras"))
    np.testing.assert_array_equal(small.network.trainable_weights[0], values)


def test_other_names_and_flags_are_refused(model, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.keras. Received: .*small\.h5"):
        bd.export_keras(model, tmp_path / "small.h5")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        bd.export_keras(model, tmp_path / "file" / "small.keras")
    arguments = ["--model", "digits", "--format", "keras", "--out", "x.keras", "--num_steps", "3"]
    result = commands.call("export", *arguments, cwd=tmp_path)
    expected = "--num_steps is for --format savedmodel and onnx. Received: --format keras --num_steps"
    assert (result.returncode, result.stderr) == (2, f"export: {expected}\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
