"""Names of labels, from a model to its export and to who asks a server of it."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support import models
from tests.support.programs import run_script
from tests.support.servers import server_in_this_process
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError
from tf_blurdiff.serving.verification import verify

NAMES = ("boots", "sh\u00f6es", "0")


@pytest.fixture(scope="module")
def model():
    network = models.small_network(num_classes=3)
    return models.randomized(models.make(network, "gaussian", class_names=NAMES))


@pytest.fixture(scope="module")
def export_dir(model, tmp_path_factory):
    return bd.export_savedmodel(model, tmp_path_factory.mktemp("named"), num_steps=3)


def test_names_are_saved_with_the_model(model, tmp_path):
    model.save(tmp_path / "named.keras")
    assert bd.load_model(tmp_path / "named.keras").class_names == NAMES
    assert models.make(models.small_network(num_classes=3)).class_names is None


@pytest.mark.parametrize("names", [("a", "b"), ("a", "a", "b"), (1, 2, 3)])
def test_names_are_as_many_different_texts_as_labels(names):
    with pytest.raises(UserError, match="class_names must be as many different texts as num_classes, which is 3"):
        models.make(models.small_network(num_classes=3), class_names=names)


def test_an_export_knows_the_names(export_dir):
    manifest = json.loads((export_dir / "assets.extra" / "manifest.json").read_text())
    assert manifest["class_names"] == list(NAMES) and "boots" in str(manifest["signatures"]["labels"])
    labels = tf.saved_model.load(str(export_dir)).signatures["labels"]
    asked = tf.constant(["sh\u00f6es", "boots", "0", "1", "2"])
    assert labels(class_name=asked)["label"].numpy().tolist() == [1, 0, 2, 1, 2]
    with pytest.raises(tf.errors.InvalidArgumentError, match="class_name must be one of boots, "):
        labels(class_name=tf.constant(["boots", "hats"]))
    assert verify(export_dir) <= 1


@pytest.mark.slow
def test_an_export_without_names_has_no_such_signature(tmp_path):
    network = models.small_network(num_classes=3)
    export_dir = bd.export_savedmodel(models.randomized(models.make(network, "gaussian")), tmp_path, num_steps=3)
    assert set(tf.saved_model.load(str(export_dir)).signatures) == {"png", "serving_default"}
    manifest = json.loads((export_dir / "assets.extra" / "manifest.json").read_text())
    assert manifest["class_names"] is None
    with server_in_this_process(tmp_path) as server:
        url = ("--url", f"http://127.0.0.1:{server.rest}", "--model=digits", "--seeds=0:2")
        assert run_script("client.py", *url, "--label=2", "--out_dir", tmp_path / "got").returncode == 0
        done = run_script("client.py", *url, "--label=boots", "--out_dir", tmp_path / "got")
    assert done.returncode == 2 and "--label: the model's labels have no names; expected numbers" in done.stderr


@pytest.fixture(scope="module")
def server(export_dir):
    with server_in_this_process(export_dir.parent) as server:
        yield server


@pytest.mark.parametrize("how", ["REST", pytest.param("gRPC", marks=pytest.mark.slow)])
def test_the_client_asks_by_names(server, how, tmp_path):
    where = f"--grpc=127.0.0.1:{server.grpc}" if how == "gRPC" else f"--url=http://127.0.0.1:{server.rest}"
    arguments = (where, "--model=digits", "--seeds=0:3", "--out_dir", tmp_path)
    done = run_script("client.py", *arguments, "--label=sh\u00f6es", "--label=0")
    assert done.returncode == 0, done
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "seed_0_label_1.png", "seed_1_label_2.png", "seed_2_label_1.png",
    ]  # fmt: skip
    done = run_script("client.py", *arguments, "--label=hats")
    assert done.returncode == 2 and "class_name must be one of boots, sh" in done.stderr
    done = run_script("client.py", *arguments, "--label=boots", "--labels=1")
    assert done.returncode == 2 and done.stderr == "client: --label and --labels: give one of them\n"


def test_guidance_is_none_with_a_label_unless_asked_for(restoring_model, restoring_export, tmp_path):
    with server_in_this_process(restoring_export.parent) as server:
        where = f"--url=http://127.0.0.1:{server.rest}"
        done = run_script("client.py", where, "--model=digits", "--seeds=7", "--label=2", "--out_dir", tmp_path)
    assert done.returncode == 0, done
    expected, guided = (
        to_uint8(restoring_model.sample([7], labels=[2], num_steps=4, guidance_scale=scale))[0].numpy()
        for scale in (1.0, 2.0)
    )
    assert np.abs(expected.astype(int) - guided).max() > 3
    image = tf.io.decode_png((tmp_path / "seed_7_label_2.png").read_bytes()).numpy()
    np.testing.assert_allclose(image.astype(int), expected, atol=1)


def test_the_images_are_those_of_the_label(model, server, tmp_path):
    where = f"--url=http://127.0.0.1:{server.rest}"
    done = run_script("client.py", where, "--model=digits", "--seeds=7", "--label=0", "--out_dir", tmp_path)
    assert done.returncode == 0, done
    expected = to_uint8(model.sample([7], labels=[2], num_steps=3))[0].numpy()
    image = tf.io.decode_png((tmp_path / "seed_7_label_2.png").read_bytes()).numpy()
    np.testing.assert_allclose(image.astype(int), expected, atol=1)
