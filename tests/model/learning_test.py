"""Learning: the loss is the formula's, and a step is the same in any number of parts and on any number of replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support.models import PREDICTED, images, make, randomized, small_network
from tf_blurdiff.diffusion.stateless_random import fold, normal_rows
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import learning
from tf_blurdiff.networks.optimizers import expect_summed_gradients


def unet(**kwargs):
    return bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, dropout=0.3, **kwargs)


def trained(strategy=None, steps=6, global_batch=8, network=unet, **kwargs):
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = make(network(), **kwargs)
        model.compile(keras.optimizers.Adam(1e-3))
    if model.prediction == "preconditioned":
        model.adapt([images()])
    dataset = tf.data.Dataset.from_tensor_slices(images(steps * global_batch)).batch(global_batch, drop_remainder=True)
    history = model.fit(dataset, shuffle=False, verbose=0)
    return model, history.history["loss"][0]


@pytest.mark.parametrize(
    "network, prediction", [pytest.param(unet, "eps", marks=pytest.mark.slow), (small_network, "preconditioned")]
)
def test_two_replicas_train_as_one(two_replicas, network, prediction):
    one, one_loss = trained(clip_norm=0.1, network=network, prediction=prediction)
    two, two_loss = trained(two_replicas, clip_norm=0.1, network=network, prediction=prediction)
    assert len(one.weights) == len(two.weights)
    for ours, theirs in zip(one.weights, two.weights):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=ours.path)
    np.testing.assert_allclose(one_loss, two_loss, rtol=1e-5)


@pytest.mark.slow
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
    a, b, c = (trained(steps=1, seed=seed, network=small_network)[0].ema_weights for seed in (0, 0, 1))
    difference = [max(np.abs(x - y).max() for x, y in zip(a, other)) for other in (b, c)]
    assert difference[0] == 0.0 < difference[1]


@pytest.mark.parametrize("process, prediction", PREDICTED)
@pytest.mark.parametrize("loss_type", ["squared_error", "absolute_error"])
def test_the_loss_is_the_formulas(rng, process, prediction, loss_type):
    model = randomized(make(process=process, prediction=prediction, loss_type=loss_type))
    x0, eps = images(4), rng.normal(size=(4, 8, 8, 1)).astype("float32")
    t = np.array([1, 2, 4, 6], "float32") / 6
    losses = learning.example_losses(model, model.ema_call, x0, t, bd.dct2(eps))
    alpha, sigma = (np.asarray(each) for each in model.process.alpha_sigma(t, 8, 8))
    mean, std = np.asarray(model.freq_mean), np.asarray(model.freq_std)
    z_t = model.process.diffuse(x0, t, eps)
    norm = np.sqrt((alpha * std) ** 2 + sigma**2)

    def wiener_error():
        wiener = mean + alpha * std**2 / norm**2 * (bd.dct2(z_t) - alpha * mean)
        return (bd.dct2(x0) - wiener) / (std * sigma / norm)

    target = {
        "eps": lambda: eps,
        "v": lambda: bd.idct2(alpha * bd.dct2(eps) - sigma * bd.dct2(x0)),
        "x0": lambda: x0,
        "less_blurred": lambda: model.process.diffuse(x0, t - np.float32(1 / 6), 0.0 * eps) - z_t,
        "preconditioned": lambda: bd.idct2(wiener_error()),
    }[prediction]()
    error = np.asarray(model.ema_call([z_t, t]) - target)
    if prediction == "preconditioned":  # Weighted with the square root of d eps / d F.
        error = np.asarray(bd.idct2(np.sqrt(alpha * std / norm) * bd.dct2(error)))
    expected = (np.square(error) if loss_type == "squared_error" else np.abs(error)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def gradient_of_loss(model, network, x0, t, eps_freq):
    """The losses, and their mean's gradient with respect to the weights."""
    with tf.GradientTape() as tape:
        losses = learning.example_losses(model, network, x0, t, eps_freq)
        loss = tf.reduce_mean(losses)
    return losses, tape.gradient(loss, model.network.trainable_variables)


@pytest.mark.parametrize("process", ["gaussian", "blurring"])
def test_an_exponent_of_1_is_the_loss_of_eps_through_the_same_network(rng, process):
    """Value and gradient, of a network whose output is first made an eps of."""
    network = small_network()
    preconditioned = make(network, process, prediction="preconditioned", loss_exponent=1.0)
    preconditioned.adapt([0.5 * images() + 0.2])
    eps = make(network, process, prediction="eps")
    mean, std = np.asarray(preconditioned.freq_mean), np.asarray(preconditioned.freq_std)

    def eps_network(inputs):
        z_freq, (alpha, sigma) = bd.dct2(inputs[0]), eps.process.alpha_sigma(inputs[1], 8, 8)
        variance = (alpha * std) ** 2 + sigma**2
        wiener = mean + alpha * std**2 / variance * (z_freq - alpha * mean)
        x0_hat = wiener + std * sigma / tf.sqrt(variance) * bd.dct2(network(inputs))
        return bd.idct2((z_freq - alpha * x0_hat) / sigma)

    x0, eps_freq = 0.5 * images(16) + 0.2, rng.normal(size=(16, 8, 8, 1)).astype("float32")
    t = tf.linspace(0.1, 1.0, 16)
    losses, gradient = gradient_of_loss(preconditioned, network, x0, t, eps_freq)
    expected_losses, expected_gradient = gradient_of_loss(eps, eps_network, x0, t, eps_freq)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4, atol=1e-8)
    for ours, theirs in zip(gradient, expected_gradient):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_training_visits_every_level_that_sampling_does():
    """The last one, where sampling starts, included; and each goes to the level that sampling goes to."""
    model = make(process="heat_dissipation", prediction="less_blurred")
    seeds = [tf.constant([0, seed], tf.int64) for seed in range(20)]
    drawn = [learning._drawn_time_and_noise(model, seed, images(16))[0] for seed in seeds]
    times = model.sampling_settings().times(model.process)[:, 0]
    np.testing.assert_allclose(np.unique(np.concatenate(drawn)), times[:-1][::-1], rtol=1e-6)
    np.testing.assert_allclose(model.process.next_level(times[:-1]), times[1:], atol=1e-6)
    assert times[0] == 1.0 and len(times) == 7


def test_labels_are_dropped_at_their_rate(monkeypatch):
    model = make(small_network(num_classes=3), label_dropout=0.25)
    label = np.arange(4000) % 3
    with_dropped = lambda seed: np.asarray(learning._with_dropped(model, tf.constant(label), [0, seed]))
    kept = with_dropped(1)
    assert (kept == 3).mean() == pytest.approx(0.25, abs=0.03)
    assert set(kept[kept < 3] - label[kept < 3]) == {0}
    again, other = with_dropped(1), with_dropped(2)
    assert np.array_equal(kept, again) and not np.array_equal(kept, other)


def test_label_dropout_reaches_training(monkeypatch):
    seen = []
    model = make(small_network(num_classes=3), label_dropout=0.5)
    model.compile(keras.optimizers.SGD(0.1))
    original = learning.example_losses
    record = lambda *given: seen.append(given[-1]) or original(*given)
    monkeypatch.setattr(learning, "example_losses", record)
    model.train_step((images(64), np.arange(64) % 3))
    model.test_step((images(64), np.arange(64) % 3))
    assert 10 < (np.asarray(seen[0]) == 3).sum() < 54 and not (np.asarray(seen[1]) == 3).any()


@pytest.mark.parametrize("loss_scale", [1.0, 256.0])
def test_the_gradient_is_clipped_to_its_norm(loss_scale):
    model = make(clip_norm=1e-3)
    model.compile(keras.optimizers.SGD(1.0))
    model.step_guard.loss_scale.assign(loss_scale)
    before = [weight.numpy() for weight in model.network.trainable_variables]
    model.fit(images(8), batch_size=8, verbose=0)
    moved = np.sqrt(sum(np.square(w - b).sum() for w, b in zip(model.network.trainable_variables, before)))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


@pytest.mark.parametrize("ema_decay", [0.9, 0.2])
def test_averages_follow_the_weights(ema_decay):
    """At first, while the averages are young, in larger steps."""
    model = make(ema_decay=ema_decay)
    model.compile(keras.optimizers.SGD(0.1))
    expected = [weight.numpy() for weight in model.network.trainable_variables]
    for step in range(1, 4):
        model.fit(images(8, seed=step), batch_size=8, verbose=0)
        decay = min(ema_decay, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, model.network.trainable_variables)]
    for average, value in zip(model.ema_weights, expected):
        np.testing.assert_allclose(average, value, atol=1e-6)


def test_validation_reports_the_averaged_weights_loss():
    model = make()
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(images(16), batch_size=8, validation_data=(images(16),), verbose=0).history
    assert set(history) == {"loss", "val_loss"}
    np.testing.assert_allclose(model.evaluate(images(16), batch_size=8, verbose=0), history["val_loss"][0], rtol=1e-5)


def test_times_are_spread_over_the_batch():
    t, eps_freq = learning._drawn_time_and_noise(make(), tf.constant([0, 1], tf.int64), images(16))
    assert np.min(t) >= 0.0 and np.max(t) < 1.0
    np.testing.assert_allclose(np.diff(np.sort(t)), 1 / 16, atol=1e-6)
    of_times = normal_rows(fold([0, 1], 0), (16, 8, 8, 1))
    assert not np.array_equal(eps_freq, of_times)


def test_times_are_other_ones_in_every_step():
    drawn = [learning._drawn_time_and_noise(make(), fold([0, 0], step), images(8))[0] for step in range(20)]
    starts = np.min(drawn, axis=1)
    assert len(np.unique(starts)) == 20 and 0 <= starts.min() < 0.05 < 0.075 < starts.max() < 0.125


def test_the_seed_decides_what_the_averages_loss_is_of():
    data = images(8)
    losses = [learning.ema_losses(randomized(make(seed=seed)), data).numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.allclose(losses[0], losses[2])


@pytest.mark.parametrize("clip_norm", [0.05, pytest.param(None, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("given", [{"loss": "mse"}, {"metrics": ["mae"]}, {"loss_weights": [1.0]}])
def test_what_compile_would_not_use_is_refused(given):
    with pytest.raises(UserError, match=f"{next(iter(given))} must be left out: the loss is the model's own"):
        make().compile("adam", **given)


def test_a_keras_that_sums_gradients_in_another_way_is_an_error():
    """It would train with steps too large, and say nothing."""

    class Optimizer:
        pass

    with pytest.raises(RuntimeError, match="sums gradients over replicas in a way"):
        expect_summed_gradients(Optimizer())


def test_a_gradient_below_the_bound_stays_as_it_is():
    def updated(clip_norm):
        keras.utils.set_random_seed(0)
        model = make(clip_norm=clip_norm)
        model.compile(keras.optimizers.SGD(0.1))
        model.train_on_batch(images(8))
        return [np.asarray(weight) for weight in model.network.trainable_variables]

    for bounded, free in zip(updated(1e4), updated(None)):
        np.testing.assert_array_equal(bounded, free)
