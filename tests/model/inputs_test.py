"""Wrong inputs of training are refused in one line, wherever they come in; and shares of any size are right."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models import images, make, randomized, small_network
from tf_blurdiff.errors import UserError

IMAGES = r"images must be floats in \[-1, 1\] of shape \(B, 8, 8, 1\). Received: "
LABELS = r"labels must be integers in \[0, 3\) of shape \(B,\). Received: "
COUNT = 8


def with_labels(**kwargs):
    model = make(small_network(num_classes=3), **kwargs)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def without_labels():
    model = make()
    model.compile(keras.optimizers.SGD(0.1))
    return model


def as_dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(COUNT)


WAYS = {
    "fit": lambda model, *given: model.fit(*given, batch_size=COUNT, verbose=0),
    "fit, data set": lambda model, *given: model.fit(as_dataset(*given), verbose=0),
    "evaluate": lambda model, *given: model.evaluate(*given, batch_size=COUNT, verbose=0),
    "train_on_batch": lambda model, *given: model.train_on_batch(*given),
    "test_on_batch": lambda model, *given: model.test_on_batch(*given),
    "train_step": lambda model, *given: model.train_step(given if len(given) > 1 else given[0]),
    "adapt": lambda model, *given: model.adapt(*given),
    "adapt, data set": lambda model, *given: model.adapt(as_dataset(*given)),
}
RARELY = "fit, data set", "evaluate", "train_on_batch", "test_on_batch", "adapt, data set"
every_way = pytest.mark.parametrize(
    "way", [pytest.param(way, id=name, marks=pytest.mark.slow if name in RARELY else []) for name, way in WAYS.items()]
)
WRONG_LABELS = {
    "num_classes": [0, 1, 2, 3],
    "below": [0, 1, -1, -1],
    "far": [0, 1, 2, 99],
    "floats": [0.0, 1.0, 2.0, 1.0],
    "a column": [[0], [1], [2], [1]],
    "one of each": np.eye(4, 3, dtype="int64"),
}
WRONG_IMAGES = {
    "bytes": (255 * np.abs(images(COUNT))).astype("uint8"),
    "0 to 255": 255 * np.abs(images(COUNT)),
    "infinite": np.where(np.arange(COUNT)[:, None, None, None] == 1, np.inf, images(COUNT)).astype("float32"),
    "another size": np.zeros((COUNT, 10, 10, 1), "float32"),
    "no channel": images(COUNT)[..., 0],
    "another channel": np.zeros((COUNT, 8, 8, 3), "float32"),
}


def assert_refused(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@every_way
def test_wrong_labels_are_refused(way):
    model = with_labels()
    for labels in WRONG_LABELS.values():
        assert_refused(lambda labels=labels: way(model, images(COUNT), np.concatenate([labels, labels])), LABELS)
    way(model, images(COUNT), np.arange(COUNT, dtype="uint8") % 3)


@every_way
def test_wrong_images_are_refused(way):
    model = without_labels()
    for given in WRONG_IMAGES.values():
        assert_refused(lambda given=given: way(model, given), IMAGES)
    way(model, images(COUNT))
    # Also by a step that was traced for right ones.
    for given in WRONG_IMAGES.values():
        assert_refused(lambda given=given: way(model, given), IMAGES)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_labels_that_are_missing_or_too_many_are_refused(way):
    assert_refused(lambda: way(without_labels(), images(COUNT), np.zeros(COUNT, int)), "this model has no labels")
    if way not in (WAYS["adapt"], WAYS["adapt, data set"]):
        assert_refused(lambda: way(with_labels(), images(COUNT)), r"num_classes 3 trains on \(images, labels\)")


def test_what_came_is_said():
    model = with_labels()
    fit = lambda *given: model.fit(*given, batch_size=COUNT, verbose=0)
    assert_refused(lambda: fit(images(8), np.array([0, 1, -1, 7] * 2)), LABELS + "-1 to 7$")
    assert_refused(lambda: fit(255 * np.ones((8, 8, 8, 1)), np.zeros(8, int)), IMAGES + "255 to 255$")
    assert_refused(lambda: fit(np.ones((8, 8, 8, 1), "uint8"), np.zeros(8, int)), IMAGES + "uint8 of shape")


@pytest.mark.slow
def test_compiled_steps_refuse_too():
    model = make(small_network(num_classes=3), label_dropout=0.1)
    model.compile("sgd", jit_compile=True)
    assert_refused(lambda: model.fit(images(8), np.arange(8), batch_size=8, verbose=0), LABELS + "0 to 7$")


def test_two_replicas_refuse_and_go_on(two_replicas):
    with two_replicas.scope():
        model = with_labels()
    labels = np.zeros(8, int)
    labels[7] = 3  # One replica's alone.
    before = model.network.get_weights()
    for _ in range(10):  # It would be now and then that the first error is that of a replica which waited in vain.
        assert_refused(lambda: model.fit(images(8), labels, batch_size=8, verbose=0), LABELS + "0 to 3$")
    for now, then in zip(model.network.get_weights(), before):
        np.testing.assert_array_equal(now, then)
    assert np.isfinite(model.fit(images(8), 0 * labels, batch_size=8, verbose=0).history["loss"][0])


def test_a_picture_that_is_not_a_number_leaves_the_loss_finite():
    model = without_labels()
    holes = images(24)
    holes[3] = np.nan
    history = model.fit(holes, batch_size=8, shuffle=False, verbose=0).history
    other = without_labels()
    other.network.set_weights(model.network.get_weights())
    assert 0.1 < history["loss"][0] < 10 and int(model.step_guard.skipped_steps.value) == 1
    all_bad = without_labels().fit(np.full((8, 8, 8, 1), np.nan, "float32"), verbose=0).history
    assert np.isfinite(all_bad["loss"][0])


@pytest.mark.parametrize("process", ["blurring", "heat_dissipation"])
def test_adapt_takes_what_fit_takes(process):
    labels = np.arange(300) % 3
    x = (0.3 * images(300) + 0.4 * (labels[:, None, None, None] - 1)).astype("float32")
    given = {
        "array": ((x, labels),),
        "pair": (x, labels),
        "data set": (as_dataset(x, labels),),
        "batches": ([(x[:200], labels[:200]), (x[200:], labels[200:])],),
        "tensors": ((tf.constant(x), tf.constant(labels)),),
        "sequence": (Sequence(x, labels),),
    }
    models = [make(small_network(3), process) for _ in given]
    for model, arguments in zip(models, given.values()):
        model.adapt(*arguments)
    variables = [model.sampling_variables[-5:] for model in models]
    for others in variables[1:]:
        for one, other in zip(variables[0], others, strict=True):
            if not re.search("freq|shares|means|roots", one.path):
                continue  # An average of the weights, which are random.
            # A root is known but for the signs of its columns.
            a, b = (v @ np.swapaxes(v, 1, 2) if "roots" in one.path else v for v in (one.numpy(), other.numpy()))
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3, err_msg=one.path)
    if process == "heat_dissipation":
        assert np.ptp(models[0].prior.means.numpy()[:, 0]) > 1.0


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 50

    def __getitem__(self, number):
        rows = slice(50 * number, 50 * number + 50)
        return self.x[rows], self.y[rows]


@pytest.mark.parametrize(
    "given, message",
    [
        ((tf.data.Dataset.from_tensors(images(8)).repeat(),), "a data set that ends"),
        ((tf.data.Dataset.from_tensor_slices(images(8)),), IMAGES + r"float32 of shape \(8, 8, 1\)"),
        ((images(8)[0],), IMAGES + r"float32 of shape \(8, 8, 1\)"),
        ((3,), "adapt takes images, or batches of them. Received: a int"),
        (("photos",), "adapt takes images, or batches of them. Received: a str"),
        (({"image": images(8)},), "adapt takes images, or batches of them. Received: a dict"),
        ((tf.data.Dataset.from_tensors({"image": images(8)}),), "a pair .images, labels.. Received: a dict of image"),
        (([images(8)], np.zeros(8, int)), "labels are given beside an array of images"),
        ((images(8), np.zeros(7, int)), LABELS + r"int64 of shape \(7,\)"),
    ],
)
def test_what_adapt_cannot_take_is_said(given, message):
    assert_refused(lambda: make(small_network(3)).adapt(*given), message)


def trained(strategy, count, batch_size=8):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = randomized(make(small_network(num_classes=3), label_dropout=0.3, clip_norm=0.5))
        model.compile(keras.optimizers.SGD(0.1))
    data = images(count), np.arange(count) % 3
    loss = model.fit(as_dataset_of(data, batch_size), shuffle=False, verbose=0).history["loss"][0]
    return model, loss, model.evaluate(as_dataset_of(data, batch_size), verbose=0)


def as_dataset_of(data, batch_size):
    return tf.data.Dataset.from_tensor_slices(data).batch(batch_size)


def test_a_picture_that_is_not_a_number_leaves_the_validation_loss_finite():
    model, holes = without_labels(), images(8)
    holes[3] = np.nan
    assert 0.1 < model.evaluate(holes, batch_size=4, verbose=0) < 10
    assert 0.1 < model.fit(images(8), validation_data=(holes,), verbose=0).history["val_loss"][0] < 10


@pytest.mark.parametrize("num_bad, batch_size", [(1, 1), (4, 4)])
def test_batches_of_nothing_but_broken_pictures_are_left_out_of_the_statistics(num_bad, batch_size):
    model, other = (make(prediction="preconditioned") for _ in range(2))
    model.compile(keras.optimizers.SGD(1e-3))
    holes = images(8)
    holes[:num_bad] = np.nan
    dataset = tf.data.Dataset.from_tensor_slices(holes).batch(batch_size)
    assert np.isfinite(model.fit(dataset, verbose=0).history["loss"][0])
    other.adapt(holes[num_bad:])
    np.testing.assert_allclose(model.freq_std, other.freq_std, atol=1e-5)


@pytest.mark.parametrize("given", [images(8)[:0], np.full((8, 8, 8, 1), np.nan, "float32")], ids=["none", "all broken"])
def test_statistics_of_nothing_are_refused(given):
    model = make(prediction="preconditioned")
    model.compile(keras.optimizers.SGD(1e-3))
    assert_refused(
        lambda: model.fit(given, verbose=0), "DCT statistics need at least one image whose pixels are numbers"
    )


@pytest.mark.parametrize("name, weights", [("sample_weight", np.zeros(8)), ("class_weight", {0: 1.0})])
def test_weights_of_samples_and_classes_are_refused(name, weights):
    assert_refused(lambda: without_labels().fit(images(8), **{name: weights}), f"{name} is not supported")


@pytest.mark.parametrize(
    "count, batch_size",
    [(17, 8), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(14, 9), (9, 3), (1, 8)])],
)
def test_last_batches_of_any_size_are_what_one_device_gives(count, batch_size, two_replicas):
    one, two = (trained(strategy, count, batch_size) for strategy in (tf.distribute.get_strategy(), two_replicas))
    for ours, theirs in zip(one[0].weights, two[0].weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=ours.path)
    np.testing.assert_allclose(one[1:], two[1:], rtol=1e-5)


def test_accumulated_gradients_are_refused_on_two_replicas(two_replicas):
    with two_replicas.scope():
        model = make()
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    assert_refused(lambda: model.fit(images(8), verbose=0), "gradient_accumulation_steps must be None on 2 devices")


def test_several_steps_at_once_are_refused_on_two_replicas(two_replicas):
    with two_replicas.scope():
        model = make()
        model.compile(keras.optimizers.SGD(0.1), steps_per_execution=2)
    assert_refused(lambda: model.fit(images(8), verbose=0), "steps_per_execution must be 1 on 2 devices")
