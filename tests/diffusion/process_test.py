"""The process against a plain float64 transcription of the paper, and against its own marginals."""

import keras
import numpy as np
import pytest
import scipy.fft
import tensorflow as tf

import tf_blurdiff as bd
from tf_blurdiff.diffusion.process import posterior_freq

T, S = 0.7, 0.3
# The cosine schedule's limits are far from 0 and 1 here, so that float64 keeps the direct formulas exact.
PROCESS = bd.process.blurring(sigma_blur_max=3.0, min_gain=0.01)


def reference_alpha_sigma(t, height, width, sigma_blur_max, min_gain, logsnr_min=-10.0, logsnr_max=10.0):
    """Float64, straight from the formulas, [H, W] and scalar."""
    start = np.arctan(np.exp(-0.5 * logsnr_max))
    end = np.arctan(np.exp(-0.5 * logsnr_min))
    logsnr = -2.0 * np.log(np.tan(start + t * (end - start)))
    a, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    blur_sigma = sigma_blur_max * np.sin(t * np.pi / 2) ** 2
    rows, columns = np.pi * np.arange(height) / height, np.pi * np.arange(width) / width
    decay = np.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) * blur_sigma**2 / 2)
    return a * ((1 - min_gain) * decay + min_gain), sigma


def reference_posterior(u_t, u_x, alpha_t, sigma_t, alpha_s, sigma_s):
    """Algorithm of the paper: precision-weighted, with the variance of the step from s to t."""
    alpha_ts = alpha_t / alpha_s
    variance_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
    variance = 1 / (1 / sigma_s**2 + alpha_ts**2 / variance_ts)
    return variance * (alpha_ts / variance_ts * u_t + alpha_s / sigma_s**2 * u_x), variance


def dctn(x):
    return scipy.fft.dctn(x, axes=(1, 2), norm="ortho")


def idctn(x):
    return scipy.fft.idctn(x, axes=(1, 2), norm="ortho")


@pytest.mark.parametrize("t", [0.0, 1e-3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("size", [(8, 8), (5, 12)])
@pytest.mark.parametrize("sigma_blur_max, min_gain", [(20.0, 0.001), (0.5, 0.0), (0.0, 0.001)])
def test_marginal_is_the_papers(t, size, sigma_blur_max, min_gain):
    process = bd.process.blurring(sigma_blur_max=sigma_blur_max, min_gain=min_gain)
    alpha, sigma = process.alpha_sigma(np.array([t, 0.5]), *size)
    expected_alpha, expected_sigma = reference_alpha_sigma(t, *size, sigma_blur_max, min_gain)
    np.testing.assert_allclose(alpha[0, :, :, 0], expected_alpha, rtol=2e-5)
    np.testing.assert_allclose(sigma[0, 0, 0, 0], expected_sigma, rtol=2e-5)


def test_no_blur_is_the_gaussian_process(rng):
    t = rng.uniform(size=5).astype("float32")
    blurring, gaussian = bd.process.blurring(sigma_blur_max=0.0), bd.process.gaussian()
    for ours, theirs in zip(blurring.alpha_sigma(t, 6, 5), gaussian.alpha_sigma(t, 6, 5)):
        np.testing.assert_allclose(ours, np.broadcast_to(theirs, ours.shape), rtol=1e-6)
    alpha, sigma = gaussian.alpha_sigma(t, 6, 5)
    np.testing.assert_allclose(np.square(alpha) + np.square(sigma), np.ones_like(alpha), rtol=1e-6)


def test_diffuse_is_the_marginal(rng):
    x0, eps = rng.normal(size=(2, 4, 7, 5, 3))
    alpha, sigma = reference_alpha_sigma(T, 7, 5, 3.0, 0.01)
    expected = idctn(alpha[None, :, :, None] * dctn(x0)) + sigma * eps
    z_t = PROCESS.diffuse(x0.astype("float32"), np.full(4, T, "float32"), eps.astype("float32"))
    np.testing.assert_allclose(z_t, expected, atol=1e-5)


@pytest.mark.parametrize("t, s", [(0.7, 0.3), (1.0, 0.98), (0.02, 0.0), (0.5, 0.499)])
def test_posterior_is_the_papers(rng, t, s):
    z_t, x0 = rng.normal(size=(2, 3, 6, 5, 2))
    marginals = [reference_alpha_sigma(time, 6, 5, 3.0, 0.01) for time in (t, s)]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = [(alpha[None, :, :, None], sigma) for alpha, sigma in marginals]
    expected_mean, expected_variance = reference_posterior(dctn(z_t), dctn(x0), alpha_t, sigma_t, alpha_s, sigma_s)
    times = [np.full(3, time, "float32") for time in (t, s)]
    mean, variance = PROCESS.posterior(z_t.astype("float32"), x0.astype("float32"), *times)
    np.testing.assert_allclose(mean, idctn(expected_mean), atol=2e-4)
    np.testing.assert_allclose(variance[0], np.broadcast_to(expected_variance, variance.shape)[0], rtol=2e-3)


@pytest.mark.parametrize("t, s", [(1.0, 0.9), (0.7, 0.3), (0.1, 0.0)])
def test_a_posterior_step_from_diffused_data_gives_the_marginal_at_s(t, s):
    """q(u_s | u_x) has mean alpha_s u_x and variance sigma_s^2, in closed form: the step is linear in u_t and u_x."""
    at_t, at_s = (bd.process.blurring().marginal(np.array([time]), 6, 5) for time in (t, s))
    one, zero = np.ones((1, 6, 5, 1), "float32"), np.zeros((1, 6, 5, 1), "float32")
    from_z_t, variance = posterior_freq(one, zero, at_t, at_s)
    from_x0, _ = posterior_freq(zero, one, at_t, at_s)
    np.testing.assert_allclose(from_z_t * at_t.alpha + from_x0, at_s.alpha, rtol=1e-4)
    spread = np.square(from_z_t) * np.square(at_t.sigma) + variance
    np.testing.assert_allclose(spread, np.broadcast_to(np.square(at_s.sigma), spread.shape), rtol=1e-4)


def test_extreme_times_are_finite():
    process = bd.process.blurring(sigma_blur_max=128.0)
    z_t = x0 = np.ones((1, 128, 128, 1), "float32")
    for t, s in [(1.0, 0.999), (1e-3, 0.0)]:
        for result in process.posterior(z_t, x0, np.array([t]), np.array([s])):
            assert np.isfinite(result).all()


@pytest.mark.parametrize("process", [bd.process.cold(), bd.process.heat_dissipation(sigma=0.0)])
def test_without_noise_the_posterior_is_the_blurred_image(process, rng):
    z_t, x0 = rng.normal(size=(2, 2, 6, 5, 3)).astype("float32")
    t, s = np.full(2, 0.8, "float32"), np.full(2, 0.3, "float32")
    mean, variance = process.posterior(z_t, x0, t, s)
    np.testing.assert_allclose(mean, process.diffuse(x0, s, np.zeros_like(x0)), atol=1e-5)
    assert variance.shape == (2, 6, 5, 1) and not np.any(variance)


def test_diffuse_takes_any_floats(rng):
    x0, eps = rng.normal(size=(2, 2, 6, 5, 1))
    t = np.full(2, 0.4, "float32")
    expected = PROCESS.diffuse(x0.astype("float32"), t, eps.astype("float32"))
    for dtype, tolerance in (("float64", 1e-6), ("bfloat16", 0.05)):
        result = PROCESS.diffuse(tf.cast(x0, dtype), t, tf.cast(eps, dtype))
        np.testing.assert_allclose(result, expected, atol=tolerance)


def test_serialization_keeps_the_process():
    process = bd.process.blurring(sigma_blur_max=3.0, min_gain=0.02, logsnr_min=-8.0)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(process))
    t = np.array([0.1, 0.8])
    for ours, theirs in zip(process.alpha_sigma(t, 4, 4), copy.alpha_sigma(t, 4, 4)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"min_gain": 1.0}, r"min_gain must be in \[0, 1\)"),
        ({"sigma_blur_max": -1.0}, "sigma_blur_max must be 0 or more"),
        ({"logsnr_min": 3.0, "logsnr_max": 3.0}, "logsnr_min must be below"),
        ({"logsnr_max": 101.0}, r"both from -30 to 80\. Received: -10\.0, 101\.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bd.process.blurring(**arguments)


@pytest.mark.parametrize("logsnr", [(-30.0, 10.0), (-10.0, 80.0)])
def test_sigma_and_alpha_are_there_at_the_ends_of_what_is_allowed(logsnr):
    at = bd.process.gaussian(*logsnr).marginal(np.array([0.0, 1.0], "float32"), 2, 2)
    assert np.isfinite(at.log_alpha).all() and np.isfinite(at.log_sigma).all()


def test_a_blur_in_widths_is_as_many_times_the_width_in_pixels():
    in_widths, in_pixels = (
        bd.process.blurring(sigma_blur_max=sigma, blur_unit=unit) for sigma, unit in ((0.5, "width"), (3.0, "pixels"))
    )
    t = np.array([0.3, 0.7], "float32")
    np.testing.assert_allclose(in_widths.alpha_sigma(t, 4, 6)[0], in_pixels.alpha_sigma(t, 4, 6)[0], rtol=1e-5)
    assert in_widths.max_blur_sigma(6) == 3.0
