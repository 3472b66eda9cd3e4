import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support.models import PROCESSES, images, make, randomized, small_network
from tf_blurdiff.diffusion.likelihood import bits_per_dimension
from tf_blurdiff.diffusion.predictions import Estimate
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.training_state import frozen_places


def test_much_blur_is_warned_of():
    with pytest.warns(UserWarning, match="reaches 20 pixels in an image 8 wide"):
        bd.DiffusionModel(small_network(), bd.process.blurring(), image_shape=(8, 8, 1))


@pytest.mark.parametrize(
    "process, prediction",
    [
        ("blurring", "preconditioned"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in [("blurring", "eps"), ("heat_dissipation", "less_blurred")]
        ),
    ],
)
def test_the_averaged_copy_samples_alike_from_a_smaller_file(process, prediction, tmp_path):
    model = randomized(make(process=process, prediction=prediction))
    model.averaged().save(tmp_path / "averaged.keras")
    copy = bd.load_model(tmp_path / "averaged.keras")
    np.testing.assert_array_equal(copy.sample([3, 4], num_steps=6), model.sample([3, 4], num_steps=6))
    assert len(copy.variables) == len(model.variables) - len(model.averages) - 1  # Their age.


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
        (
            lambda m: make(process="cold", prediction="preconditioned"),
            "prediction 'preconditioned' needs a process with noise; with this .* must be one of x0, less_blurred",
        ),
        (lambda m: make(loss_exponent=0.5), "loss_exponent is for the prediction preconditioned; with eps it must"),
        (lambda m: make(prediction="preconditioned", loss_exponent=-1.0), "loss_exponent must be 0 or more, or None"),
        (lambda m: make(prediction="less_blurred"), "needs a process with levels"),
        (lambda m: make(sampler="cold"), "sampler 'cold' needs a process that blurs without ending in noise"),
        (lambda m: make(loss_type="huber"), "loss_type must be one of squared_error, absolute_error"),
        (lambda m: make(label_dropout=0.1), "label_dropout must be 0 for a network without labels"),
        (lambda m: make(label_dropout=1.0), r"label_dropout must be in \[0, 1\)"),
        (lambda m: make(ema_decay=2.0), r"ema_decay must be in \[0, 1\), or None. Received: 2.0"),
        (lambda m: make(clip_norm=-1.0), "clip_norm must be above 0 and finite, or None"),
        (lambda m: make(clip_norm=math.inf), "clip_norm must be above 0 and finite, or None. Received: inf"),
        (lambda m: make(ema_decay="0.9"), r"ema_decay must be in \[0, 1\), or None. Received: '0.9'"),
        (lambda m: make(label_dropout=None), r"label_dropout must be in \[0, 1\). Received: None"),
        (lambda m: make(distilled_guidance=math.inf), "distilled_guidance must be 0 or more and finite, or None"),
        (lambda m: make(seed=2.7), "seed must be an integer of 0 or more, below 2.31. Received: 2.7"),
        (
            lambda m: bd.DiffusionModel(m.network, m.process, image_shape=5),
            r"image_shape must be \(H, W, C\). Received: 5",
        ),
        (
            lambda m: bd.DiffusionModel(m.network, m.process, image_shape=(8, 8.0, 1)),
            "image_shape's sides must be an integer of 1 or more",
        ),
        (
            lambda m: bd.DiffusionModel(m.network, "blurring"),
            "process must be a Process, such as .*Received: 'blurring'",
        ),
        (lambda m: bd.DiffusionModel(lambda z: z[0], m.process), "network must be a Keras model, such as "),
        (lambda m: bd.DiffusionModel(m.network, m.process, dtype="mixed_bfloat16"), "dtype is the network's, "),
        (lambda m: named().sample([0], labels=["hat"]), "labels must be one of shoe, bag. Received: 'hat'"),
        (lambda m: bd.DiffusionModel(m.network, bd.process.blurring), "process must be a Process, such as "),
        (lambda m: make(small_network(3), class_names="abc"), "class_names must be .*3. Received: 'abc'"),
        (lambda m: make(small_network(3), class_names=5), "class_names must be .*3. Received: 5"),
        (lambda m: guided().sample([0], guidance_scale=1e39), "guidance_scale must be 0 or more, at most 1,000,000"),
        (lambda m: guided().sample([0], labels=[[1], [2, 3]]), "labels must be one array, all of whose rows"),
        (lambda m: m.sample([[1], [2, 3]]), "seeds must be one array, all of whose rows are of one length"),
        (lambda m: m.deblur(None, 1.0), "images must be floats"),
        (lambda m: m.deblur(np.zeros((0, 8, 8, 1), "float32"), 1.0), "images must be floats"),
        (lambda m: m.inpaint(5.0, 1.0), "mask must be numbers or booleans"),
        (lambda m: m.bits_per_dimension(5.0), "images must be floats"),
        (lambda m: make(num_steps=0), "num_steps must be an integer of 1 or more"),
        (lambda m: make(grid=""), "grid must be one of"),
        (lambda m: make(process="cold", grid="logsnr"), "grid logsnr needs a process that ends in noise"),
        (
            lambda m: m.adapt([np.zeros((2, 4, 8, 1), "float32")]),
            r"of shape \(B, 8, 8, 1\). Received: .*\(2, 4, 8, 1\)",
        ),
        (lambda m: m.adapt([np.full((2, 8, 8, 1), 255, "uint8")]), r"floats in \[-1, 1\].*uint8"),
        (lambda m: m.adapt([np.full((2, 8, 8, 1), 255.0)]), r"floats in \[-1, 1\].*in \[255, 255\]"),
        (lambda m: m.bits_per_dimension(np.zeros((2, 4, 8, 1), "float32")), r"of shape \(B, 8, 8, 1\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


def named():
    return make(small_network(2), class_names=["shoe", "bag"])


def test_labels_may_be_names_and_one_for_all():
    model = randomized(named())
    expected = model.sample([0, 1, 2], labels=[1, 1, 1])
    for labels in (["bag", 1, "bag"], "bag", 1):
        np.testing.assert_array_equal(model.sample([0, 1, 2], labels=labels), expected)
    assert np.abs(model.sample([0, 1, 2], labels="shoe") - expected).max() > 0


def test_data_that_are_repeated_for_ever_are_adapted_to_in_one_epoch():
    model, ones = bd.DiffusionModel(small_network(), bd.process.gaussian(), image_shape=(8, 8, 1)), images(16)
    model.compile("sgd")
    model.fit(tf.data.Dataset.from_tensor_slices(ones).batch(8).repeat(), steps_per_epoch=2, verbose=0)
    expected = bd.DiffusionModel(small_network(), bd.process.gaussian(), image_shape=(8, 8, 1))
    expected.adapt(ones)
    np.testing.assert_allclose(model.freq_std, expected.freq_std, rtol=1e-5)


@pytest.mark.parametrize("expand_nested", [False, True])
def test_a_summary_names_the_networks_layers(expand_nested):
    lines = []
    model = make(bd.UNet((8, 8, 1), 8, (1, 2), 1, (4,)))
    model.summary(expand_nested=expand_nested, print_fn=lines.append)
    model.network.summary(print_fn=lines.append)
    assert "group_norm" in "".join(lines)


def guided():
    return make(small_network(3), label_dropout=0.1)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_weights_that_are_not_float32_are_refused(dtype):
    z, t = keras.Input((8, 8, 1)), keras.Input(())
    network = keras.Model([z, t], keras.layers.Conv2D(1, 3, padding="same", dtype=dtype)(z))
    with pytest.raises(UserError, match=rf"weights must be float32; .*Received: conv2d\w*/kernel in {dtype}"):
        make(network)


@pytest.mark.parametrize("copied", [lambda model: model.averaged(), lambda model: model.in_precision("mixed_bfloat16")])
def test_what_is_frozen_stays_frozen_in_a_copy(copied):
    model = make(bd.UNet((8, 8, 1), 8, (1,), 1, ()))
    model.network.middle_blocks[0].trainable = False
    copy = copied(model)
    assert frozen_places(model) and frozen_places(copy) == frozen_places(model)
    assert len(copy.network.non_trainable_weights) == len(model.network.non_trainable_weights) > 0


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
    arguments = {"prediction": "v", "ema_decay": 0.5, "clip_norm": None}
    arguments |= {"sampler": "ancestral", "num_steps": 7, "grid": "quadratic", "seed": 3, "loss_type": "absolute_error"}
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(make(**arguments)))
    assert {name: getattr(copy, name) for name in arguments} == arguments
    weighted = make(prediction="preconditioned", loss_exponent=0.25)
    assert type(weighted).from_config(weighted.get_config()).loss_exponent == 0.25


def test_numbers_of_numpy_are_as_good_as_those_of_python(tmp_path):
    given = {"num_steps": np.int64(3), "seed": np.int32(4), "clip_norm": np.float32(1.0), "num_classes": np.int64(10)}
    model = make(small_network(num_classes=10), **given)
    model.save(tmp_path / "model.keras")
    assert bd.load_model(tmp_path / "model.keras").fingerprint() == model.fingerprint()


def test_a_config_with_arguments_of_earlier_versions_is_accepted():
    model = make()
    once = lambda **changed: {**model.get_config(), "assumed_error": 0.05, "clip_stds": 3.0, **changed}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(model).from_config(once()).get_config() == model.get_config()
    with pytest.warns(UserWarning, match=r"clip_stds is always 3\.0 now; this model had None"):
        type(model).from_config(once(clip_stds=None))


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
    model.freq_std.assign(1e-6 + 0.0 * model.freq_std)  # It does not matter.
    again = model.bits_per_dimension(x0, labels=[0] * 5, num_steps=20)
    np.testing.assert_allclose(again.total, bounds[0].total, rtol=1e-6)
    with pytest.raises(ValueError, match="labels must be 5 integers"):
        model.bits_per_dimension(x0, labels=[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.fit(batch for batch in [images(8)]),
        lambda model: model.evaluate(images(8), batch_size=8, verbose=0),
        lambda model: model.train_on_batch(images(8)),
        lambda model: model.train_step(images(8)),
    ],
)
def test_preconditioned_learns_in_units_of_the_statistics(call):
    model = make(prediction="preconditioned")
    model.compile("sgd")
    with pytest.raises(UserError, match=r"'preconditioned' is in units of the data's statistics.*: call adapt with"):
        call(model)


@pytest.mark.parametrize("process", [pytest.param("gaussian", marks=pytest.mark.slow), "blurring"])
def test_preconditioned_without_statistics_is_eps(process):
    """Of data that may be anything: its network's output is minus eps."""
    model, of_eps = (make(process=process, prediction=name, num_steps=4) for name in ("preconditioned", "eps"))
    rng = np.random.default_rng(0)
    for weight, other in zip(model.averages, of_eps.averages):
        weight.assign(0.1 * rng.normal(size=weight.shape))
        other.assign(weight)
    for last in (-1, -2):  # The last layer, kernel and bias.
        of_eps.averages[last].assign(-1.0 * of_eps.averages[last])
    np.testing.assert_allclose(model.sample(range(4)), of_eps.sample(range(4)), atol=1e-4)


@pytest.mark.parametrize("num_classes", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_fit_gathers_the_statistics_that_are_missing(num_classes):
    pictures, labels = images(16), None if num_classes is None else np.arange(16) % 3
    models = [make(small_network(num_classes), prediction="preconditioned", seed=1) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    models[1].adapt(pictures, labels)
    for model in models:
        model.compile("sgd")
        model.fit(pictures, labels, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(*(model.get_weights() for model in models)):
        np.testing.assert_array_equal(one, other)


def test_fit_gathers_statistics_of_pictures_that_are_numbers():
    broken = images(16)
    broken[3, 2] = np.nan
    model, whole = make(prediction="preconditioned"), make(prediction="preconditioned")
    model.compile("sgd")
    model.fit(tf.data.Dataset.from_tensor_slices(broken).batch(4), verbose=0)
    whole.adapt(np.delete(broken, 3, axis=0))
    np.testing.assert_allclose(model.freq_std, whole.freq_std, rtol=1e-5)
    assert int(model.step_guard.skipped_steps.value) == 1


def test_preconditioned_statistics_stay(tmp_path):
    model = make(prediction="preconditioned", process="heat_dissipation")
    model.compile("sgd")
    model.adapt([images()])
    model.fit(images(8), batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    for each in (model, model.averaged(), bd.load_model(tmp_path / "model.keras")):
        with pytest.raises(UserError, match=r"units of the statistics that the model has already: .* make a new model"):
            each.adapt([images(seed=1)])
        np.testing.assert_array_equal(each.freq_std, model.freq_std)
        np.testing.assert_array_equal(each.sample([1], num_steps=3), model.sample([1], num_steps=3))


def smooth_images(rng, count):
    """Gaussian in each coefficient, and almost all pixels in [-1, 1]."""
    std = 0.05 + 1.0 / (1.0 + bd.laplacian_eigenvalues(8, 8))[:, :, None]
    return np.clip(bd.idct2((std * rng.normal(size=(count, 8, 8, 1))).astype("float32")), -1.0, 1.0)


def silent(process, data):
    """A preconditioned model whose network says 0: the exact denoiser of Gaussian data with these statistics."""
    model = make(process=process, prediction="preconditioned")
    model.adapt([data])
    for average in model.ema_weights:
        average.assign(0.0 * average)
    return model


@pytest.mark.parametrize(
    "process, sampler",
    [
        ("blurring", "ancestral2"),
        pytest.param("gaussian", "multistep3", marks=pytest.mark.slow),
        pytest.param("gaussian", "ancestral2", marks=pytest.mark.slow),
        pytest.param("blurring", "multistep3", marks=pytest.mark.slow),
    ],
)
def test_a_preconditioned_network_that_says_nothing_samples_gaussian_data(rng, process, sampler):
    model = silent(process, smooth_images(rng, 2000))
    model.denoiser = model.denoiser.unguarded()
    samples = model.sample(range(2000), sampler=sampler, num_steps=40, return_trajectory=True)[-1]
    freq = bd.dct2(samples).numpy()
    mean, std = np.asarray(model.freq_mean), np.asarray(model.freq_std)
    # Five standard deviations of the estimates, and what 40 steps get wrong.
    np.testing.assert_allclose(freq.std(axis=0) / std, 1.0, atol=5 / np.sqrt(4000) + 0.02)
    np.testing.assert_allclose((freq.mean(axis=0) - mean) / std, 0.0, atol=5 / np.sqrt(2000) + 0.02)


@pytest.mark.parametrize("process", [pytest.param("gaussian", marks=pytest.mark.slow), "blurring"])
def test_the_bits_of_a_preconditioned_network_that_says_nothing(rng, process):
    data = smooth_images(rng, 500)
    model = silent(process, data)
    mean, std = np.asarray(model.freq_mean), np.asarray(model.freq_std)

    def exact(z_freq, t, at_t, at_s, labels):
        alpha, sigma = at_t.alpha, at_t.sigma
        weight = alpha * std**2 / ((alpha * std) ** 2 + sigma**2)
        return Estimate(mean + weight * (z_freq - alpha * mean), None, None)

    x0 = (np.round((data[:8] + 1) * 127.5) / 127.5 - 1).astype("float32")
    expected = bits_per_dimension(x0, model.process, exact, num_steps=50, conditions=(np.zeros(8, np.int64),))
    np.testing.assert_allclose(model.bits_per_dimension(x0, num_steps=50).total, expected.total, rtol=1e-4)


def test_a_preconditioned_model_restores_as_one_of_x0_with_the_same_estimates(rng):
    data = smooth_images(rng, 500)
    model, of_x0 = silent("blurring", data), make(prediction="x0")
    of_x0.adapt([data])
    mean, std = np.asarray(model.freq_mean), np.asarray(model.freq_std)

    def exact_x0(inputs):
        z_freq, (alpha, sigma) = bd.dct2(inputs[0]), of_x0.process.alpha_sigma(inputs[1], 8, 8)
        return bd.idct2(mean + alpha * std**2 / ((alpha * std) ** 2 + sigma**2) * (z_freq - alpha * mean))

    of_x0.ema_call = exact_x0
    sigma = np.full(4, 0.6, "float32")
    blurred = np.asarray(bd.layers.HeatBlur()([data[:4], sigma]))
    restored = model.deblur(blurred, sigma, num_steps=20)
    np.testing.assert_allclose(restored, of_x0.deblur(blurred, sigma, num_steps=20), atol=1e-3)
    assert np.abs(np.asarray(bd.layers.HeatBlur()([restored, sigma])) - blurred).max() < 3 * 2 / 255
