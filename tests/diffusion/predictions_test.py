import numpy as np
import pytest

import tf_blurdiff as bd
from tf_blurdiff.diffusion.predictions import (
    PREDICTIONS,
    Estimate,
    default_loss_type,
    default_prediction,
    eps_from_x0,
    get_loss,
    get_prediction,
)


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
    with pytest.raises(ValueError, match=r"prediction must be one of eps, v, x0, less_blurred\. Received: 'score'"):
        get_prediction("score")


@pytest.mark.parametrize(
    "process, prediction, loss_type",
    [
        (bd.process.gaussian(), "eps", "squared_error"),
        (bd.process.blurring(), "eps", "squared_error"),
        (bd.process.blurring(min_gain=0.0), "x0", "squared_error"),
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
        (bd.process.gaussian(), {"eps", "v", "x0"}),
        (bd.process.blurring(), {"eps", "v", "x0"}),
        (bd.process.blurring(min_gain=0.0), {"x0"}),
        (bd.process.blurring(sigma_blur_max=0.0, min_gain=0.0), {"eps", "v", "x0"}),
        (bd.process.heat_dissipation(), {"x0", "less_blurred"}),
        (bd.process.cold(), {"x0", "less_blurred"}),
    ],
)
def test_what_fits_a_process(process, fitting):
    assert {name for name in PREDICTIONS if PREDICTIONS[name].allowed(process)} == fitting
    wrong = sorted(PREDICTIONS.keys() - fitting)[0]
    with pytest.raises(ValueError, match=f"prediction '{wrong}' needs .* must be one of .*x0"):
        get_prediction(wrong, process)
