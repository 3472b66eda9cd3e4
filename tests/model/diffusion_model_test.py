import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support.models import PREDICTED, images, make, randomized, small_network
from tf_blurdiff.diffusion.stateless_random import fold, normal_rows


def unet(**kwargs):
    return bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, dropout=0.3, **kwargs)


def trained(strategy=None, steps=6, global_batch=8, network=unet, **kwargs):
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = make(network(), **kwargs)
        model.compile(keras.optimizers.Adam(1e-3))
    dataset = tf.data.Dataset.from_tensor_slices(images(steps * global_batch)).batch(global_batch, drop_remainder=True)
    history = model.fit(dataset, shuffle=False, verbose=0)
    return model, history.history["loss"][0]


def test_two_replicas_train_as_one(two_replicas):
    one, one_loss = trained(clip_norm=0.1)
    two, two_loss = trained(two_replicas, clip_norm=0.1)
    assert len(one.weights) == len(two.weights)
    for ours, theirs in zip(one.weights, two.weights):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=ours.path)
    np.testing.assert_allclose(one_loss, two_loss, rtol=1e-5)


def test_training_in_two_parts_is_training_in_one():
    whole, _ = trained()
    keras.utils.set_random_seed(0)
    parts = make(unet())
    parts.compile(keras.optimizers.Adam(1e-3))
    for part in np.split(images(48), 2):
        keras.utils.set_random_seed(99)  # Nothing may depend on Keras's own state.
        parts.fit(part, batch_size=8, shuffle=False, verbose=0)
    for ours, theirs in zip(whole.weights, parts.weights):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_the_seed_and_the_step_decide_the_draws():
    a, b, c = (trained(steps=1, seed=seed, network=small_network)[0].averages for seed in (0, 0, 1))
    difference = [max(np.abs(x - y).max() for x, y in zip(a, other)) for other in (b, c)]
    assert difference[0] == 0.0 < difference[1]


@pytest.mark.parametrize("process, prediction", PREDICTED)
@pytest.mark.parametrize("loss_type", ["squared_error", "absolute_error"])
def test_the_loss_is_the_formulas(rng, process, prediction, loss_type):
    model = randomized(make(process=process, prediction=prediction, loss_type=loss_type))
    x0, eps = images(4), rng.normal(size=(4, 8, 8, 1)).astype("float32")
    t = np.array([1, 2, 4, 6], "float32") / 6
    losses = model.example_losses(model.averaged_call, x0, t, bd.dct2(eps))
    alpha, sigma = model.process.alpha_sigma(t, 8, 8)
    z_t = model.process.diffuse(x0, t, eps)
    target = {
        "eps": lambda: eps,
        "v": lambda: bd.idct2(alpha * bd.dct2(eps) - sigma * bd.dct2(x0)),
        "x0": lambda: x0,
        "less_blurred": lambda: model.process.diffuse(x0, t - np.float32(1 / 6), 0.0 * eps) - z_t,
    }[prediction]()
    error = np.asarray(model.averaged_call([z_t, t]) - target)
    expected = (np.square(error) if loss_type == "squared_error" else np.abs(error)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_training_visits_every_level_that_sampling_does():
    """The last one, where sampling starts, included; and each goes to the level that sampling goes to."""
    model = make(process="heat_dissipation", prediction="less_blurred")
    drawn = [model._draw_time_and_noise(tf.constant([0, seed], tf.int64), images(16))[0] for seed in range(20)]
    times = model.sampling()[1][:, 0]
    np.testing.assert_allclose(np.unique(np.concatenate(drawn)), times[:-1][::-1], rtol=1e-6)
    np.testing.assert_allclose(model.process.next_level(times[:-1]), times[1:], atol=1e-6)
    assert times[0] == 1.0 and len(times) == 7


def test_labels_are_dropped_at_their_rate(monkeypatch):
    model = make(small_network(num_classes=3), label_dropout=0.25)
    label = np.arange(4000) % 3
    kept = np.asarray(model._drop_labels(tf.constant(label), tf.constant([0, 1], tf.int64)))
    assert (kept == 3).mean() == pytest.approx(0.25, abs=0.03)
    assert set(kept[kept < 3] - label[kept < 3]) == {0}
    again, other = (np.asarray(model._drop_labels(tf.constant(label), tf.constant([0, s], tf.int64))) for s in (1, 2))
    assert np.array_equal(kept, again) and not np.array_equal(kept, other)


def test_label_dropout_reaches_training(monkeypatch):
    seen = []
    model = make(small_network(num_classes=3), label_dropout=0.5)
    model.compile(keras.optimizers.SGD(0.1))
    original = model.network_inputs
    monkeypatch.setattr(model, "network_inputs", lambda z, t, label: seen.append(label) or original(z, t, label))
    model.train_step((images(64), np.arange(64) % 3))
    model.test_step((images(64), np.arange(64) % 3))
    assert 10 < (np.asarray(seen[0]) == 3).sum() < 54 and not (np.asarray(seen[1]) == 3).any()


def test_much_blur_is_warned_of():
    with pytest.warns(UserWarning, match="reaches 20 pixels in an image 8 wide"):
        bd.DiffusionModel(small_network(), bd.process.blurring(), image_shape=(8, 8, 1))


@pytest.mark.parametrize("loss_scale", [1.0, 256.0])
def test_the_gradient_is_clipped_to_its_norm(loss_scale):
    model = make(clip_norm=1e-3)
    model.step_guard.loss_scale.assign(loss_scale)
    model.compile(keras.optimizers.SGD(1.0))
    before = [weight.numpy() for weight in model.network.trainable_variables]
    model.fit(images(8), batch_size=8, verbose=0)
    moved = np.sqrt(sum(np.square(w - b).sum() for w, b in zip(model.network.trainable_variables, before)))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


def test_averages_follow_the_weights():
    model = make(ema_decay=0.9)
    model.compile(keras.optimizers.SGD(0.1))
    expected = [weight.numpy() for weight in model.network.trainable_variables]
    for step in range(1, 4):
        model.fit(images(8, seed=step), batch_size=8, verbose=0)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, model.network.trainable_variables)]
    for average, value in zip(model.averages, expected):
        np.testing.assert_allclose(average, value, atol=1e-6)


@pytest.mark.parametrize("process, prediction", [("blurring", "eps"), ("heat_dissipation", "less_blurred")])
def test_the_averaged_copy_samples_alike_from_a_smaller_file(process, prediction, tmp_path):
    model = randomized(make(process=process, prediction=prediction))
    model.averaged().save(tmp_path / "averaged.keras")
    copy = bd.load_model(tmp_path / "averaged.keras")
    np.testing.assert_array_equal(copy.sample([3, 4], num_steps=6), model.sample([3, 4], num_steps=6))
    assert len(copy.variables) == len(model.variables) - len(model.averages)


def test_the_averaged_copy_trains_on_without_averages():
    model = make(ema_decay=0.9).averaged()
    model.compile(keras.optimizers.SGD(0.1))
    before = [weight.numpy() for weight in model.averages]
    model.fit(images(8), batch_size=8, verbose=0)
    assert any(np.abs(after - value).max() > 1e-6 for after, value in zip(model.averages, before))
    assert all(average is weight for average, weight in zip(model.averages, model.network.trainable_variables))


def test_validation_reports_the_averaged_weights_loss():
    model = make()
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(images(16), batch_size=8, validation_data=(images(16),), verbose=0).history
    assert set(history) == {"loss", "val_loss"}
    np.testing.assert_allclose(model.evaluate(images(16), batch_size=8, verbose=0), history["val_loss"][0], rtol=1e-5)


def test_sampling_uses_the_averaged_weights():
    model = randomized(make(prediction="v"))
    before = model.sample([0], num_steps=3)
    for weight in model.network.trainable_variables:
        weight.assign(weight + 1.0)
    np.testing.assert_array_equal(model.sample([0], num_steps=3), before)
    randomized(model, seed=1)
    assert np.abs(model.sample([0], num_steps=3) - before).max() > 1e-3


def test_statistics_bound_x0_per_frequency(rng):
    model = make(clip_stds=2.0)
    data = images(200)
    model.adapt(np.split(data, 4))
    freq = bd.dct2(data).numpy()
    np.testing.assert_allclose(model.freq_mean, freq.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(model.freq_std, freq.std(axis=0), atol=1e-4)
    x0_freq = (10 * rng.normal(size=(3, 8, 8, 1))).astype("float32")
    low, high = freq.mean(axis=0) - 2 * freq.std(axis=0), freq.mean(axis=0) + 2 * freq.std(axis=0)
    for scale in (1.0, 0.3):
        clipped = model.shrink(x0_freq, np.float32(scale), None)
        np.testing.assert_allclose(clipped, np.clip(x0_freq, scale * low, scale * high), atol=1e-3)


def test_shrinking_is_the_best_linear_estimate(rng):
    """Of data with a known error added, no other weight has a smaller mean square error."""
    model = make(assumed_error=0.1, clip_stds=None)
    data = images(4000)
    model.adapt([data])
    freq = bd.dct2(data).numpy()
    spread = np.full((1, 8, 8, 1), 8.0, "float32")
    noisy = freq + 0.1 * 8.0 * rng.normal(size=freq.shape).astype("float32")
    error = lambda estimate: np.square(estimate - freq).mean()
    best = error(np.asarray(model.shrink(noisy, np.float32(1.0), spread)))
    for assumed_error in (0.08, 0.125):
        assert best < error(np.asarray(make(assumed_error=assumed_error, clip_stds=None).shrink(noisy, 1.0, spread)))
        model.assumed_error = assumed_error
        assert best < error(np.asarray(model.shrink(noisy, np.float32(1.0), spread)))


@pytest.mark.parametrize("shrinking, adapted", [({}, False), ({"clip_stds": None, "assumed_error": 0.0}, True)])
def test_a_model_without_bounds_or_statistics_does_not_shrink(rng, shrinking, adapted):
    model = make(**shrinking)
    if adapted:
        model.adapt([images()])
    x0_freq = (1e4 * rng.normal(size=(2, 8, 8, 1))).astype("float32")
    np.testing.assert_array_equal(model.shrink(x0_freq, np.float32(1.0), np.float32(5.0)), x0_freq)


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
            lambda m: make(process="cold"),
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


def test_times_are_spread_over_the_batch():
    t, eps_freq = make()._draw_time_and_noise(tf.constant([0, 1], tf.int64), images(16))
    assert np.min(t) >= 0.0 and np.max(t) < 1.0
    np.testing.assert_allclose(np.diff(np.sort(t)), 1 / 16, atol=1e-6)
    of_times = normal_rows(fold([0, 1], 0), (16, 8, 8, 1))
    assert not np.array_equal(eps_freq, of_times)


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_an_update_is_the_same_on_two_replicas(clip_norm, two_replicas):
    """With SGD: Adam would hide a gradient's scale."""

    def updated(strategy):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            model = make(clip_norm=clip_norm)
            model.compile(keras.optimizers.SGD(0.1))
        model.fit(tf.data.Dataset.from_tensor_slices(images(16)).batch(8), shuffle=False, verbose=0)
        return [np.asarray(weight) for weight in model.network.trainable_variables]

    one, two = (updated(strategy) for strategy in (tf.distribute.get_strategy(), two_replicas))
    for ours, theirs in zip(one, two):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_every_training_step_drops_anew(monkeypatch):
    model, calls = make(), []
    model.compile(keras.optimizers.SGD(0.1))
    original = model.call

    def call(inputs, training=False, seed=None):
        calls.append((training, *np.asarray(seed)))
        return original(inputs, training=training, seed=seed)

    monkeypatch.setattr(model, "call", call)
    for _ in range(2):
        model.train_step(images(4))
    assert [training for training, *_ in calls] == [True, True] and calls[0] != calls[1]


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
