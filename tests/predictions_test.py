import numpy as np
import pytest

import tf_blurdiff as bd
from tf_blurdiff.predictions import PREDICTIONS, eps_from_x0, get_prediction


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("t", [0.01, 0.5, 0.9])
def test_a_perfect_prediction_gives_x0_and_eps_back(rng, name, t):
    x0_freq, eps_freq = rng.normal(size=(2, 2, 6, 5, 3)).astype("float32")
    at_t = bd.process.blurring(sigma_blur_max=1.0).marginal(np.full(2, t), 6, 5)
    z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
    prediction = get_prediction(name)
    x0_back, eps_back = prediction.to_x0_eps(prediction.target(x0_freq, eps_freq, at_t), z_freq, at_t)
    np.testing.assert_allclose(x0_back, x0_freq, atol=2e-3)
    np.testing.assert_allclose(eps_back, eps_freq, atol=2e-4)


def test_v_is_an_orthogonal_mix_without_blur(rng):
    x0_freq, eps_freq = rng.normal(size=(2, 1, 4, 4, 1)).astype("float32")
    at_t = bd.process.gaussian().marginal(np.array([0.3]), 4, 4)
    v = get_prediction("v").target(x0_freq, eps_freq, at_t)
    z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
    np.testing.assert_allclose(np.square(v) + np.square(z_freq), np.square(x0_freq) + np.square(eps_freq), rtol=1e-4)


def test_eps_from_x0_is_the_noise(rng):
    x0_freq, eps_freq = rng.normal(size=(2, 1, 4, 4, 1)).astype("float32")
    at_t = bd.process.blurring().marginal(np.array([0.6]), 4, 4)
    z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
    np.testing.assert_allclose(eps_from_x0(x0_freq, z_freq, at_t), eps_freq, atol=1e-5)


def test_an_unknown_prediction_is_named():
    with pytest.raises(ValueError, match=r"prediction must be one of eps, v\. Received: 'score'"):
        get_prediction("score")
