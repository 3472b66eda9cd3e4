"""Samplers against data with an analytic denoiser: Gaussian and diagonal in the DCT basis."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tf_blurdiff as bd
from tf_blurdiff.predictions import eps_from_x0
from tf_blurdiff.process import posterior_freq
from tf_blurdiff.samplers import ancestral_step, check_sampling, ddim_step, get_sampler, run_steps, uniform_times

SIZE = (6, 5)
PROCESS = bd.process.blurring(sigma_blur_max=2.0)
MEAN = 0.3
STD = (0.6 / (1.0 + bd.laplacian_eigenvalues(*SIZE)))[None, :, :, None].astype("float32")


def analytic_denoiser(z_freq, t, at_t):
    """E[x0 | z_t] for coefficients that are N(MEAN, STD^2)."""
    weight = at_t.alpha * STD**2 / (ops.square(at_t.alpha * STD) + ops.square(at_t.sigma))
    x0_freq = MEAN + weight * (z_freq - at_t.alpha * MEAN)
    return x0_freq, eps_from_x0(x0_freq, z_freq, at_t)


def standardized(z_freq, t):
    """z_t in units of its own marginal under the data: what the exact deterministic flow keeps constant."""
    at_t = PROCESS.marginal(np.array([t]), *SIZE)
    spread = np.sqrt(np.square(at_t.alpha * STD) + np.square(at_t.sigma))
    return (np.asarray(z_freq) - np.asarray(at_t.alpha) * MEAN) / spread


def sample(step, num_steps, z_freq, draw_noise=None):
    @tf.function(autograph=False)
    def traced(z_freq):
        times = uniform_times(num_steps)
        return run_steps(step, analytic_denoiser, PROCESS, draw_noise, z_freq, times, 0, num_steps)

    return traced(tf.constant(z_freq))


def test_ddim_follows_the_exact_flow_with_order_one(rng):
    z_1 = rng.normal(size=(16, *SIZE, 1)).astype("float32")
    step = lambda *args: ddim_step(*args, 0.0)
    steps = [40, 80, 160, 320]
    errors = [np.abs(standardized(sample(step, n, z_1), 0.0) - standardized(z_1, 1.0)).mean() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 0.9 < slope < 1.3, (slope, errors)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("step, eta", [(ancestral_step, 1.0), (ddim_step, 1.0)])
def test_ancestral_sampling_has_the_exact_moments(step, eta):
    count, num_steps = 4000, 400
    z_1 = tf.random.stateless_normal((count, *SIZE, 1), [1, 2]).numpy()
    draw_noise = lambda i: tf.random.stateless_normal((count, *SIZE, 1), tf.stack([3, i]))
    final = standardized(sample(lambda *args: step(*args, eta), num_steps, z_1, draw_noise), 0.0)
    # Monte Carlo: 5 standard errors, and the discretisation's own error of the order 1 / num_steps.
    assert np.abs(final.mean(axis=0)).max() < 5 / np.sqrt(count)
    assert np.abs(final.std(axis=0) - 1.0).max() < 5 / np.sqrt(2 * count) + 0.06


@pytest.mark.parametrize("t, s", [(1.0, 0.9), (0.6, 0.4), (0.02, 0.0)])
def test_eta_one_is_the_ancestral_step(rng, t, s):
    z_freq, eps_freq, noise_freq = rng.normal(size=(3, 4, *SIZE, 2)).astype("float32")
    at_t, at_s = (PROCESS.marginal(np.array([time]), *SIZE) for time in (t, s))
    x0_freq = (z_freq - at_t.sigma * eps_freq) / at_t.alpha
    ancestral = ancestral_step(z_freq, x0_freq, eps_freq, noise_freq, at_t, at_s, 1.0)
    ddim = ddim_step(z_freq, x0_freq, eps_freq, noise_freq, at_t, at_s, 1.0)
    np.testing.assert_allclose(ddim, ancestral, rtol=1e-3, atol=1e-3)


def test_the_last_step_is_free_of_noise(rng):
    z_1 = rng.normal(size=(2, *SIZE, 1)).astype("float32")
    noise = {0: 0.0, 1: 1e6}
    draw_noise = lambda i: tf.where(i == 1, noise[1], noise[0]) * tf.ones((2, *SIZE, 1))
    step = lambda *args: ancestral_step(*args, 1.0)
    assert np.abs(sample(step, 2, z_1, draw_noise)).max() < 100


def test_steps_run_in_two_parts_are_the_whole(rng):
    z_1 = rng.normal(size=(2, *SIZE, 1)).astype("float32")
    step, times = (lambda *args: ddim_step(*args, 0.0)), uniform_times(7)
    whole = run_steps(step, analytic_denoiser, PROCESS, None, z_1, times, 0, 7)
    half = run_steps(step, analytic_denoiser, PROCESS, None, z_1, times, 0, 3)
    np.testing.assert_allclose(
        run_steps(step, analytic_denoiser, PROCESS, None, half, times, 3, 7), whole, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("euler", 10), "sampler must be one of ancestral, ddim. Received: 'euler'"),
        (("ddim", 0), r"num_steps must be an integer of 1 or more, below 2\^31. Received: 0"),
        (("ddim", 2.5), r"num_steps must be an integer of 1 or more, below 2\^31. Received: 2.5"),
        (("ddim", 10, 1.5), r"eta must be in \[0, 1\]. Received: 1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_sampling(*arguments)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_splits_the_variance_at_s(eta):
    at_t, at_s = (PROCESS.marginal(np.array([time]), *SIZE) for time in (0.6, 0.4))
    zero, one = (np.full((1, *SIZE, 1), value, "float32") for value in (0.0, 1.0))
    of_eps = ddim_step(zero, zero, one, zero, at_t, at_s, eta)
    of_noise = ddim_step(zero, zero, zero, one, at_t, at_s, eta)
    _, variance = posterior_freq(zero, zero, at_t, at_s)
    np.testing.assert_allclose(of_noise, eta * np.sqrt(variance), rtol=1e-4)
    np.testing.assert_allclose(np.square(of_eps) + np.square(of_noise), at_s.sigma**2 * one, rtol=1e-4)


def test_ddim_draws_noise_for_any_eta():
    assert [get_sampler("ddim").draws_noise(eta) for eta in (0.0, 0.1, 1.0)] == [False, True, True]
