"""The denoiser: estimates within the data's spectrum, guidance, and what is known of the image."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tf_blurdiff as bd
from tests.support.models import images, make
from tf_blurdiff.diffusion.predictions import Spectrum, get_prediction
from tf_blurdiff.model.denoiser import Denoiser, SpectralGuard


def marginals(process, *times, count=2):
    return [process.marginal(np.full(count, time, "float32"), 8, 8) for time in times]


def test_statistics_bound_x0_per_frequency(rng):
    model = make()
    data = images(200)
    model.adapt(np.split(data, 4))
    freq = bd.dct2(data).numpy()
    np.testing.assert_allclose(model.freq_mean, freq.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(model.freq_std, freq.std(axis=0), atol=1e-4)
    x0_freq = (10 * rng.normal(size=(3, 8, 8, 1))).astype("float32")
    low, high = freq.mean(axis=0) - 3 * freq.std(axis=0), freq.mean(axis=0) + 3 * freq.std(axis=0)
    for scale in (1.0, 0.3):
        clipped = model.denoiser.guard(x0_freq, np.float32(scale))
        np.testing.assert_allclose(clipped, np.clip(x0_freq, scale * low, scale * high), atol=1e-3)


def test_shrinking_is_the_best_linear_estimate(rng):
    """Of data with an error of a known size added, no other size that is assumed has a smaller mean square error."""
    std, spread = 1.0, np.full((1, 8, 8, 1), 8.0, "float32")
    freq = (std * rng.normal(size=(4000, 8, 8, 1))).astype("float32")
    noisy = freq + 0.05 * 8.0 * rng.normal(size=freq.shape).astype("float32")
    guard = SpectralGuard(np.zeros((8, 8, 1), "float32"), np.full((8, 8, 1), std, "float32"))
    error = lambda factor: np.square(np.asarray(guard(noisy, spread=factor * spread)) - freq).mean()
    assert error(1.0) < min(error(0.8), error(1.25))


def test_a_model_without_statistics_does_not_shrink(rng):
    model = make()
    x0_freq = (1e4 * rng.normal(size=(2, 8, 8, 1))).astype("float32")
    np.testing.assert_array_equal(model.denoiser.guard(x0_freq, spread=np.float32(5.0)), x0_freq)


GUARD = SpectralGuard(np.zeros((8, 8, 1), "float32"), np.full((8, 8, 1), 0.2, "float32"))


@pytest.mark.parametrize("name", ["eps", "v", "x0", "preconditioned"])
def test_what_is_shrunk_leaves_z_as_it_is(rng, name):
    """alpha x0 + sigma eps is z again, whatever is done to x0; where nothing is done, eps is the network's."""
    process = bd.process.blurring(sigma_blur_max=1.0)
    prediction = get_prediction(name).of_data(Spectrum(GUARD.freq_mean, GUARD.freq_std))
    at_t, at_s = marginals(process, 0.5, 0.4)
    x0_freq, eps_freq = rng.normal(size=(2, 2, 8, 8, 1)).astype("float32")
    z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
    output = bd.idct2(prediction.target(x0_freq, z_freq, eps_freq, at_t, at_s))
    denoiser = Denoiser(lambda inputs: output, prediction, GUARD)
    t = np.full(2, 0.5, "float32")
    own, guarded = (each(z_freq, t, at_t, at_s) for each in (denoiser.unguarded(), denoiser))
    np.testing.assert_allclose(own.eps_freq, eps_freq, atol=1e-3)
    expected = GUARD(own.x0_freq, spread=prediction.spread(at_t))
    np.testing.assert_array_equal(guarded.x0_freq, expected)
    assert np.abs(guarded.x0_freq).max() <= 0.6 + 1e-6 < np.abs(own.x0_freq).max()
    np.testing.assert_allclose(at_t.alpha * guarded.x0_freq + at_t.sigma * guarded.eps_freq, z_freq, atol=1e-3)
    np.testing.assert_allclose(guarded.mean_freq, at_s.alpha * guarded.x0_freq, rtol=1e-6)
    wide = dataclasses.replace(denoiser, guard=GUARD._replace(freq_std=1e8 * GUARD.freq_std))
    np.testing.assert_array_equal(wide(z_freq, t, at_t, at_s).eps_freq, own.eps_freq)


def test_preconditioned_estimates_are_clipped_and_not_shrunk(rng):
    prediction = get_prediction("preconditioned").of_data(Spectrum(GUARD.freq_mean, GUARD.freq_std))
    at_t, at_s = marginals(bd.process.blurring(sigma_blur_max=1.0), 0.5, 0.4)
    output = (9.0 * rng.normal(size=(2, 8, 8, 1))).astype("float32")
    denoiser = Denoiser(lambda inputs: output, prediction, GUARD)
    arguments = np.zeros((2, 8, 8, 1), "float32"), np.full(2, 0.5, "float32"), at_t, at_s
    own = denoiser.unguarded()(*arguments).x0_freq
    assert np.abs(own).max() > 0.7
    np.testing.assert_array_equal(denoiser(*arguments).x0_freq, np.clip(own, -3 * np.float32(0.2), 3 * np.float32(0.2)))


def test_less_blurred_is_shrunk_on_the_scale_of_the_next_level(rng):
    at_t, at_s = marginals(bd.process.heat_dissipation(num_levels=20), 0.5, 0.45)
    z_freq = (9.0 * rng.normal(size=(2, 8, 8, 1))).astype("float32")
    denoiser = Denoiser(lambda inputs: 0.0 * inputs[0], get_prediction("less_blurred"), GUARD)
    estimate = denoiser(z_freq, np.full(2, 0.5, "float32"), at_t, at_s)
    bound = at_s.alpha * 0.6 + 0.0 * z_freq
    np.testing.assert_allclose(estimate.mean_freq, np.clip(z_freq, -bound, bound), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_its_formula(rng, scale):
    """The network's output is its label here, and 3 is the label of none."""
    network = lambda inputs: ops.reshape(ops.cast(inputs[2], "float32"), (-1, 1, 1, 1)) + 0.0 * inputs[0]
    denoiser = Denoiser(network, get_prediction("x0"), takes_labels=True, no_label=3)
    at_t, at_s = marginals(bd.process.gaussian(), 0.5, 0.4)
    z_freq, t = tf.constant(rng.normal(size=(2, 8, 8, 1)), tf.float32), np.full(2, 0.5, "float32")
    labels, scales = tf.constant([0, 2], tf.int64), tf.constant([1.0, scale])
    x0 = bd.idct2(denoiser(z_freq, t, at_t, at_s, labels, scales).x0_freq)
    np.testing.assert_allclose(x0[:, 0, 0, 0], [0.0, 3.0 + scale * (2.0 - 3.0)], atol=1e-5)
    plain = bd.idct2(denoiser(z_freq, t, at_t, at_s, labels).x0_freq)
    np.testing.assert_allclose(plain[:, 0, 0, 0], [0.0, 2.0], atol=1e-5)


def test_what_was_measured_has_the_last_word():
    class Known:
        def consistent(self, x0_freq, variance):
            return 0.0 * x0_freq + variance

    model = make()
    model.adapt([images()])
    at_t, at_s = marginals(model.process, 0.5, 0.4)
    z_freq, t = np.ones((2, 8, 8, 1), "float32"), np.full(2, 0.5, "float32")
    estimate = model.denoiser(z_freq, t, at_t, at_s, measured=Known())
    std, snr = np.asarray(model.freq_std), np.exp(np.asarray(at_t.logsnr))
    np.testing.assert_allclose(estimate.x0_freq, 1.0 / (1.0 / np.square(std) + snr) * np.ones((2, 1, 1, 1)), rtol=1e-4)
