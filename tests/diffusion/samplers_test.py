"""Samplers against data with an analytic denoiser: Gaussian and diagonal in the DCT basis."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tf_blurdiff as bd
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.predictions import Estimate, eps_from_x0
from tf_blurdiff.diffusion.process import posterior_freq
from tf_blurdiff.diffusion.samplers import (
    SAMPLERS,
    Step,
    default_delta,
    default_num_steps,
    default_sampler,
    first_state,
    get_sampler,
    multistep_step,
    run_steps,
)

SIZE = (8, 8)
PROCESS = bd.process.blurring(sigma_blur_max=4.0)
PROCESSES = {"blurring": PROCESS, "gaussian": bd.process.gaussian()}
MEAN = 0.3
STD = (0.6 / (1.0 + bd.laplacian_eigenvalues(*SIZE)))[None, :, :, None].astype("float32")


def estimate_of(x0_freq, z_freq, at_t, at_s):
    return Estimate(x0_freq, eps_from_x0(x0_freq, z_freq, at_t), at_s.alpha * x0_freq)


def analytic_denoiser(z_freq, t, at_t, at_s):
    """E[x0 | z_t] for coefficients that are N(MEAN, STD^2)."""
    weight = at_t.alpha * STD**2 / (ops.square(at_t.alpha * STD) + ops.square(at_t.sigma))
    return estimate_of(MEAN + weight * (z_freq - at_t.alpha * MEAN), z_freq, at_t, at_s)


def marginals(process, *times):
    return [process.marginal(np.array([time], "float32"), *SIZE) for time in times]


def moments(process, t):
    """Of z_t under the data, float64 `[1, H, W, 1]`."""
    (at_t,) = marginals(process, t)
    alpha, sigma = np.asarray(at_t.alpha, np.float64), np.asarray(at_t.sigma, np.float64)
    return alpha * MEAN, np.sqrt(np.square(alpha * STD) + sigma**2)


@functools.cache
def traced(sampler, process, eta=0.0, draw_noise=None):
    """The whole loop, of any number of steps."""
    one = get_sampler(sampler)

    @tf.function(autograph=False, reduce_retracing=True)
    def run(z_freq, times):
        state, num_steps = first_state(z_freq, one), ops.shape(times)[0] - 1
        return run_steps(one, analytic_denoiser, process, draw_noise, state, times, 0, num_steps, eta)[0]

    return run


def sample(sampler, num_steps, z_freq, grid="uniform", process=PROCESS, **kwargs):
    times = GRIDS[grid](num_steps, process)[:, None]
    return traced(sampler, process, **kwargs)(tf.constant(z_freq, tf.float32), times).numpy()


def variance_error(sampler, num_steps, grid="quadratic", process=PROCESS):
    """How far the final variance is from the data's, relatively; a deterministic sampler is linear in its start."""
    (mean, std), (_, final_std) = moments(process, 1.0), moments(process, 0.0)
    low, high = sample(sampler, num_steps, np.concatenate([mean - std, mean + std]), grid, process).astype(np.float64)
    return np.abs(np.square((high - low) / 2) / np.square(final_std[0]) - 1.0).mean()


def test_the_heat_sampler_s_noise_is_a_quarter_more_than_the_process_s():
    assert default_delta(bd.process.heat_dissipation(sigma=0.02), "heat") == pytest.approx(0.025)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler, order", [("ddim", 0.9), ("multistep2", 1.8), ("multistep3", 2.5)])
def test_deterministic_samplers_converge_with_their_order(process, sampler, order):
    steps = [20, 40, 80, 160]
    errors = [variance_error(sampler, num_steps, process=PROCESSES[process]) for num_steps in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope > order, (slope, errors)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_multistep_sampler_at_20_beats_ddim_at_200(process):
    best = variance_error("multistep3", 20, process=PROCESSES[process])
    assert best < 0.5 * variance_error("ddim", 200, "uniform", PROCESSES[process])


@pytest.mark.parametrize("sampler", ["ddim", "multistep2", "multistep3"])
def test_deterministic_samplers_follow_the_exact_flow(rng, sampler):
    z_1 = rng.normal(size=(4, *SIZE, 1))
    (mean, std), (final_mean, final_std) = moments(PROCESS, 1.0), moments(PROCESS, 0.0)
    final = (sample(sampler, 300, z_1, "quadratic") - final_mean) / final_std
    np.testing.assert_allclose(final, (z_1 - mean) / std, atol=0.06 if sampler == "ddim" else 2e-3)


def drawn_variance_error(sampler, num_steps, grid, process):
    """As `variance_error`: the final state is linear in the start and in what each step draws, all independent."""
    (_, std), (_, final_std) = moments(process, 1.0), moments(process, 0.0)
    start = np.zeros((num_steps + 2, *SIZE, 1))
    start[num_steps + 1] = std[0]
    draw_noise = lambda i: tf.one_hot(i, num_steps + 2)[:, None, None, None] * tf.ones((1, *SIZE, 1))
    final = sample(sampler, num_steps, start, grid, process, draw_noise=draw_noise).astype(np.float64)
    # The last step draws nothing: its row is the mean's own way.
    variance = np.square(final - final[num_steps - 1]).sum(axis=0)
    return np.abs(variance / np.square(final_std[0]) - 1.0).mean()


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler, order", [("ancestral", 0.8), ("ancestral2", 1.8)])
def test_samplers_that_draw_converge_with_their_order(process, sampler, order):
    steps = [20, 40, 80, 160]
    errors = [drawn_variance_error(sampler, num_steps, "quadratic", PROCESSES[process]) for num_steps in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope > order, (slope, errors)


@pytest.mark.parametrize("sampler, eta", [("ancestral", 0.0), ("ancestral2", 0.0), ("ddim", 1.0)])
def test_ancestral_sampling_has_the_exact_moments(sampler, eta):
    count, num_steps = 4000, 400
    z_1 = tf.random.stateless_normal((count, *SIZE, 1), [1, 2]).numpy()
    draw_noise = lambda i: tf.random.stateless_normal((count, *SIZE, 1), tf.stack([3, i]))
    mean, std = moments(PROCESS, 0.0)
    final = (sample(sampler, num_steps, z_1, eta=eta, draw_noise=draw_noise) - mean) / std
    # Monte Carlo: 5 standard errors, and the discretisation's own error of the order 1 / num_steps.
    assert np.abs(final.mean(axis=0)).max() < 5 / np.sqrt(count) + 0.01
    assert np.abs(final.std(axis=0) - 1.0).max() < 5 / np.sqrt(2 * count) + 0.06


def step_from(sampler, z_freq, x0_freq, eps_freq, noise_freq, at_t, at_s, eta=0.0, delta=0.0):
    estimate = Estimate(x0_freq, eps_freq, None if x0_freq is None else at_s.alpha * x0_freq)
    return get_sampler(sampler).step(Step(z_freq, estimate, noise_freq, at_t, at_s, eta=eta, delta=delta))


@pytest.mark.parametrize("t, s", [(1.0, 0.9), (0.6, 0.4), (0.02, 0.0)])
def test_eta_one_is_the_ancestral_step(rng, t, s):
    z_freq, eps_freq, noise_freq = rng.normal(size=(3, 4, *SIZE, 2)).astype("float32")
    at_t, at_s = marginals(PROCESS, t, s)
    x0_freq = (z_freq - at_t.sigma * eps_freq) / at_t.alpha
    arguments = z_freq, x0_freq, eps_freq, noise_freq, at_t, at_s
    ancestral, ddim = step_from("ancestral", *arguments), step_from("ddim", *arguments, eta=1.0)
    np.testing.assert_allclose(ddim, ancestral, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_splits_the_variance_at_s(eta):
    at_t, at_s = marginals(PROCESS, 0.6, 0.4)
    zero, one = (np.full((1, *SIZE, 1), value, "float32") for value in (0.0, 1.0))
    of_eps = step_from("ddim", zero, zero, one, zero, at_t, at_s, eta)
    of_noise = step_from("ddim", zero, zero, zero, one, at_t, at_s, eta)
    _, variance = posterior_freq(zero, zero, at_t, at_s)
    np.testing.assert_allclose(of_noise, eta * np.sqrt(variance), rtol=1e-4)
    np.testing.assert_allclose(np.square(of_eps) + np.square(of_noise), at_s.sigma**2 * one, rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_multistep_step_is_exact_for_polynomials(rng, order):
    """eps a polynomial of degree order - 1 in w: the step adds the integral of eps d(rho), here by quadrature."""
    times = [0.55, 0.6, 0.7, 0.75]  # s, t and the two before
    coefficients = rng.normal(size=(order, 1, *SIZE, 1))
    polynomial = lambda w: sum(c * w**k for k, c in enumerate(coefficients))
    at_s, at_t, *before = marginals(PROCESS, *times)
    eps = [polynomial(np.asarray(at.log_a_over_sigma, np.float64)).astype("float32") for at in (at_t, *before)]
    z_freq = rng.normal(size=(1, *SIZE, 1)).astype("float32")
    estimate = Estimate((z_freq - at_t.sigma * eps[0]) / at_t.alpha, eps[0], None)
    marginal_of = lambda w: PROCESS.marginal_of(w, *SIZE)
    earlier = tuple(zip(eps[1:], before, (True, True)))
    step = Step(z_freq, estimate, 0.0, at_t, at_s, marginal_of, earlier)
    fine = PROCESS.marginal(np.linspace(times[1], times[0], 4001).astype("float32"), *SIZE)
    rho = np.exp(np.asarray(fine.log_sigma, np.float64) - np.asarray(fine.log_alpha, np.float64))
    values = polynomial(np.asarray(fine.log_a_over_sigma, np.float64))
    integral = (0.5 * (values[1:] + values[:-1]) * np.diff(rho, axis=0)).sum(axis=0)
    expected = np.asarray(at_s.alpha) * (z_freq / np.asarray(at_t.alpha) + integral)
    np.testing.assert_allclose(multistep_step(step, order), expected, rtol=1e-3, atol=1e-3)


def test_without_calls_before_it_a_multistep_step_is_ddims(rng):
    z_freq, eps_freq, other = rng.normal(size=(3, 2, *SIZE, 1)).astype("float32")
    at_t, at_s = marginals(PROCESS, 1.0, 0.9)
    estimate = Estimate((z_freq - at_t.sigma * eps_freq) / at_t.alpha, eps_freq, None)
    nothing = ((other, at_t, tf.constant(False)),) * 2
    step = Step(z_freq, estimate, 0.0, at_t, at_s, lambda w: PROCESS.marginal_of(w, *SIZE), nothing)
    np.testing.assert_array_equal(multistep_step(step, 3), get_sampler("ddim").step(step))


def test_without_a_call_before_it_ancestral2_is_ancestral(rng):
    z_freq, x0_freq, other, noise_freq = rng.normal(size=(4, 2, *SIZE, 1)).astype("float32")
    at_t, at_s = marginals(PROCESS, 1.0, 0.9)
    estimate = Estimate(x0_freq, None, None)
    nothing = ((other, at_t, tf.constant(False)),)
    step = Step(z_freq, estimate, noise_freq, at_t, at_s, None, nothing)
    np.testing.assert_array_equal(get_sampler("ancestral2").step(step), get_sampler("ancestral").step(step))


def exact_images(sampler, process, x0_freq, num_steps=7):
    """Samples with a network that knows x0, from x0 blurred."""
    (at_1,) = marginals(process, 1.0)
    denoise = lambda z_freq, t, at_t, at_s: Estimate(x0_freq, None, at_s.alpha * x0_freq)
    times = GRIDS["uniform"](num_steps)[:, None]
    return run_steps(get_sampler(sampler), denoise, process, None, (at_1.alpha * x0_freq,), times, 0, num_steps)[0]


def test_cold_diffusions_two_algorithms_agree_for_an_exact_network(rng):
    x0_freq = rng.normal(size=(2, *SIZE, 1)).astype("float32")
    process = bd.process.cold(sigma_blur_min=0.05, num_levels=7)
    for sampler in ("cold", "cold_naive", "heat"):
        np.testing.assert_allclose(exact_images(sampler, process, x0_freq), x0_freq, atol=1e-5)


def test_cold_diffusions_two_algorithms_treat_an_error_differently(rng):
    """The naive one throws away what is in the state and not in x0_hat; the improved one keeps it."""
    x0_freq, error = rng.normal(size=(2, 2, *SIZE, 1)).astype("float32")
    at_t, at_s = marginals(bd.process.cold(sigma_blur_min=0.05, num_levels=7), 0.6, 0.4)
    z_freq = at_t.alpha * x0_freq + error
    improved, naive = (step_from(name, z_freq, x0_freq, None, 0.0, at_t, at_s) for name in ("cold", "cold_naive"))
    np.testing.assert_allclose(improved, at_s.alpha * x0_freq + error, atol=1e-5)
    np.testing.assert_allclose(naive, at_s.alpha * x0_freq, atol=1e-5)


def test_heat_adds_delta_to_the_mean(rng):
    x0_freq, noise_freq = rng.normal(size=(2, 2, *SIZE, 1)).astype("float32")
    at_t, at_s = marginals(bd.process.heat_dissipation(num_levels=5), 0.6, 0.4)
    result = step_from("heat", x0_freq, x0_freq, None, noise_freq, at_t, at_s, delta=0.5)
    np.testing.assert_allclose(result, at_s.alpha * x0_freq + 0.5 * noise_freq, atol=1e-6)


def test_the_last_step_is_free_of_noise(rng):
    z_1 = rng.normal(size=(2, *SIZE, 1)).astype("float32")
    noise = {0: 0.0, 1: 1e6}
    draw_noise = lambda i: tf.where(i == 1, noise[1], noise[0]) * tf.ones((2, *SIZE, 1))
    assert np.abs(sample("ancestral", 2, z_1, draw_noise=draw_noise)).max() < 100


@pytest.mark.parametrize("sampler", ["ddim", "multistep3", "ancestral2"])
def test_steps_run_in_two_parts_are_the_whole(rng, sampler):
    z_1 = rng.normal(size=(2, *SIZE, 1)).astype("float32")
    one, times = get_sampler(sampler), GRIDS["uniform"](7)[:, None]
    start = first_state(z_1, one)
    run = functools.partial(run_steps, one, analytic_denoiser, PROCESS, lambda i: np.zeros_like(z_1))
    whole, half = run(start, times, 0, 7), run(start, times, 0, 3)
    np.testing.assert_allclose(run(half, times, 3, 7)[0], whole[0], rtol=1e-5, atol=1e-6)


def test_times_of_each_image_are_its_own(rng):
    """Two images, one of which starts at t = 0.5, in one batch as alone."""
    z = rng.normal(size=(2, *SIZE, 1)).astype("float32")
    times = GRIDS["quadratic"](6)[:, None] * np.array([[1.0, 0.5]], "float32")
    run = functools.partial(run_steps, get_sampler("multistep2"), analytic_denoiser)
    both = run(PROCESS, None, (z, np.zeros_like(z)), times, 0, 6)[0]
    for row in range(2):
        state = (z[row : row + 1], np.zeros_like(z[:1]))
        alone = run(PROCESS, None, state, times[:, row : row + 1], 0, 6)[0]
        np.testing.assert_allclose(both[row], alone[0], rtol=1e-4, atol=1e-5)


def test_samplers_draw_noise_only_where_it_matters():
    drawing = lambda name, eta=0.0, delta=0.0: get_sampler(name).draws_noise(eta, delta)
    assert [drawing("ddim", eta=eta) for eta in (0.0, 0.1, 1.0)] == [False, True, True]
    assert [drawing("heat", delta=delta) for delta in (0.0, 0.1)] == [False, True]
    assert all(map(drawing, ("ancestral", "ancestral2")))
    assert not any(map(drawing, ("multistep2", "multistep3", "cold", "cold_naive")))


@pytest.mark.parametrize(
    "process, prediction, sampler, num_steps",
    [
        (bd.process.gaussian(), "v", "ancestral2", 20),
        (bd.process.blurring(min_gain=0.0), "x0", "ddim", 20),
        (bd.process.heat_dissipation(num_levels=9), "less_blurred", "heat", 9),
        (bd.process.heat_dissipation(num_levels=9), "x0", "ddim", 50),
        (bd.process.cold(num_levels=9), "x0", "cold", 50),
    ],
)
def test_what_goes_with_a_process_and_a_prediction(process, prediction, sampler, num_steps):
    assert default_sampler(process, prediction) == sampler
    assert default_num_steps(process, prediction) == num_steps


@pytest.mark.parametrize(
    "process, prediction, fitting",
    [
        (bd.process.gaussian(), "x0", {"ancestral", "ancestral2", "ddim", "multistep2", "multistep3"}),
        (bd.process.blurring(min_gain=0.0), "x0", {"ancestral", "ddim"}),
        (bd.process.heat_dissipation(), "x0", {"ancestral", "ddim", "heat", "cold", "cold_naive"}),
        (bd.process.heat_dissipation(), "less_blurred", {"heat"}),
        (bd.process.cold(), "x0", {"heat", "cold", "cold_naive"}),
        (bd.process.cold(), "less_blurred", {"heat"}),
    ],
)
def test_what_fits_a_process_and_a_prediction(process, prediction, fitting):
    assert {name for name, sampler in SAMPLERS.items() if sampler.allowed(process, prediction)} == fitting
    with pytest.raises(ValueError, match="it must be one of " + ", ".join(n for n in SAMPLERS if n in fitting)):
        get_sampler((SAMPLERS.keys() - fitting).pop(), process, prediction)


@pytest.mark.parametrize("sampler, lower, num_steps", [("multistep2", "ddim", 2), ("multistep3", "multistep2", 3)])
def test_an_earlier_answer_counts_from_the_first_step_that_has_it(rng, sampler, lower, num_steps):
    """Up to the step before, the sampler of the lower order is the same; with this step it differs."""
    z_1, times = rng.normal(size=(2, *SIZE, 1)).astype("float32"), GRIDS["uniform"](4)[:, None]

    def after(name, last):
        one = get_sampler(name)
        return run_steps(one, analytic_denoiser, PROCESS, lambda i: 0.0, first_state(z_1, one), times, 0, last)[0]

    before = num_steps - 1
    np.testing.assert_allclose(after(sampler, before), after(lower, before), rtol=1e-5, atol=1e-6)
    assert np.abs(after(sampler, num_steps) - after(lower, num_steps)).max() > 1e-3


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_samplers_own_grid_is_the_better_one(name):
    """Of those of a higher order: the smaller error in 20 steps of the exact denoiser, both families together."""
    if get_sampler(name).order == 1:
        assert get_sampler(name).grid == "uniform"
        return
    of = drawn_variance_error if get_sampler(name).draws_noise(0.0, 0.0) else variance_error
    errors = {grid: sum(of(name, 20, grid, each) for each in PROCESSES.values()) for grid in ("uniform", "quadratic")}
    assert get_sampler(name).grid == min(errors, key=errors.get), errors
