import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tf_blurdiff.model import _draw_time_and_noise
from tf_blurdiff.stateless_random import fold, normal_by_seed, normal_rows


def unet(**kwargs):
    return bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, dropout=0.3, **kwargs)


def small_network():
    """A plain Keras model of the form that is asked for; much faster to trace than a U-Net."""
    z, t = keras.Input((8, 8, 1)), keras.Input(())
    scale = keras.layers.Dense(4)(keras.layers.Reshape((1, 1, 1))(t))
    hidden = keras.layers.Activation("silu")(keras.layers.Conv2D(4, 3, padding="same")(z) + scale)
    return keras.Model([z, t], keras.layers.Conv2D(1, 3, padding="same")(hidden))


def make(network=None, **kwargs):
    network = small_network() if network is None else network
    return bd.DiffusionModel(network, bd.process.blurring(sigma_blur_max=4.0), image_shape=(8, 8, 1), **kwargs)


def randomized(model, seed=0):
    """Gives the averaged weights random values: a fresh network would predict 0 and hide mistakes."""
    model.adapt([images()])
    rng = np.random.default_rng(seed)
    for average in model.averages:
        average.assign(0.1 * rng.normal(size=average.shape))
    return model


def images(count=64, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, size=(count, 8, 8, 1)).astype("float32")


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


def test_the_loss_is_the_formulas(rng):
    model = randomized(make(prediction="v"))
    x0, eps = images(4), rng.normal(size=(4, 8, 8, 1)).astype("float32")
    t = np.array([0.1, 0.4, 0.7, 0.95], "float32")
    losses = model.example_losses(model.averaged_call, x0, t, bd.dct2(eps))
    alpha, sigma = model.process.alpha_sigma(t, 8, 8)
    z_t = model.process.diffuse(x0, t, eps)
    target = bd.idct2(alpha * bd.dct2(eps) - sigma * bd.dct2(x0))
    expected = np.square(model.averaged_call([z_t, t]) - target).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_the_gradient_is_clipped_to_its_norm():
    model = make(clip_norm=1e-3)
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


def test_validation_reports_the_averaged_weights_loss():
    model = make()
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(images(16), batch_size=8, validation_data=(images(16),), verbose=0).history
    assert set(history) == {"loss", "val_loss"}
    np.testing.assert_allclose(model.evaluate(images(16), batch_size=8, verbose=0), history["val_loss"][0], rtol=1e-5)


@pytest.mark.parametrize("sampler, eta", [("ddim", 0.0), ("ddim", 0.5), ("ancestral", 0.0)])
def test_an_image_depends_on_its_seed_alone(sampler, eta):
    model = randomized(make())
    draw = lambda seeds, **kwargs: model.sample(seeds, num_steps=5, sampler=sampler, eta=eta, **kwargs)
    together = draw([5, -3, 2**62, 0])
    np.testing.assert_allclose(draw([0, 2**62, 5]), together[[3, 2, 0]], atol=1e-4)
    np.testing.assert_allclose(draw([5, -3, 2**62, 0], batch_size=3), together, atol=1e-4)
    np.testing.assert_allclose(draw([5, -3, 2**62, 0], verbose=True), together, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.1


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
    z_freq, x0_freq = (10 * rng.normal(size=(2, 3, 8, 8, 1))).astype("float32")
    at_t = model.process.marginal(np.full(3, 0.5), 8, 8)
    clipped, eps = model._clip(x0_freq, np.zeros_like(x0_freq), z_freq, at_t)
    low, high = freq.mean(axis=0) - 2 * freq.std(axis=0), freq.mean(axis=0) + 2 * freq.std(axis=0)
    np.testing.assert_allclose(clipped, np.clip(x0_freq, low, high), atol=1e-3)
    outside = np.asarray(clipped) != x0_freq
    np.testing.assert_allclose((at_t.alpha * clipped + at_t.sigma * eps)[outside], z_freq[outside], atol=1e-3)
    assert not np.any(np.asarray(eps)[~outside])


def test_a_model_without_statistics_does_not_clip(rng):
    model = make()
    z_freq, x0_freq, eps_freq = (1e4 * rng.normal(size=(3, 2, 8, 8, 1))).astype("float32")
    at_t = model.process.marginal(np.full(2, 0.5), 8, 8)
    clipped, eps = model._clip(x0_freq, eps_freq, z_freq, at_t)
    np.testing.assert_array_equal(clipped, x0_freq)
    np.testing.assert_array_equal(eps, eps_freq)


def test_the_trajectory_ends_in_the_image():
    model = randomized(make())
    trajectory = model.sample([1, 2], num_steps=4, return_trajectory=True)
    assert trajectory.shape == (5, 2, 8, 8, 1)
    image = model.sample([1, 2], num_steps=4)
    np.testing.assert_allclose(np.clip(trajectory[-1], -1, 1), image, atol=1e-4)
    np.testing.assert_allclose(trajectory[0], bd.idct2(model.start(tf.constant([1, 2], tf.int64))), atol=1e-5)


def test_labels_reach_the_network():
    network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, num_classes=3)
    model = make(network, prediction="v")
    model.compile(keras.optimizers.SGD(1e-3))
    model.fit(images(16), np.arange(16) % 3, batch_size=8, verbose=0)
    randomized(model)
    a, b = (model.sample([0], num_steps=3, labels=[label]) for label in (0, 1))
    assert np.abs(a - b).max() > 1e-3


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
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


@pytest.mark.parametrize("labels", [None, [3], [-1], [0.5], [0, 1]])
def test_wrong_labels_are_named(labels):
    network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, num_classes=3)
    with pytest.raises(ValueError, match="labels must be"):
        make(network).sample([0], num_steps=1, labels=labels)


def test_every_step_draws_from_a_sequence_of_its_own(monkeypatch):
    streams = []

    def recorded(seeds, stream, shape):
        streams.append(int(stream))
        return normal_by_seed(seeds, stream, shape)

    monkeypatch.setattr("tf_blurdiff.model.normal_by_seed", recorded)
    tf.config.run_functions_eagerly(True)
    try:
        make().sample([0], num_steps=4, sampler="ancestral")
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(streams) == len(set(streams)) == 5


def test_validation_does_not_see_the_raw_weights():
    model = randomized(make())
    model.compile("sgd")
    before = model.evaluate(images(16), batch_size=8, verbose=0)
    for weight in model.network.trainable_variables:
        weight.assign(weight + 1.0)
    assert model.evaluate(images(16), batch_size=8, verbose=0) == before


def test_a_copy_from_the_config_has_every_argument():
    arguments = {"prediction": "v", "ema_decay": 0.5, "clip_norm": None, "clip_stds": 2.0}
    arguments |= {"sampler": "ancestral", "num_steps": 7, "seed": 3}
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(make(**arguments)))
    assert {name: getattr(copy, name) for name in arguments} == arguments


def test_times_are_spread_over_the_batch():
    t, eps_freq = _draw_time_and_noise(tf.constant([0, 1], tf.int64), images(16))
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
