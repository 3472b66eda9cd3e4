import numpy as np
import pytest

import tf_blurdiff as bd
from tf_blurdiff.diffusion.predictions import (
    PREDICTIONS,
    Estimate,
    Spectrum,
    checked_loss_exponent,
    default_loss_type,
    default_prediction,
    eps_from_x0,
    get_loss,
    get_prediction,
)
from tf_blurdiff.diffusion.process import Marginal


def diffused(rng, process, t, s, size=(6, 5)):
    x0_freq, eps_freq = rng.normal(size=(2, 2, *size, 3)).astype("float32")
    at_t, at_s = (process.marginal(np.full(2, time, "float32"), *size) for time in (t, s))
    return x0_freq, eps_freq, at_t.alpha * x0_freq + at_t.sigma * eps_freq, at_t, at_s


@pytest.mark.parametrize("name", ["eps", "v", "x0"])
@pytest.mark.parametrize("t", [0.01, 0.5, 0.9])
def test_a_perfect_prediction_gives_x0_and_eps_back(rng, name, t):
    x0_freq, eps_freq, z_freq, at_t, at_s = diffused(rng, bd.process.blurring(sigma_blur_max=1.0), t, 0.8 * t)
    target = get_prediction(name).target(x0_freq, z_freq, eps_freq, at_t, at_s)
    estimate = get_prediction(name).estimate(target, z_freq, at_t, at_s)
    np.testing.assert_allclose(estimate.x0_freq, x0_freq, atol=2e-2 if t == 0.9 else 1e-3)
    np.testing.assert_allclose(estimate.eps_freq, eps_freq, atol=1e-3)
    np.testing.assert_allclose(estimate.mean_freq, at_s.alpha * estimate.x0_freq, rtol=1e-6)


@pytest.mark.parametrize("process", [bd.process.heat_dissipation(num_levels=20), bd.process.cold(num_levels=20)])
def test_a_perfect_less_blurred_prediction_is_the_next_level_without_noise(rng, process):
    x0_freq, eps_freq, z_freq, at_t, at_s = diffused(rng, process, 0.5, 0.45)
    prediction = get_prediction("less_blurred", process)
    residual = prediction.target(x0_freq, z_freq, eps_freq, at_t, at_s)
    estimate = prediction.estimate(residual, z_freq, at_t, at_s)
    np.testing.assert_allclose(estimate.mean_freq, at_s.alpha * x0_freq, atol=1e-5)
    assert estimate.x0_freq is None and estimate.eps_freq is None


def test_another_image_leaves_z_as_it_is(rng):
    x0_freq, eps_freq, z_freq, at_t, at_s = diffused(rng, bd.process.blurring(sigma_blur_max=1.0), 0.5, 0.4)
    estimate = Estimate(x0_freq, eps_freq, None)
    other = estimate.with_x0(np.clip(x0_freq, -0.5, 0.5), z_freq, at_t, at_s)
    np.testing.assert_allclose(at_t.alpha * other.x0_freq + at_t.sigma * other.eps_freq, z_freq, atol=1e-3)
    np.testing.assert_allclose(other.mean_freq, at_s.alpha * np.clip(x0_freq, -0.5, 0.5), rtol=1e-6)
    within = np.abs(x0_freq) <= 0.5
    np.testing.assert_array_equal(np.asarray(other.eps_freq)[within], eps_freq[within])


@pytest.mark.parametrize("name", ["eps", "v"])
def test_the_spread_is_what_an_error_in_the_output_makes_of_x0(rng, name):
    x0_freq, _, z_freq, at_t, at_s = diffused(rng, bd.process.blurring(sigma_blur_max=1.0), 0.5, 0.4)
    prediction = get_prediction(name)
    output = rng.normal(size=x0_freq.shape).astype("float32")
    one, other = (prediction.estimate(output + error, z_freq, at_t, at_s).x0_freq for error in (0.0, 1.0))
    np.testing.assert_allclose(np.abs(one - other), np.broadcast_to(prediction.spread(at_t), one.shape), rtol=1e-2)


def test_v_has_the_length_of_z_and_its_orthogonal(rng):
    x0_freq, eps_freq, z_freq, at_t, at_s = diffused(rng, bd.process.gaussian(), 0.3, 0.2)
    v = get_prediction("v").target(x0_freq, z_freq, eps_freq, at_t, at_s)
    np.testing.assert_allclose(np.square(v) + np.square(z_freq), np.square(x0_freq) + np.square(eps_freq), rtol=1e-4)


def test_eps_from_x0_is_the_noise(rng):
    x0_freq, eps_freq, z_freq, at_t, _ = diffused(rng, bd.process.blurring(), 0.6, 0.5)
    np.testing.assert_allclose(eps_from_x0(x0_freq, z_freq, at_t), eps_freq, atol=1e-5)


def test_an_unknown_prediction_is_named():
    names = "eps, v, x0, less_blurred, preconditioned"
    with pytest.raises(ValueError, match=rf"prediction must be one of {names}\. Received: 'score'"):
        get_prediction("score")


@pytest.mark.parametrize(
    "process, prediction, loss_type",
    [
        (bd.process.gaussian(), "preconditioned", "squared_error"),
        (bd.process.blurring(), "preconditioned", "squared_error"),
        (bd.process.blurring(min_gain=0.0), "preconditioned", "squared_error"),
        (bd.process.heat_dissipation(), "less_blurred", "squared_error"),
        (bd.process.cold(), "x0", "absolute_error"),
    ],
)
def test_what_goes_with_a_process(process, prediction, loss_type):
    assert (default_prediction(process), default_loss_type(process)) == (prediction, loss_type)


def test_a_loss_is_of_the_error():
    errors = np.array([-2.0, 3.0], "float32")
    assert np.asarray(get_loss("squared_error")(errors)).tolist() == [4.0, 9.0]
    assert np.asarray(get_loss("absolute_error")(errors)).tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match=r"loss_type must be one of squared_error, absolute_error\. Received: 'l1'"):
        get_loss("l1")


@pytest.mark.parametrize(
    "process, fitting",
    [
        (bd.process.gaussian(), {"eps", "v", "x0", "preconditioned"}),
        (bd.process.blurring(), {"eps", "v", "x0", "preconditioned"}),
        (bd.process.blurring(min_gain=0.0), {"x0", "preconditioned"}),
        (bd.process.blurring(sigma_blur_max=0.0, min_gain=0.0), {"eps", "v", "x0", "preconditioned"}),
        (bd.process.heat_dissipation(), {"x0", "less_blurred", "preconditioned"}),
        (bd.process.heat_dissipation(sigma=0.0), {"x0", "less_blurred"}),
        (bd.process.cold(), {"x0", "less_blurred"}),
    ],
)
def test_what_fits_a_process(process, fitting):
    assert {name for name in PREDICTIONS if PREDICTIONS[name].allowed(process)} == fitting
    wrong = sorted(PREDICTIONS.keys() - fitting)[0]
    with pytest.raises(ValueError, match=f"prediction '{wrong}' needs .* must be one of .*x0"):
        get_prediction(wrong, process)


SIZE = (4, 3)
PROCESSES = {
    "gaussian": bd.process.gaussian(),
    "linear_betas": bd.process.gaussian(noise_schedule="linear_betas"),
    "blurring": bd.process.blurring(sigma_blur_max=4.0),
    "nothing left": bd.process.blurring(sigma_blur_max=20.0, min_gain=0.0),
    "heat_dissipation": bd.process.heat_dissipation(),
}
TIMES = np.array([0.0, 0.05, 0.3, 0.6, 0.9, 1.0], "float32")


def spectrum_of_images(rng, channels=2):
    """Of the scale that images have: a few large coefficients, many small."""
    mean, log_std = rng.normal(size=(2, *SIZE, channels))
    return Spectrum((4.0 * mean).astype("float32"), np.exp(2.0 * log_std - 2.0).astype("float32"))


@pytest.fixture(params=PROCESSES)
def at_times(request):
    """Marginals at TIMES, and `(alpha, sigma)` in float64."""
    at_t = PROCESSES[request.param].marginal(TIMES, *SIZE)
    return at_t, [np.exp(np.asarray(each, np.float64)) for each in (at_t.log_alpha, at_t.log_sigma)]


def test_preconditioned_targets_have_unit_variance(rng, at_times):
    """And no correlation with u_t, at each time and frequency, of data that is not Gaussian: 1.2 million draws."""
    at_t, (alpha, sigma) = at_times
    spectrum = spectrum_of_images(rng)
    target = get_prediction("preconditioned").of_data(spectrum).target
    draws = 8192
    uniform = rng.uniform(-np.sqrt(3.0), np.sqrt(3.0), size=(draws, 1, *SIZE, 2))
    x0_freq = (spectrum.mean + spectrum.std * uniform + np.zeros((1, len(TIMES), 1, 1, 1))).astype("float32")
    eps_freq = rng.normal(size=x0_freq.shape).astype("float32")
    z_freq = alpha * x0_freq + sigma * eps_freq
    targets = np.asarray(target(x0_freq, z_freq.astype("float32"), eps_freq, at_t, None))
    # Six standard deviations of the estimates.
    np.testing.assert_allclose(targets.mean(axis=0), 0.0, atol=6 / np.sqrt(draws))
    np.testing.assert_allclose(targets.var(axis=0), 1.0, atol=6 * np.sqrt(2 / draws))
    standardized = (z_freq - z_freq.mean(axis=0)) / z_freq.std(axis=0)
    np.testing.assert_allclose((targets * standardized).mean(axis=0), 0.0, atol=6 / np.sqrt(draws))


def test_preconditioned_by_one_deviation_without_blur_is_that_of_edm(rng):
    """Karras et al., 2022, table 1, in their own variables `x = u / alpha` and `sigma / alpha`."""
    data_std = 0.5
    at_t = bd.process.gaussian().marginal(TIMES, *SIZE)
    spectrum = Spectrum(np.zeros((*SIZE, 2), "float32"), np.full((*SIZE, 2), data_std, "float32"))
    prediction = get_prediction("preconditioned").of_data(spectrum)
    alpha, sigma = (np.exp(np.asarray(each, np.float64)) for each in (at_t.log_alpha, at_t.log_sigma))
    output, x0, eps = rng.normal(size=(3, len(TIMES), *SIZE, 2))
    noise_level = sigma / alpha
    noisy = x0 + noise_level * eps
    c_skip = data_std**2 / (noise_level**2 + data_std**2)
    c_out = noise_level * data_std / np.sqrt(noise_level**2 + data_std**2)
    z_freq = (alpha * noisy).astype("float32")
    estimate = prediction.estimate(output.astype("float32"), z_freq, at_t, at_t)
    np.testing.assert_allclose(estimate.x0_freq, c_skip * noisy + c_out * output, rtol=1e-5, atol=1e-5)
    target = prediction.target(x0.astype("float32"), z_freq, eps.astype("float32"), at_t, at_t)
    np.testing.assert_allclose(target, (x0 - c_skip * noisy) / c_out, rtol=1e-3, atol=1e-4)


def test_an_output_of_0_is_the_exact_estimate_of_gaussian_data(rng, at_times):
    """E[x0 | u_t] and E[eps | u_t]; an output of 1 is one standard deviation of x0 given u_t more."""
    at_t, (alpha, sigma) = at_times
    spectrum = spectrum_of_images(rng)
    mean, std = (each.astype(np.float64) for each in spectrum)
    prediction = get_prediction("preconditioned").of_data(spectrum)
    x0_freq, eps_freq = mean + std * rng.normal(size=(len(TIMES), *SIZE, 2)), rng.normal(size=(len(TIMES), *SIZE, 2))
    z_freq = alpha * x0_freq + sigma * eps_freq
    variance = (alpha * std) ** 2 + sigma**2
    expected = mean + alpha * std**2 / variance * (z_freq - alpha * mean)
    deviation = std * sigma / np.sqrt(variance)
    for output in (0.0, 1.0, -2.0):
        estimate = prediction.estimate(np.float32(output), z_freq.astype("float32"), at_t, at_t)
        x0_hat = expected + output * deviation
        np.testing.assert_allclose(estimate.x0_freq, x0_hat, rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(estimate.eps_freq, (z_freq - alpha * x0_hat) / sigma, rtol=1e-4, atol=2e-3)
        np.testing.assert_allclose(estimate.mean_freq, at_t.alpha * estimate.x0_freq, rtol=1e-6)


@pytest.mark.parametrize("of_data", ["its own", "other"])
def test_the_exact_denoiser_of_gaussian_data_has_an_exact_output(rng, at_times, of_data):
    """Its expected target, by whatever statistics, leads back to its estimates."""
    at_t, (alpha, sigma) = at_times
    of_images, other = spectrum_of_images(rng), spectrum_of_images(rng)
    mean, std = (each.astype(np.float64) for each in of_images)
    x0_freq, eps_freq = mean + std * rng.normal(size=(len(TIMES), *SIZE, 2)), rng.normal(size=(len(TIMES), *SIZE, 2))
    z_freq = alpha * x0_freq + sigma * eps_freq
    exact = mean + alpha * std**2 / ((alpha * std) ** 2 + sigma**2) * (z_freq - alpha * mean)
    exact_eps = (z_freq - alpha * exact) / sigma
    prediction = get_prediction("preconditioned").of_data(of_images if of_data == "its own" else other)
    given = [each.astype("float32") for each in (exact, z_freq, exact_eps)]
    output = prediction.target(*given, at_t, at_t)
    if of_data == "its own":
        np.testing.assert_allclose(output, 0.0, atol=1e-2)
    estimate = prediction.estimate(output, given[1], at_t, at_t)
    np.testing.assert_allclose(estimate.x0_freq, exact, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(estimate.eps_freq, exact_eps, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("std", [1e-3, 1.0, 10.0])
def test_preconditioned_round_trips_in_float32(rng, std):
    logsnr = np.linspace(-20.0, 20.0, 41, dtype="float32")[:, None, None, None]
    log_gain = np.log(np.geomspace(1e-6, 1.0, 12)).reshape(1, *SIZE, 1)
    log_a, log_sigma = (-0.5 * np.logaddexp(0.0, sign * logsnr) for sign in (-1.0, 1.0))
    at_t = Marginal(*(each.astype("float32") for each in (log_a + log_gain, log_sigma, log_a)))
    spectrum = Spectrum(std * rng.normal(size=(*SIZE, 2)).astype("float32"), np.full((*SIZE, 2), std, "float32"))
    prediction = get_prediction("preconditioned").of_data(spectrum)
    eps_freq, normal = rng.normal(size=(2, len(logsnr), *SIZE, 2)).astype("float32")
    x0_freq = spectrum.mean + spectrum.std * normal
    z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
    target = prediction.target(x0_freq, z_freq, eps_freq, at_t, at_t)
    estimate = prediction.estimate(target, z_freq, at_t, at_t)
    np.testing.assert_allclose(estimate.x0_freq / std, x0_freq / std, atol=2e-5)
    np.testing.assert_allclose(estimate.eps_freq, eps_freq, atol=2e-5)
    z_again = at_t.alpha * estimate.x0_freq + at_t.sigma * estimate.eps_freq
    np.testing.assert_allclose(z_again, z_freq, rtol=1e-5, atol=1e-5 * std)


def test_a_coefficient_that_never_changes_is_known(rng):
    at_t = bd.process.blurring(sigma_blur_max=4.0).marginal(TIMES, *SIZE)
    spectrum = Spectrum(np.full((*SIZE, 1), 3.0, "float32"), np.zeros((*SIZE, 1), "float32"))
    prediction = get_prediction("preconditioned").of_data(spectrum)
    eps_freq, output = rng.normal(size=(2, len(TIMES), *SIZE, 1)).astype("float32")
    z_freq = at_t.alpha * 3.0 + at_t.sigma * eps_freq
    estimate = prediction.estimate(output, z_freq, at_t, at_t)
    np.testing.assert_allclose(estimate.x0_freq, 3.0, atol=1e-3)
    target = prediction.target(np.full(output.shape, 3.0, "float32"), z_freq, eps_freq, at_t, at_t)
    assert np.isfinite(target).all() and np.isfinite(prediction.loss_weight(at_t)).all()


def test_the_loss_weight_is_what_an_error_makes_of_eps(rng, at_times):
    at_t, (alpha, sigma) = at_times
    spectrum = spectrum_of_images(rng)
    prediction = get_prediction("preconditioned").of_data(spectrum)
    weight = np.asarray(prediction.loss_weight(at_t))
    assert (weight <= 1.0).all()
    z_freq = rng.normal(size=(len(TIMES), *SIZE, 2)).astype("float32")
    one, other = (prediction.estimate(np.float32(output), z_freq, at_t, at_t).eps_freq for output in (0.0, 1.0))
    np.testing.assert_allclose(weight, np.asarray(one) - np.asarray(other), rtol=1e-3, atol=2e-4)
    expected = alpha * spectrum.std / np.sqrt((alpha * spectrum.std) ** 2 + sigma**2)
    np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(
    "loss_exponent, prediction, message",
    [
        (0.5, "eps", "loss_exponent is for the prediction preconditioned; with eps it must be left out. Received: 0.5"),
        (-0.1, "preconditioned", "loss_exponent must be 0 or more, or None. Received: -0.1"),
        (np.inf, "preconditioned", "loss_exponent must be 0 or more, or None. Received: inf"),
        (np.nan, "preconditioned", "loss_exponent must be 0 or more, or None. Received: nan"),
        ("1", "preconditioned", "loss_exponent must be 0 or more, or None. Received: '1'"),
    ],
)
def test_wrong_loss_exponents_are_named(loss_exponent, prediction, message):
    with pytest.raises(ValueError, match=message):
        checked_loss_exponent(loss_exponent, prediction)
    assert checked_loss_exponent(0, "preconditioned") == 0.0
