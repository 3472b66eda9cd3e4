import keras
import numpy as np
import pytest

import tf_blurdiff as bd
from tests.support.models import PROCESSES, images, make, randomized, small_network


def test_much_blur_is_warned_of():
    with pytest.warns(UserWarning, match="reaches 20 pixels in an image 8 wide"):
        bd.DiffusionModel(small_network(), bd.process.blurring(), image_shape=(8, 8, 1))


@pytest.mark.parametrize("process, prediction", [("blurring", "eps"), ("heat_dissipation", "less_blurred")])
def test_the_averaged_copy_samples_alike_from_a_smaller_file(process, prediction, tmp_path):
    model = randomized(make(process=process, prediction=prediction))
    model.averaged().save(tmp_path / "averaged.keras")
    copy = bd.load_model(tmp_path / "averaged.keras")
    np.testing.assert_array_equal(copy.sample([3, 4], num_steps=6), model.sample([3, 4], num_steps=6))
    assert len(copy.variables) == len(model.variables) - len(model.ema_weights)


def test_the_averaged_copy_trains_on_without_averages():
    model = make(ema_decay=0.9).averaged()
    model.compile(keras.optimizers.SGD(0.1))
    before = [weight.numpy() for weight in model.ema_weights]
    model.fit(images(8), batch_size=8, verbose=0)
    assert any(np.abs(after - value).max() > 1e-6 for after, value in zip(model.ema_weights, before))
    assert all(average is weight for average, weight in zip(model.ema_weights, model.network.trainable_variables))


def test_sampling_uses_the_averaged_weights():
    model = randomized(make(prediction="v"))
    before = model.sample([0], num_steps=3)
    for weight in model.network.trainable_variables:
        weight.assign(weight + 1.0)
    np.testing.assert_array_equal(model.sample([0], num_steps=3), before)
    randomized(model, seed=1)
    assert np.abs(model.sample([0], num_steps=3) - before).max() > 1e-3


def test_any_keras_network_of_the_form_will_do():
    model = make(small_network())
    model.compile(keras.optimizers.Adam(1e-3))
    losses = model.fit(images(32), batch_size=8, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.sample([0, 1], num_steps=3).shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.sample([]), "seeds must be a list of at least one integer"),
        (lambda m: m.sample([0.5]), "seeds must be a list of at least one integer"),
        (lambda m: m.sample([2**64]), "seeds must be a list of at least one integer"),
        (lambda m: m.sample([0], sampler="heun"), "sampler must be one of"),
        (lambda m: m.sample([0], num_steps=0), "num_steps must be an integer of 1 or more"),
        (lambda m: m.sample([0], batch_size=-1), "batch_size must be an integer of 1 or more"),
        (lambda m: m.sample([0], labels=[1]), "has no labels"),
        (lambda m: make(prediction="x1"), "prediction must be one of"),
        (lambda m: make(sampler="heun"), "sampler must be one of"),
        (
            lambda m: make(process="cold", prediction="eps"),
            "prediction 'eps' needs a process with noise .* must be one of x0, less_blurred",
        ),
        (lambda m: make(prediction="less_blurred"), "needs a process with levels"),
        (lambda m: make(sampler="cold"), "sampler 'cold' needs a process that blurs without ending in noise"),
        (lambda m: make(loss_type="huber"), "loss_type must be one of squared_error, absolute_error"),
        (lambda m: make(label_dropout=0.1), "label_dropout must be 0 for a network without labels"),
        (lambda m: make(label_dropout=1.0), r"label_dropout must be in \[0, 1\)"),
        (lambda m: make(ema_decay=2.0), r"ema_decay must be in \[0, 1\), or None. Received: 2.0"),
        (lambda m: make(clip_stds=0.0), "clip_stds must be above 0, or None"),
        (lambda m: make(clip_norm=-1.0), "clip_norm must be above 0, or None"),
        (lambda m: make(assumed_error=-1.0), "assumed_error must be 0 or more"),
        (lambda m: make(num_steps=0), "num_steps must be an integer of 1 or more"),
        (lambda m: make(grid=""), "grid must be one of"),
        (lambda m: make(process="cold", grid="logsnr"), "grid logsnr needs a process that ends in noise"),
        (
            lambda m: m.adapt([np.zeros((2, 4, 8, 1), "float32")]),
            r"of shape \(B, 8, 8, 1\). Received: .*\(2, 4, 8, 1\)",
        ),
        (lambda m: m.adapt([np.full((2, 8, 8, 1), 255, "uint8")]), r"floats in \[-1, 1\].*uint8"),
        (lambda m: m.adapt([np.full((2, 8, 8, 1), 255.0)]), r"floats in \[-1, 1\].*in \[255, 255\]"),
        (lambda m: m.bits_per_dimension(np.zeros((2, 4, 8, 1), "float32")), r"of shape \(2, 8, 8, 1\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_alone_makes_a_model(process):
    model = make(process=process)
    assert (model.prediction, model.loss_type, model.sampler, model.num_steps) == {
        "cold": ("x0", "absolute_error", "cold", 50),
        "heat_dissipation": ("less_blurred", "squared_error", "heat", 6),
    }.get(process, ("eps", "squared_error", "ancestral2", 20))
    assert model.get_config()["prediction"] == model.prediction


def test_validation_does_not_see_the_raw_weights():
    model = randomized(make())
    model.compile("sgd")
    before = model.evaluate(images(16), batch_size=8, verbose=0)
    for weight in model.network.trainable_variables:
        weight.assign(weight + 1.0)
    assert model.evaluate(images(16), batch_size=8, verbose=0) == before


def test_a_copy_from_the_config_has_every_argument():
    arguments = {"prediction": "v", "ema_decay": 0.5, "clip_norm": None, "clip_stds": 2.0, "assumed_error": 0.2}
    arguments |= {"sampler": "ancestral", "num_steps": 7, "grid": "quadratic", "seed": 3, "loss_type": "absolute_error"}
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(make(**arguments)))
    assert {name: getattr(copy, name) for name in arguments} == arguments


@pytest.mark.parametrize("form", ["half precision", "plain call"])
def test_networks_of_other_forms_train_and_sample(form):
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = keras.layers.Conv2D(1, 3, padding="same")
            self.idle = self.add_weight(name="idle", shape=(3,))

        def call(self, inputs):
            return self.conv(inputs[0])

    keras.config.set_dtype_policy("mixed_bfloat16" if form == "half precision" else "float32")
    try:
        model = make(small_network() if form == "half precision" else Plain())
    finally:
        keras.config.set_dtype_policy("float32")
    model.adapt([images()])
    model.compile(keras.optimizers.Adam(1e-3))
    assert np.isfinite(model.fit(images(16), batch_size=8, verbose=0).history["loss"][0])
    images_drawn = model.sample([0, 1], num_steps=np.int64(3))
    assert images_drawn.dtype == np.float32 and np.isfinite(images_drawn).all()


def test_bits_per_dimension_are_those_of_the_averaged_weights(rng):
    model = randomized(make(small_network(num_classes=3), prediction="v", label_dropout=0.1))
    x0 = (np.round((images(5) + 1) * 127.5) / 127.5 - 1).astype("float32")
    bounds = [model.bits_per_dimension(x0, labels=labels, num_steps=20) for labels in ([0] * 5, [1] * 5, None)]
    for bound in bounds:
        assert np.isfinite(bound.total).all() and (bound.diffusion > 0).all()
    assert np.abs(bounds[0].diffusion - bounds[1].diffusion).max() > 1e-4
    for weight in model.network.trainable_variables:
        weight.assign(weight + 1.0)
    model.clip_stds, model.assumed_error = 0.1, 9.0  # Neither matters.
    again = model.bits_per_dimension(x0, labels=[0] * 5, num_steps=20)
    np.testing.assert_allclose(again.total, bounds[0].total, rtol=1e-6)
    with pytest.raises(ValueError, match="labels must be 5 integers"):
        model.bits_per_dimension(x0, labels=[0])
