"""Averages belong to weights: whatever is frozen, in files, and in a model that is trained further."""

import warnings

import keras
import numpy as np
import pytest

import tf_blurdiff as bd
from tests.support.models import images, make, randomized, small_network
from tf_blurdiff.model.averages import Averages, learnable, places


def unet(num_classes=None):
    return bd.UNet(
        image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, dropout=0.0, num_classes=num_classes
    )


def normalised_network():
    """With statistics, which are no weights that training changes."""
    z, t = keras.Input((8, 8, 1)), keras.Input(())
    hidden = keras.layers.Conv2D(4, 3, padding="same")(z) + keras.layers.Reshape((1, 1, 1))(t)
    hidden = keras.layers.BatchNormalization(momentum=0.5)(hidden)
    return keras.Model([z, t], keras.layers.Conv2D(1, 3, padding="same")(hidden))


def drawn(model):
    return model.sample([0, 1], num_steps=3, labels=None if model.num_classes is None else [0, 1])


def saved_and_loaded(model, tmp_path, **kwargs):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras", **kwargs)


def layer_of(model):
    """One that has weights."""
    return next(layer for layer in model.network.layers if layer.weights)


FREEZING = {
    "network": lambda model: setattr(model.network, "trainable", False),
    "model": lambda model: setattr(model, "trainable", False),
    "one layer": lambda model: setattr(layer_of(model), "trainable", False),
    "all but the last": lambda model: [setattr(layer, "trainable", False) for layer in model.network.layers[:-1]],
    "in an outer model": lambda model: setattr(keras.Sequential([model]), "trainable", False),
}


RARELY = ("model", "one layer", "in an outer model")


@pytest.mark.parametrize(
    "freeze",
    [
        pytest.param(freeze, id=name, marks=pytest.mark.slow if name in RARELY else [])
        for name, freeze in FREEZING.items()
    ],
)
def test_a_frozen_model_samples_saves_and_loads(freeze, tmp_path):
    model = randomized(make())
    before = drawn(model)
    freeze(model)
    np.testing.assert_array_equal(drawn(model), before)
    loaded = saved_and_loaded(model, tmp_path)
    np.testing.assert_array_equal(drawn(loaded), before)
    np.testing.assert_array_equal(drawn(model.averaged()), before)
    assert [w.trainable for w in learnable(loaded.network)] == [w.trainable for w in learnable(model.network)]


@pytest.mark.slow
def test_a_frozen_unet_is_loaded_and_exported(tmp_path):
    """Of a network whose layers' names and freezing Keras does not save."""
    model = randomized(make(unet()))
    model.network.middle_blocks[0].trainable = False
    loaded = saved_and_loaded(model, tmp_path)
    np.testing.assert_array_equal(drawn(loaded), drawn(model))
    loaded.trainable = False
    assert bd.export_savedmodel(loaded, tmp_path / "served", num_steps=2).name == "1"


def test_what_was_frozen_learns_after_loading(tmp_path):
    model = make(ema_decay=0.5)
    model.network.trainable = False
    loaded = saved_and_loaded(model, tmp_path)
    loaded.network.trainable = True
    loaded.compile(keras.optimizers.SGD(0.1))
    before = [np.asarray(average) for average in loaded.averages]
    loaded.fit(images(16), batch_size=8, verbose=0)
    moved = [np.abs(after - value).max() for after, value in zip(loaded.averages, before, strict=True)]
    assert min(moved) > 0


def test_the_average_of_a_frozen_weight_stays():
    model = make(ema_decay=0.5)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(images(16), batch_size=8, verbose=0)
    layer = layer_of(model)
    frozen = {id(weight) for weight in layer.weights}
    layer.trainable = False
    before = [np.asarray(average) for average in model.averages]
    model.fit(images(16), batch_size=8, verbose=0)  # Without compiling again.
    for weight, average, value in zip(learnable(model.network), model.averages, before, strict=True):
        assert (id(weight) in frozen) == np.array_equal(average, value)


def test_statistics_have_no_averages(tmp_path):
    model = make(normalised_network(), ema_decay=0.5)
    model.adapt(images())
    assert len(model.averages) == len(model.network.trainable_variables) == 6
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(images(16), batch_size=8, verbose=0)
    before = drawn(model)
    model.network.trainable = False
    assert len(model.averages) == 6
    np.testing.assert_array_equal(drawn(model), before)
    np.testing.assert_array_equal(drawn(saved_and_loaded(model, tmp_path)), before)


@pytest.mark.parametrize("copied", ["saved", pytest.param("cloned", marks=pytest.mark.slow)])
def test_averages_go_on_from_where_they_were(copied, tmp_path):
    """At learning rate 0 they approach the weights as slowly as before."""
    model = make()
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(images(48), batch_size=8, epochs=5, verbose=0)
    far = lambda model: np.sqrt(
        sum(np.square(a - w).sum() for a, w in zip(model.averages, learnable(model.network), strict=True))
    )
    before, age = far(model), int(model.weight_averages.age.value)
    assert age == 30
    if copied == "saved":
        model = saved_and_loaded(model, tmp_path, compile=False)
    else:
        original, model = model, keras.models.clone_model(model)
        model.set_weights(original.get_weights())
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(images(24), batch_size=8, verbose=0)
    expected = before * np.prod([(1 + step) / (10 + step) for step in (31, 32, 33)])
    np.testing.assert_allclose(far(model), expected, rtol=1e-4)
    assert int(model.weight_averages.age.value) == 33


def test_weights_of_another_number_of_labels_are_loaded_as_far_as_they_fit(tmp_path):
    model = randomized(make(unet(3), label_dropout=0.1))
    model.save(tmp_path / "three.keras")
    other = make(unet(5), label_dropout=0.1)
    with pytest.warns(UserWarning, match="total of 2 objects(.|\\n)*<Averages"):
        other.load_weights(tmp_path / "three.keras", skip_mismatch=True)
    np.testing.assert_array_equal(other.freq_std, model.freq_std)
    of = lambda model: {places(model.network)[id(w)]: w for w in learnable(model.network)}
    weights, expected = of(other), dict(zip(of(model), model.averages, strict=True))
    assert len(weights) == len(expected)
    for (path, weight), average in zip(weights.items(), other.averages, strict=True):
        is_embedding = "label_embedding" in path
        np.testing.assert_array_equal(average, weight if is_embedding else expected[path], err_msg=path)
    with pytest.raises(ValueError, match="2 objects could not be loaded"):
        other.load_weights(tmp_path / "three.keras")


@pytest.mark.slow
def test_weights_without_labels_start_a_network_with_labels(tmp_path):
    """An embedding more, in the middle of the others, moves no average to another weight."""
    model = randomized(make(unet()))
    model.save(tmp_path / "none.keras")
    other = make(unet(2))
    with pytest.warns(UserWarning, match="<Averages"):
        other.load_weights(tmp_path / "none.keras", skip_mismatch=True)
    of = lambda model: dict(
        zip([places(model.network)[id(w)] for w in learnable(model.network)], model.averages, strict=True)
    )
    for path, average in of(model).items():
        np.testing.assert_array_equal(of(other)[path], average, err_msg=path)


def test_averages_that_a_file_has_not_are_the_weights_that_it_has(tmp_path):
    model = randomized(make())
    model.averaged().save(tmp_path / "averaged.keras")
    other = make()
    other.load_weights(tmp_path / "averaged.keras")
    np.testing.assert_array_equal(drawn(other), drawn(model))
    assert int(other.weight_averages.age.value) == 0


def as_earlier_versions_saved(model, monkeypatch, path):
    """Averages among the model's own variables, numbered, without an age."""
    monkeypatch.setattr(Averages, "save_own_variables", lambda self, store: None)

    def save_own_variables(self, store):
        averages = [a for a, w in zip(self.averages, learnable(self.network)) if w.trainable]
        for number, variable in enumerate([self.freq_mean, self.freq_std, *(averages or self.averages)]):
            store[str(number)] = variable

    monkeypatch.setattr(type(model), "save_own_variables", save_own_variables, raising=False)
    model.save(path)
    monkeypatch.undo()


@pytest.mark.parametrize(
    "freeze",
    [
        pytest.param(lambda model: None, marks=pytest.mark.slow),
        pytest.param(FREEZING["network"], marks=pytest.mark.slow),
        FREEZING["one layer"],
    ],
)
def test_files_of_earlier_versions_are_loaded(freeze, monkeypatch, tmp_path):
    model = randomized(make())
    freeze(model)
    if not model.network.trainable or not layer_of(model).trainable:
        for average, weight in zip(model.averages, learnable(model.network)):
            if not weight.trainable and any(w.trainable for w in learnable(model.network)):
                average.assign(weight)  # Those had none.
    as_earlier_versions_saved(model, monkeypatch, tmp_path / "old.keras")
    loaded = keras.models.load_model(tmp_path / "old.keras")
    np.testing.assert_array_equal(drawn(loaded), drawn(model))
    age = int(loaded.weight_averages.age.value)
    assert (1 + age) / (10 + age) > 0.9999


def test_paths_are_the_same_in_any_network_of_the_same_code():
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [keras.layers.Dense(2), {"a": keras.layers.Dense(3)}]
            self.scale = self.add_weight(name="scale", shape=(3,))

        def call(self, x):
            return self.scale * self.blocks[1]["a"](self.blocks[0](x))

    def paths(network, *inputs):
        if inputs:
            network(*inputs)
        found = places(network)
        return [found[id(weight)] for weight in network.weights]

    plain = [paths(Plain(), np.zeros((1, 2))) for _ in range(2)]
    assert plain[0] == plain[1] and len(set(plain[0])) == 5
    functional = [paths(small_network(3)) for _ in range(2)]
    assert functional[0] == functional[1] and len(set(functional[0])) == 7


def test_nothing_is_said_of_a_load_that_went_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        saved_and_loaded(randomized(make()), tmp_path)
