"""The precision of the network's arithmetic: what a processor has, and a model in another."""

import keras
import numpy as np
import pytest

import tf_blurdiff as bd
from tests.support.models import images, make, randomized
from tf_blurdiff.errors import UserError
from tf_blurdiff.networks import precision

AVX2 = "processor : 0\nflags\t\t: fpu avx avx2 fma\n"
NEWER_X86 = "processor : 0\nflags\t\t: avx2 avx512f avx512_bf16\n"
ARM = "processor : 0\nFeatures\t: fp asimd asimdhp\n"


@pytest.mark.parametrize(
    "cpuinfo, name, lacks",
    [
        (AVX2, "float32", False),
        (AVX2, "mixed_bfloat16", True),
        (AVX2, "mixed_float16", True),
        (NEWER_X86, "mixed_bfloat16", False),
        (NEWER_X86, "mixed_float16", True),
        (ARM, "mixed_bfloat16", True),
        (ARM, "mixed_float16", False),
        ("processor : 0\n", "mixed_bfloat16", False),
    ],
)
def test_what_a_processor_lacks(cpuinfo, name, lacks, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.platform, "system", lambda: "Linux")
    assert precision.processor_lacks(name) is lacks


def test_another_system_does_not_say(monkeypatch):
    monkeypatch.setattr(precision.platform, "system", lambda: "Darwin")
    assert not precision.processor_lacks("mixed_bfloat16")
    assert precision.fast_precision() == "float32"


@pytest.mark.parametrize(
    "capabilities, cpuinfo, expected",
    [
        ([], AVX2, "float32"),
        ([], NEWER_X86, "mixed_bfloat16"),
        ([], "processor : 0\n", "float32"),
        ([(9, 0)], AVX2, "mixed_bfloat16"),
        ([(8, 0), (8, 6)], AVX2, "mixed_bfloat16"),
        ([(9, 0), (7, 5)], NEWER_X86, "float32"),
        ([None], NEWER_X86, "float32"),
    ],
)
def test_the_fast_precision_of_a_machine(capabilities, cpuinfo, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.platform, "system", lambda: "Linux")
    config = precision.tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: capabilities)
    details = lambda gpu: {"device_name": "a card", **({"compute_capability": gpu} if gpu else {})}
    monkeypatch.setattr(config.experimental, "get_device_details", details)
    assert precision.fast_precision() == expected


def unet(policy):
    return bd.UNet((8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, num_classes=2, dtype=policy)


def in_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return make()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("make_model", [in_bfloat16, lambda: make(unet("mixed_bfloat16"), label_dropout=0.1)])
def test_a_model_in_another_precision_and_back(make_model):
    model = randomized(make_model())
    z, t = images(4), np.linspace(0.0, 1.0, 4, dtype="float32")
    label = [] if model.num_classes is None else [np.arange(4) % 3]
    exact = model.in_precision("float32")
    again = exact.in_precision("mixed_bfloat16")
    # Of a functional model the copy's own policy is not that of its layers.
    back = again.in_precision("float32")
    for copy in (exact, again, back):
        for value, expected in zip(copy.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(value, expected)
    outputs = [each.ema_call([z, t, *label]) for each in (model, exact, again, back)]
    outputs = [keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")) for output in outputs]
    np.testing.assert_array_equal(outputs[2], outputs[0])
    np.testing.assert_array_equal(outputs[3], outputs[1])
    error = np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max()
    assert 1e-4 < error < 0.05


def test_a_layer_with_a_policy_of_its_own_keeps_it():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, dtype="mixed_bfloat16")(inputs)
    network = keras.Model(inputs, keras.layers.Dense(2, dtype="float32")(hidden))
    copy = precision.in_precision(network, "mixed_float16")
    assert [layer.compute_dtype for layer in copy.layers[1:]] == ["bfloat16", "float16"]


class Silent(keras.Sequential):
    """Its config says nothing."""

    def get_config(self):
        return {}


def test_what_cannot_be_changed_is_said():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(UserError, match=r"one of float32, mixed_bfloat16, mixed_float16\. Received: 'float64'"):
        precision.in_precision(network, "float64")
    with pytest.raises(UserError, match="does not say in which precision"):
        precision.in_precision(Silent([keras.Input((2,)), keras.layers.Dense(3)]), "float32")


def test_a_file_is_loaded_in_another_precision(tmp_path):
    randomized(make(unet("mixed_bfloat16"), label_dropout=0.1)).save(tmp_path / "model.keras")
    assert bd.load_model(tmp_path / "model.keras").network.compute_dtype == "bfloat16"
    assert bd.load_model(tmp_path / "model.keras", precision="float32").network.compute_dtype == "float32"
