"""An export in which a distilled model answers beside its teacher, and the card that says so."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support.models import make, randomized, small_network
from tf_blurdiff.data.pixels import to_uint8, to_unit_range
from tf_blurdiff.errors import UserError
from tf_blurdiff.serving.verification import verify

SEEDS, LABELS = [3, 8], [0, 2]


def teacher(num_classes=3):
    return randomized(make(small_network(num_classes=num_classes), "gaussian", label_dropout=0.1, num_steps=2))


@pytest.fixture(scope="module")
def student():
    as_distilled = {"sampler": "ddim", "num_steps": 4, "grid": "quadratic", "distilled_guidance": 2.0}
    return randomized(make(small_network(num_classes=3), "gaussian", label_dropout=0.1, **as_distilled), seed=1)


@pytest.fixture(scope="module")
def export_dir(student, tmp_path_factory):
    more = {"quality_steps": [1, student], "notes": "## Licence\n\nCC0, all of it."}
    return bd.export_savedmodel(teacher(), tmp_path_factory.mktemp("served"), **more)


def test_each_answers_with_its_own_weights_and_steps(export_dir, student):
    signatures = tf.saved_model.load(str(export_dir)).signatures
    seeds, labels, no_guidance = tf.constant(SEEDS, tf.int64), tf.constant(LABELS, tf.int64), tf.ones([2])
    by_the_student = signatures["steps_4"](seed=seeds, label=labels)["image"]
    by_the_teacher = signatures["serving_default"](seed=seeds, label=labels, guidance_scale=no_guidance)["image"]
    for actual, model in ((by_the_student, student), (by_the_teacher, teacher())):
        expected = to_uint8(model.sample(SEEDS, labels=LABELS)).numpy()
        np.testing.assert_allclose(actual.numpy().astype(int), expected.astype(int), atol=1)
    assert np.abs(by_the_student.numpy().astype(int) - by_the_teacher.numpy()).max() > 5
    assert set(signatures["steps_1"].structured_input_signature[1]) == {"seed", "label", "guidance_scale"}


@pytest.mark.slow
def test_a_student_changes_images_by_its_own_steps(student, tmp_path, rng):
    signatures = tf.saved_model.load(str(bd.export_savedmodel(student, tmp_path, restoration=True))).signatures
    pixels, strengths = rng.integers(0, 256, (3, 8, 8, 1), "uint8"), (0.1, 0.5, 1.0)
    rows = {"seed": tf.constant([3, 8, 9], tf.int64), "label": tf.constant([0, 2, 1], tf.int64)}
    actual = signatures["image_to_image"](image=tf.constant(pixels), strength=tf.constant(strengths), **rows)["image"]
    for row, strength in enumerate(strengths):
        seeds, labels = ([int(value[row])] for value in rows.values())
        start = to_unit_range(pixels[row : row + 1]).numpy()
        expected = to_uint8(student.sample(seeds, labels=labels, images=start, strength=strength)).numpy()
        np.testing.assert_allclose(actual[row].numpy().astype(int), expected[0].astype(int), atol=1)


@pytest.mark.slow
def test_the_cpp_runtime_gives_the_known_images_of_both(export_dir):
    assert verify(export_dir) <= 1


def test_the_manifest_and_the_card_name_the_student(export_dir, student):
    assets = export_dir / "assets.extra"
    manifest = json.loads((assets / "manifest.json").read_text())
    assert manifest["students"].keys() == {"steps_4"}
    assert manifest["students"]["steps_4"]["model_sha256"] == student.fingerprint() != manifest["model_sha256"]
    assert manifest["students"]["steps_4"]["sampling"]["sampler"] == "ddim"
    lines = (assets / "README.md").read_text().splitlines()
    assert "| sampling of steps_4 | by a model that was distilled for it |" in lines
    assert "| steps_4 | seed, label | images of seeds: ddim, 4 steps |" in lines
    assert "| images | 8x8 (height x width), grey, made from seeds |" in lines
    (process,) = (line for line in lines if line.startswith("| process |"))
    assert "CosineNoise (logsnr_min -10.0, logsnr_max 10.0)" in process
    assert lines[-3:] == ["## Licence", "", "CC0, all of it."]


@pytest.mark.parametrize(
    "num_classes, quality_steps, message",
    [
        (4, lambda student: [student], "quality_steps must hold models with the num_classes of the model itself, 4"),
        (3, lambda student: [4, student], "quality_steps must be different numbers of steps. Received: 4, 4"),
    ],
)
def test_what_does_not_go_together_is_refused(student, tmp_path, num_classes, quality_steps, message):
    with pytest.raises(UserError, match=message):
        bd.export_savedmodel(teacher(num_classes), tmp_path / "served", quality_steps=quality_steps(student))
    assert not (tmp_path / "served").exists()
