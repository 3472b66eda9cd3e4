import numpy as np
import pytest

import tf_blurdiff as bd
from tf_blurdiff.diffusion.predictions import PREDICTIONS, eps_from_x0, get_prediction

NO_SHRINKING = lambda freq, scale, spread: freq


def diffused(rng, process, t, s, size=(6, 5)):
    x0_freq, eps_freq = rng.normal(size=(2, 2, *size, 3)).astype("float32")
    at_t, at_s = (process.marginal(np.full(2, time, "float32"), *size) for time in (t, s))
    return x0_freq, eps_freq, at_t.alpha * x0_freq + at_t.sigma * eps_freq, at_t, at_s


@pytest.mark.parametrize("name", ["eps", "v", "x0"])
@pytest.mark.parametrize("t", [0.01, 0.5, 0.9])
def test_a_perfect_prediction_gives_x0_and_eps_back(rng, name, t):
    x0_freq, eps_freq, z_freq, at_t, at_s = diffused(rng, bd.process.blurring(sigma_blur_max=1.0), t, 0.8 * t)
    target = get_prediction(name).target(x0_freq, z_freq, eps_freq, at_t, at_s)
    estimate = get_prediction(name).estimate(target, z_freq, at_t, at_s, NO_SHRINKING)
    np.testing.assert_allclose(estimate.x0_freq, x0_freq, atol=2e-2 if t == 0.9 else 1e-3)
    np.testing.assert_allclose(estimate.eps_freq, eps_freq, atol=1e-3)
    np.testing.assert_allclose(estimate.mean_freq, at_s.alpha * estimate.x0_freq, rtol=1e-6)


@pytest.mark.parametrize("process", [bd.process.heat_dissipation(num_levels=20), bd.process.cold(num_levels=20)])
def test_a_perfect_less_blurred_prediction_is_the_next_level_without_noise(rng, process):
    x0_freq, eps_freq, z_freq, at_t, at_s = diffused(rng, process, 0.5, 0.45)
    prediction = get_prediction("less_blurred", process)
    residual = prediction.target(x0_freq, z_freq, eps_freq, at_t, at_s)
    estimate = prediction.estimate(residual, z_freq, at_t, at_s, NO_SHRINKING)
    np.testing.assert_allclose(estimate.mean_freq, at_s.alpha * x0_freq, atol=1e-5)
    assert estimate.x0_freq is None and estimate.eps_freq is None


@pytest.mark.parametrize("name", ["eps", "v", "x0"])
def test_what_is_shrunk_leaves_z_as_it_is(rng, name):
    """alpha x0 + sigma eps is z again, whatever is done to x0; where nothing is done, eps is the network's."""
    x0_freq, eps_freq, z_freq, at_t, at_s = diffused(rng, bd.process.blurring(sigma_blur_max=1.0), 0.5, 0.4)
    target = get_prediction(name).target(x0_freq, z_freq, eps_freq, at_t, at_s)
    shrink = lambda freq, scale, spread: np.clip(freq, -0.5, 0.5)
    estimate = get_prediction(name).estimate(target, z_freq, at_t, at_s, shrink)
    np.testing.assert_allclose(estimate.x0_freq, np.clip(x0_freq, -0.5, 0.5), atol=1e-3)
    np.testing.assert_allclose(at_t.alpha * estimate.x0_freq + at_t.sigma * estimate.eps_freq, z_freq, atol=1e-3)


@pytest.mark.parametrize("name", ["eps", "v"])
def test_the_spread_is_what_an_error_in_the_output_makes_of_x0(rng, name):
    x0_freq, _, z_freq, at_t, at_s = diffused(rng, bd.process.blurring(sigma_blur_max=1.0), 0.5, 0.4)
    spreads = []
    shrink = lambda freq, scale, spread: spreads.append(spread) or freq
    output = rng.normal(size=x0_freq.shape).astype("float32")
    one, other = (
        get_prediction(name).estimate(output + error, z_freq, at_t, at_s, shrink).x0_freq for error in (0.0, 1.0)
    )
    np.testing.assert_allclose(np.abs(one - other), np.broadcast_to(spreads[0], one.shape), rtol=1e-2)


def test_less_blurred_is_shrunk_on_the_scale_of_the_next_level(rng):
    *_, z_freq, at_t, at_s = diffused(rng, bd.process.heat_dissipation(num_levels=20), 0.5, 0.45)
    shrink = lambda freq, scale, spread: scale
    estimate = get_prediction("less_blurred").estimate(z_freq, z_freq, at_t, at_s, shrink)
    np.testing.assert_array_equal(estimate.mean_freq, at_s.alpha)


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
