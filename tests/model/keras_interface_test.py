"""The model as a Keras model: compiled and loaded, any optimizer, any of Keras's settings; or refused in words."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support.models import PROCESSES, images, make, randomized, small_network
from tf_blurdiff.errors import UserError

RATE = 1e-3
OPTIMIZERS = {
    name: getattr(keras.optimizers, name)
    for name in sorted(vars(keras.optimizers))
    if isinstance(getattr(keras.optimizers, name), type)
    and issubclass(getattr(keras.optimizers, name), keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
}


def unet(num_classes=None, **kwargs):
    sizes = {"image_shape": (8, 8, 1), "channels": 8, "multipliers": (1,), "num_res_blocks": 1, "dropout": 0.0}
    return bd.UNet(**sizes, num_classes=num_classes, **kwargs)


def fitted(model, **kwargs):
    model.fit(images(16), batch_size=8, shuffle=False, verbose=0, **kwargs)
    return [np.asarray(variable) for variable in [*model.weights, *model.optimizer.variables]]


def compiled(optimizer=None, network=None, **kwargs):
    keras.utils.set_random_seed(0)
    model = make(network, **kwargs)
    model.compile(keras.optimizers.Adam(RATE) if optimizer is None else optimizer)
    return model


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def saved(model, path):
    model.save(path)
    return keras.models.load_model(path)


COPIES = {
    "saved": lambda model, path: saved(model, path / "model.keras"),
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize(
    "copied", [pytest.param(COPIES[name], id=name, marks=[pytest.mark.slow] * (name != "saved")) for name in COPIES]
)
def test_training_goes_on_with_the_optimizers_state(copied, tmp_path):
    model = compiled()
    fitted(model)
    other = copied(model, tmp_path)
    assert other.compiled and other.evaluate(images(8), verbose=0) == model.evaluate(images(8), verbose=0)
    assert_same(fitted(other), fitted(model))


def test_a_model_is_loaded_without_its_optimizer(tmp_path):
    model = compiled()
    fitted(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert not loaded.compiled and not hasattr(loaded, "optimizer")
    loaded.compile("sgd", jit_compile=False)
    fitted(loaded)


def test_how_it_was_compiled_is_loaded(tmp_path):
    model = make()
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    model.compile(bd.optimizers.Adam(schedule, beta_2=0.9), jit_compile=False, steps_per_execution=2, run_eagerly=False)
    loaded = saved(model, tmp_path / "model.keras")
    assert type(loaded.optimizer) is bd.optimizers.Adam and loaded.optimizer.beta_2 == 0.9
    assert loaded.steps_per_execution == 2 and loaded.get_compile_config()["jit_compile"] == "off"
    assert loaded.optimizer.get_config() == model.optimizer.get_config()


@pytest.mark.slow
def test_what_was_frozen_in_training_is_loaded_frozen(tmp_path, recwarn):
    """Also layers within layers, of which Keras saves nothing."""
    model = compiled(network=unet())
    model.network.middle_blocks[0].trainable = False
    fitted(model)
    loaded = saved(model, tmp_path / "model.keras")
    assert not [each for each in recwarn if "optimizer" in str(each.message)]
    frozen = [weight.trainable for weight in loaded.network.weights]
    assert frozen == [weight.trainable for weight in model.network.weights] and set(frozen) == {True, False}
    assert_same(fitted(loaded), fitted(model))
    loaded.network.middle_blocks[0].trainable = True
    assert loaded.network.middle_blocks[0].conv_in.kernel.trainable


def test_weights_that_are_frozen_no_longer_want_another_optimizer():
    model = make()
    model.network.layers[-1].trainable = False
    model.compile("sgd")
    fitted(model)
    model.network.layers[-1].trainable = True
    with pytest.raises(UserError, match="frozen no longer: compile it again"):
        fitted(model)


def test_nothing_to_train_is_said(tmp_path):
    model = compiled()
    model.trainable = False
    with pytest.raises(UserError, match="every weight of the network is frozen: there is nothing to train"):
        fitted(model)
    assert saved(model, tmp_path / "model.keras").compiled


# The most unlike the others: it has other weights to evaluate with than to train.
UNLIKE = "ScheduleFreeAdamW"


@pytest.mark.parametrize(
    "make_optimizer",
    [
        pytest.param(make_optimizer, id=name, marks=[] if name == UNLIKE else pytest.mark.slow)
        for name, make_optimizer in OPTIMIZERS.items()
    ],
)
def test_every_optimizer_of_keras_makes_steps(make_optimizer, tmp_path):
    model = compiled(make_optimizer(RATE))
    before = [np.asarray(weight) for weight in model.network.weights]
    fitted(model)
    assert max(np.abs(w - b).max() for w, b in zip(model.network.weights, before)) > 0
    assert int(model.weight_averages.age.value) == 2 == int(model.optimizer.iterations)
    assert_same(fitted(saved(model, tmp_path / "model.keras")), fitted(model))


def multi_optimizer(**kwargs):
    by_path = {".*kernel": keras.optimizers.SGD(RATE, momentum=0.9, **kwargs)}
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Adam(RATE, **kwargs), by_path)
    )


@pytest.mark.slow
def test_an_optimizer_of_several_makes_steps(tmp_path):
    model = compiled(multi_optimizer())
    fitted(model)
    assert_same(fitted(saved(model, tmp_path / "model.keras")), fitted(model))
    with pytest.raises(UserError, match="gradient_accumulation_steps must be the same in all parts"):
        map_ = keras.optimizers.OptimizerMap(
            keras.optimizers.SGD(), {".*kernel": keras.optimizers.SGD(gradient_accumulation_steps=2)}
        )
        fitted(compiled(keras.optimizers.MultiOptimizer(map_)))


@pytest.mark.parametrize("inner", ["plain", pytest.param("several", marks=pytest.mark.slow)])
def test_accumulated_gradients_are_one_update(inner):
    """Of the mean of the batches' gradients; the averages follow then, and age then."""
    if inner == "plain":
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    else:
        optimizer = multi_optimizer(gradient_accumulation_steps=2)
    model, start = compiled(optimizer, clip_norm=None, ema_decay=0.5), compiled(clip_norm=None, ema_decay=0.5)
    batches = np.split(images(32), 4)
    model.train_on_batch(batches[0])
    assert_same(model.network.weights, start.network.weights)
    assert_same(model.averages, start.averages)
    assert int(model.weight_averages.age.value) == 0
    model.train_on_batch(batches[1])
    assert int(model.weight_averages.age.value) == 1
    assert max(np.abs(a - b).max() for a, b in zip(model.averages, start.averages)) > 0
    if inner == "plain":
        # Each gradient alone, from where the other started too.
        moved = []
        for number, batch in enumerate(batches[:2]):
            alone = compiled(keras.optimizers.SGD(0.1), clip_norm=None)
            alone.optimizer.iterations.assign(number)
            alone.train_on_batch(batch)
            moved.append([w - s for w, s in zip(alone.network.weights, start.network.weights)])
        for weight, began, one, two in zip(model.network.weights, start.network.weights, *moved, strict=True):
            np.testing.assert_allclose(weight - began, (one + two) / 2, atol=1e-6)


def test_a_batch_that_is_skipped_is_none_of_the_accumulated():
    model = compiled(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    before = [np.asarray(weight) for weight in model.network.weights]
    bad = np.full((8, 8, 8, 1), np.nan, "float32")
    for batch in (images(8), bad, bad):
        model.train_on_batch(batch)
    assert_same(model.network.weights, before)
    model.train_on_batch(images(8, seed=1))
    assert max(np.abs(w - b).max() for w, b in zip(model.network.weights, before)) > 0
    assert int(model.step_guard.skipped_steps.value) == 2 and int(model.optimizer.iterations) == 1


RARELY = [pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "float64", "mixed_bfloat16")]


@pytest.fixture(params=["channels_first", *RARELY])
def keras_settings(request):
    """One of Keras's global settings at a time."""
    data_format, floatx = keras.config.image_data_format(), keras.config.floatx()
    if request.param == "channels_first":
        keras.config.set_image_data_format(request.param)
    elif request.param.startswith("float"):
        keras.config.set_floatx(request.param)
        keras.config.set_dtype_policy(request.param)
    else:
        keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_image_data_format(data_format)
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)


@pytest.fixture
def shipped_images():
    return bd.load_pretrained("digits").sample([0], num_steps=2)


def test_a_shipped_model_draws_its_images_whatever_keras_is_set_to(shipped_images, keras_settings):
    np.testing.assert_array_equal(bd.load_pretrained("digits").sample([0], num_steps=2), shipped_images)


@pytest.mark.parametrize("process", ["blurring", "heat_dissipation"])
@pytest.mark.slow
def test_a_new_model_trains_whatever_keras_is_set_to(process, keras_settings):
    model = bd.DiffusionModel(unet(2), PROCESSES[process], ema_decay=0.9)
    assert model.network.variable_dtype == "float32"
    assert model.network.compute_dtype == ("bfloat16" if keras_settings == "mixed_bfloat16" else "float32")
    model.adapt(images(), np.arange(64) % 2)
    model.compile(bd.optimizers.Adam(1e-3))
    history = model.fit(images(16), np.arange(16) % 2, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"][0])
    drawn = model.sample([0, 1], labels=[0, 1], num_steps=6)
    assert drawn.dtype == np.float32 and np.isfinite(drawn).all()
    assert all(weight.dtype in ("float32", "int64") for weight in model.weights)


CANNOT = {
    "export": (lambda m, path: m.export(path), "call tf_blurdiff.export_savedmodel"),
    "h5": (lambda m, path: m.save(path / "m.h5"), r"saved as a .keras file: save\('model.keras'\). Received: .*m.h5"),
    "hdf5": (lambda m, path: m.save(path / "m.hdf5"), r"saved as a .keras file"),
    "saved_model": (lambda m, path: tf.saved_model.save(m, str(path)), "call tf_blurdiff.export_savedmodel"),
    "archive": (lambda m, path: archived(m, path), "call tf_blurdiff.export_savedmodel"),
    "quantize": (lambda m, path: m.quantize("int8"), "cannot be quantized; in_precision"),
    "images": (lambda m, path: m(images(2)), r"called with \[z, t\]: .* call sample\(seeds\). .*one tensor of shape"),
    "three": (lambda m, path: m([images(2)] * 3), r"called with \[z, t\].*Received: a list of 3"),
    "predict": (lambda m, path: m.predict(images(4), verbose=0), r"called with \[z, t\]"),
    "predicted data set": (lambda m, path: m.predict(dataset(), verbose=0), r"called with \[z, t\]"),
    "sample in a graph": (
        lambda m, path: tf.function(lambda: m.sample([0]), autograph=False)(),
        "which a tf.function cannot do",
    ),
    "seeds of a graph": (
        lambda m, path: tf.function(m.sample, autograph=False)(tf.constant([0])),
        "export_savedmodel makes a graph",
    ),
    "deblur in a graph": (
        lambda m, path: tf.function(lambda x: m.deblur(x, 1.0), autograph=False)(tf.constant(images(2))),
        "which a tf.function cannot do",
    ),
}


def dataset():
    return tf.data.Dataset.from_tensor_slices((images(8), images(8))).batch(4)


def archived(model, path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("draw", lambda seeds: seeds, [tf.TensorSpec([None], tf.int64)])
    archive.write_out(str(path / "archive"), verbose=False)


@pytest.mark.parametrize("call, message", CANNOT.values(), ids=CANNOT)
def test_what_it_cannot_do_is_said_in_one_line(call, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        call(randomized(make()), tmp_path)
    assert "\n" not in str(caught.value)


def test_it_is_called_with_what_its_network_takes():
    model, inputs = make(small_network(3)), [images(4), np.full(4, 0.5, "float32"), np.arange(4) % 3]
    assert model(inputs).shape == model.predict(inputs, verbose=0).shape == (4, 8, 8, 1)
    with pytest.raises(UserError, match=r"called with \[z, t, label\]: noisy images, their times and labels"):
        model(inputs[:2])


@pytest.mark.parametrize(
    "given, received",
    [
        ([images(4), images(4)], r"a list of 2, of shapes \(4, 8, 8, 1\), \(4, 8, 8, 1\)"),
        ([images(4)[0], images(4)[1]], r"a list of 2, of shapes \(8, 8, 1\), \(8, 8, 1\)"),
        ((images(4), np.arange(4)), r"a tuple of 2, of shapes \(4, 8, 8, 1\), \(4,\) and integers for times"),
        (None, "a NoneType"),
        (3, "an? int"),
        (images(4), r"one tensor of shape \(4, 8, 8, 1\)"),
    ],
)
def test_what_it_is_not_called_with_is_named(given, received):
    with pytest.raises(UserError, match=rf"called with \[z, t\]: .* Received: {received}$"):
        make()(given)


def with_an_embedding(rows):
    z, t, label = keras.Input((8, 8, 1)), keras.Input(()), keras.Input((), dtype="int64")
    shift = keras.layers.Reshape((1, 1, 1))(keras.layers.Embedding(rows, 1)(label))
    return keras.Model([z, t, label], z + shift + keras.layers.Reshape((1, 1, 1))(t))


@pytest.mark.parametrize(
    "rows, label_dropout, known", [(2, 0.0, "0 to 2, and"), (3, 0.1, "0 to 3 .the last means none")]
)
def test_a_network_must_know_all_labels(rows, label_dropout, known):
    labelled = lambda rows: make(with_an_embedding(rows), num_classes=3, label_dropout=label_dropout)
    with pytest.raises(UserError, match=f"cannot be called with .*: it must know the labels {known}") as caught:
        labelled(rows)
    assert "\n" not in str(caught.value)
    labelled(rows + 1)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, True, "10"])
def test_a_number_of_labels_is_one(num_classes):
    with pytest.raises(UserError, match="num_classes must be an integer of 1 or more"):
        unet(num_classes)


def test_a_number_of_labels_may_be_numpys():
    assert make(unet(np.int64(3))).num_classes == 3


def other_channels():
    z, t = keras.Input((8, 8, 1)), keras.Input(())
    return keras.Model([z, t], keras.layers.Conv2D(3, 3, padding="same")(z) + keras.layers.Reshape((1, 1, 1))(t))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: make(unet(10), num_classes=5), "num_classes must be the network's own, 10, or None. Received: 5"),
        (lambda: make(unet(), num_classes=5), "num_classes must be the network's own, None, or None. Received: 5"),
        (
            lambda: bd.DiffusionModel.from_config(make(unet(10)).get_config() | {"num_classes": 5}),
            "num_classes must be the network's own, 10, or None. Received: 5",
        ),
        (lambda: make(other_channels(), num_classes=2.5), "num_classes must be an integer of 1 or more"),
        (lambda: make(other_channels()), r"output must be of the images' shape \(8, 8, 1\). .*has \(8, 8, 3\)"),
        (
            lambda: bd.DiffusionModel(unet(), bd.process.gaussian(), image_shape=(8, 8, 3)),
            r"network cannot be called with \[z, t\] for images of shape \(8, 8, 3\)",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused(build, message):
    with pytest.raises(UserError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
