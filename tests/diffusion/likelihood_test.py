"""The variational bound: against Gaussian data's own likelihood, closed forms and float64 NumPy versions."""

import numpy as np
import pytest
from keras import ops
from scipy.special import log_ndtr
from scipy.stats import norm

import tf_blurdiff as bd
from tf_blurdiff.diffusion.bound_terms import diffusion_terms, prior_terms, reconstruction_terms
from tf_blurdiff.diffusion.grids import get_grid
from tf_blurdiff.diffusion.likelihood import bits_per_dimension
from tf_blurdiff.diffusion.predictions import Estimate, x0_from_eps
from tf_blurdiff.errors import UserError

SIZE = (8, 6)
PROCESSES = {
    "gaussian": bd.process.gaussian(),
    "linear_betas": bd.process.gaussian(noise_schedule="linear_betas"),
    "blurring": bd.process.blurring(sigma_blur_max=2.0),
    "blurring, nothing left": bd.process.blurring(sigma_blur_max=20.0, min_gain=0.0),
}
# Well above the bins' width of 0.008 and the last noise's 0.01, and almost all pixels in [-1, 1].
STD = (0.08 + 0.4 / (1.0 + bd.laplacian_eigenvalues(*SIZE)))[None, :, :, None].astype("float32")


# The other schedule's betas are in the tests of processes, too.
@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name == "linear_betas")) for name in PROCESSES])
def process(request):
    return PROCESSES[request.param]


# Hundreds of steps are traced for each process: of one always, of the others rarely.
of_long = pytest.mark.parametrize(
    "process",
    ["blurring", *(pytest.param(name, marks=pytest.mark.slow) for name in PROCESSES if name != "blurring")],
    indirect=True,
)


def eight_bit(images):
    return (np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255) / 127.5 - 1.0).astype("float32")


def gaussian_images(rng, count):
    return eight_bit(bd.idct2(STD * rng.normal(size=(count, *SIZE, 1))))


def analytic_denoiser(z_freq, t, at_t, at_s):
    """E[x0 | z_t] for coefficients that are N(0, STD^2)."""
    weight = at_t.alpha * STD**2 / (ops.square(at_t.alpha * STD) + ops.square(at_t.sigma))
    return Estimate(weight * z_freq, None, None)


def grey(z_freq, t, at_t, at_s):
    return Estimate(ops.zeros_like(z_freq), None, None)


def noisy(z_freq, t, at_t, at_s):
    """Takes all that it sees for the image, so that its error is the noise."""
    return Estimate(x0_from_eps(ops.zeros_like(z_freq), z_freq, at_t), None, None)


def float64(marginal):
    """(alpha, sigma, logsnr) of a marginal."""
    log_alpha, log_sigma = (np.asarray(each, np.float64) for each in (marginal.log_alpha, marginal.log_sigma))
    return np.exp(log_alpha), np.exp(log_sigma), 2.0 * (log_alpha - log_sigma)


def snr(process, t):
    return np.exp(float64(process.marginal(np.atleast_1d(t), *SIZE))[2])


def in_bits(nats):
    """Summed over an image, per dimension."""
    return nats.sum(axis=(1, 2, 3)) / nats[0].size / np.log(2.0)


def negative_log_likelihood(images):
    return in_bits(-norm.logpdf(np.asarray(bd.dct2(images), np.float64), scale=STD) - np.log(2.0 / 255.0))


def expected_diffusion(process, images, times):
    """What `analytic_denoiser` costs these images at the grid's times from 0 up, in expectation over the noise."""
    alpha, sigma, logsnr = float64(process.marginal(times, *SIZE))
    snr_fall, alpha, sigma = np.exp(logsnr[:-1]) - np.exp(logsnr[1:]), alpha[1:], sigma[1:]
    weight = alpha * STD**2 / (np.square(alpha * STD) + sigma**2)
    # The squared error is a part that the image leaves, and one that the noise does.
    parts = 1.0 - weight * alpha, weight * sigma
    of_image, of_noise = (0.5 * (snr_fall * np.square(part)).sum(axis=0) for part in parts)
    total = of_image * np.square(np.asarray(bd.dct2(images), np.float64)) + of_noise
    return in_bits(total)


def within_standard_errors(values, expected, count=5):
    difference = np.asarray(values) - expected
    return abs(difference.mean()) < count * difference.std() / np.sqrt(len(difference))


# The whole


def test_the_bound_comes_within_one_percent_of_gaussian_datas_likelihood(process, rng):
    images = gaussian_images(rng, 128)
    bound = bits_per_dimension(images, process, analytic_denoiser, num_steps=1000, batch_size=128)
    assert bound.total.mean() == pytest.approx(negative_log_likelihood(images).mean(), rel=0.01)


def test_the_bound_comes_nearer_on_even_steps_of_the_logsnr(rng):
    images, process = gaussian_images(rng, 64), PROCESSES["gaussian"]
    by_grid = {
        grid: bits_per_dimension(images, process, analytic_denoiser, 200, grid=grid).total.mean()
        for grid in ("logsnr", "uniform")
    }
    assert negative_log_likelihood(images).mean() < by_grid["logsnr"] < 0.9 * by_grid["uniform"]


@of_long
def test_the_bound_falls_towards_the_likelihood(process, rng):
    images = gaussian_images(rng, 32)
    bounds = [bits_per_dimension(images, process, analytic_denoiser, n, grid="uniform") for n in (10, 30, 100, 300)]
    above = np.array([(bound.total - negative_log_likelihood(images)).mean() for bound in bounds])
    assert (above > 0).all() and (np.diff(above) < 0).all()
    # The sum of the steps' terms differs from their integral by a first-order error.
    assert 2.0 < above[-2] / above[-1] < 6.0


@of_long
def test_the_bound_is_what_the_analytic_denoiser_costs(process, rng):
    images = gaussian_images(rng, 64)
    for num_steps, num_times, grid in [(300, None, "uniform"), (300, 50, "quadratic"), (7, None, "quadratic")]:
        bound = bits_per_dimension(images, process, analytic_denoiser, num_steps, num_times, grid, num_steps)
        expected = expected_diffusion(process, images, get_grid(grid)(num_steps)[::-1].astype(np.float64))
        assert within_standard_errors(bound.diffusion, expected)
        np.testing.assert_allclose(bound.total, bound.prior + bound.diffusion + bound.reconstruction, rtol=1e-12)


# The terms


def test_prior_terms_are_the_divergence(process, rng):
    x0_freq = rng.normal(size=(2, *SIZE, 3)).astype("float32")
    for t in (1.0, 0.5):
        at_t = process.marginal([t], *SIZE)
        alpha, sigma, _ = float64(at_t)
        expected = 0.5 * (np.square(alpha * x0_freq) + sigma**2 - 1.0 - np.log(sigma**2))
        np.testing.assert_allclose(prior_terms(x0_freq, at_t), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("t, s", [(1.0, 0.999), (0.6, 0.4), (0.001, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("name", ["gaussian", "linear_betas", "blurring"])
def test_diffusion_terms_are_the_divergence_of_the_steps(name, t, s, rng):
    x0_freq, x0_hat_freq = rng.normal(size=(2, 2, *SIZE, 3)).astype("float32")
    at_t, at_s = (PROCESSES[name].marginal([time], *SIZE) for time in (t, s))
    (alpha, sigma, logsnr_t), (_, _, logsnr_s) = float64(at_t), float64(at_s)
    # As written with eps: z_t is the same for the image and its estimate.
    eps_error = alpha * (x0_freq - x0_hat_freq) / sigma
    expected = 0.5 * np.expm1(logsnr_s - logsnr_t) * np.square(eps_error)
    np.testing.assert_allclose(diffusion_terms(x0_freq, x0_hat_freq, at_t, at_s), expected, rtol=1e-3)
    # And as two Gaussians with the posterior's variance.
    means, variance = [], None
    for image in (x0_freq, x0_hat_freq):
        mean, variance = bd.process.posterior_freq(at_t.alpha * x0_freq, image, at_t, at_s)
        means.append(np.asarray(mean, np.float64))
    divergence = 0.5 * np.square(means[0] - means[1]) / np.asarray(variance, np.float64)
    np.testing.assert_allclose(expected, divergence, rtol=1e-2, atol=1e-3 * divergence.max())


def test_terms_are_finite_where_blur_leaves_nothing(rng):
    process = bd.process.blurring(sigma_blur_max=200.0, min_gain=0.0)
    x0_freq, x0_hat_freq = rng.normal(size=(2, 2, *SIZE, 3)).astype("float32")
    at_t, at_s = (process.marginal([time], *SIZE) for time in (0.9, 0.2))
    assert np.min(at_t.logsnr - at_s.logsnr) < -1e4
    assert np.isfinite(diffusion_terms(x0_freq, x0_hat_freq, at_t, at_s)).all()


@pytest.mark.parametrize("logsnr_max", [4.0, 10.0, 15.0])
def test_reconstruction_terms_are_exact_into_the_tails(logsnr_max):
    at_0 = bd.process.gaussian(logsnr_max=logsnr_max).marginal([0.0], 1, 1)
    alpha, sigma, _ = float64(at_0)
    eps = np.linspace(-9.0, 9.0, 181, dtype="float32")[:, None, None, None] * np.ones((1, 1, 1, 3), "float32")
    images = eight_bit([-1.0, 0.2, 1.0]) + 0.0 * eps
    edges = [(images - 1 / 255), (images + 1 / 255)]
    mean = images.astype(np.float64) + sigma / alpha * eps
    lower, upper = (((edge - mean) * alpha / sigma) for edge in edges)
    flip = lower + upper > 0
    left, right = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    expected = -(log_ndtr(right) + np.log(-np.expm1(log_ndtr(left) - log_ndtr(right))))
    expected[..., 0], expected[..., 2] = -log_ndtr(upper[..., 0]), -log_ndtr(-lower[..., 2])
    np.testing.assert_allclose(reconstruction_terms(images, eps, at_0), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("z", [-1.003, -0.4, 0.0, 0.51, 0.999])
def test_the_levels_of_a_pixel_share_all_probability(z):
    at_0 = bd.process.gaussian(logsnr_max=8.0).marginal([0.0], 1, 1)
    alpha, sigma, _ = float64(at_0)
    levels = (np.arange(256) / 127.5 - 1.0)[:, None, None, None]
    eps = alpha * (z - levels) / sigma
    near = np.abs(eps) < 12.0
    terms = reconstruction_terms(levels.astype("float32"), np.clip(eps, -12.0, 12.0).astype("float32"), at_0)
    assert np.exp(-np.asarray(terms))[near].sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("logsnr_min", [-10.0, -2.0])
def test_the_prior_is_that_of_the_last_time(logsnr_min, rng):
    process, images = bd.process.gaussian(logsnr_min=logsnr_min), gaussian_images(rng, 5)
    alpha, sigma, _ = float64(process.marginal([1.0], *SIZE))
    expected = 0.5 * (np.square(alpha * np.asarray(bd.dct2(images))) + sigma**2 - 1.0 - np.log(sigma**2))
    bound = bits_per_dimension(images, process, grey, num_steps=1)
    np.testing.assert_allclose(bound.prior, in_bits(expected), rtol=1e-4)


def test_the_reconstruction_is_its_expectation(process, rng):
    images = np.repeat(gaussian_images(rng, 1), 200, axis=0)
    bound = bits_per_dimension(images, process, grey, num_steps=1)
    alpha, sigma, _ = float64(process.marginal([0.0], 1, 1))
    half_width = (alpha / sigma / 255).item()
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    nodes, weights = nodes[weights > 1e-12], weights[weights > 1e-12] / weights.sum()
    bits = -np.log2(norm.cdf(half_width - nodes) - norm.cdf(-half_width - nodes))
    assert within_standard_errors(bound.reconstruction, (weights * bits).sum())


# What is drawn


@pytest.mark.parametrize(
    "num_steps, num_times",
    [
        (3, 1),
        (100, 4),
        (100, 100),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(4, 2), (100, 1), (100, 20)]),
    ],
)
def test_the_estimate_from_few_times_is_unbiased(num_steps, num_times, rng):
    count = 4000 // num_times
    process, images = PROCESSES["blurring"], np.repeat(gaussian_images(rng, 1), count, axis=0)
    bound = bits_per_dimension(images, process, grey, num_steps, num_times, batch_size=count)
    # The sum of all the terms telescopes: this denoiser's error is the same at all times.
    whole = 0.5 * (snr(process, 0.0) - snr(process, 1.0)) * np.square(np.asarray(bd.dct2(images[:1]), np.float64))
    if num_times == num_steps:
        np.testing.assert_allclose(bound.diffusion, in_bits(whole)[0], rtol=1e-4)
    else:
        assert within_standard_errors(bound.diffusion, in_bits(whole)[0])


def test_the_noise_of_steps_images_and_coefficients_is_independent(rng):
    process, num_steps, count = PROCESSES["gaussian"], 20, 1000
    images = np.repeat(gaussian_images(rng, 1), count, axis=0)
    diffusion = bits_per_dimension(images, process, noisy, num_steps, grid="uniform", batch_size=count).diffusion
    levels = snr(process, np.arange(num_steps + 1) / num_steps)[:, 0, 0, 0]
    # Each term is this weight times the square of a standard normal number, whose mean is 1 and variance 2.
    weights = 0.5 * (levels[:-1] / levels[1:] - 1.0) / np.log(2.0)
    assert within_standard_errors(diffusion, weights.sum())
    variance = 2.0 * np.square(weights).sum() / np.prod(SIZE)
    assert diffusion.var() == pytest.approx(variance, rel=6 * np.sqrt(2 / count))


def test_results_depend_on_seed_and_row_alone(rng):
    images = gaussian_images(rng, 7)
    arguments = PROCESSES["blurring"], analytic_denoiser, 20, 5
    whole, again, other = (bits_per_dimension(images, *arguments, seed=seed) for seed in (3, 3, 4))
    for parts in (again, bits_per_dimension(images, *arguments, seed=3, batch_size=3)):
        for name, value in whole._asdict().items():
            np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-5, err_msg=name)
    shorter = bits_per_dimension(images[:2], *arguments, seed=3)
    np.testing.assert_allclose(shorter.total, whole.total[:2], rtol=1e-5)
    assert (np.abs(whole.diffusion / other.diffusion - 1.0) > 1e-3).all()
    assert (np.abs(whole.reconstruction / other.reconstruction - 1.0) > 1e-5).all()


def test_a_progress_bar_changes_nothing(rng, capsys):
    images = gaussian_images(rng, 3)
    arguments = images, PROCESSES["gaussian"], analytic_denoiser, 50
    quiet, verbose = (bits_per_dimension(*arguments, batch_size=2, verbose=verbose) for verbose in (False, True))
    np.testing.assert_allclose(verbose.total, quiet.total, rtol=1e-5)
    assert "150/150" in capsys.readouterr().err


# The spectrum, and what goes to the denoiser


@pytest.mark.parametrize("num_bands", [8, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 3, 40))])
def test_the_spectrum_is_that_of_the_coefficients(process, num_bands, rng):
    images = gaussian_images(rng, 4)
    bound = bits_per_dimension(images, process, grey, 10, num_bands=num_bands)
    np.testing.assert_allclose(bound.spectrum.sum(axis=1), bound.prior + bound.diffusion, rtol=1e-9)
    # This denoiser's error telescopes for each coefficient.
    x0_freq, size = np.asarray(bd.dct2(images), np.float64), images[0].size
    nats = 0.5 * (snr(process, 0.0) - snr(process, 1.0)) * np.square(x0_freq)
    nats += np.asarray(prior_terms(x0_freq.astype("float32"), process.marginal([1.0], *SIZE)))
    expected = np.zeros((4, num_bands))
    highest = np.hypot(1 - 1 / SIZE[0], 1 - 1 / SIZE[1])
    for i in range(SIZE[0]):
        for j in range(SIZE[1]):
            band = int(np.hypot(i / SIZE[0], j / SIZE[1]) / highest * num_bands * (1 - 1e-6) + 1e-6)
            expected[:, min(band, num_bands - 1)] += nats[:, i, j, 0] / size / np.log(2.0)
    np.testing.assert_allclose(bound.bands, highest * np.arange(num_bands + 1) / num_bands, rtol=1e-6)
    np.testing.assert_allclose(bound.spectrum, expected, rtol=1e-3, atol=1e-6)


def test_the_denoiser_is_given_its_rows_of_the_conditions(rng):
    images = gaussian_images(rng, 5)
    shift = rng.normal(size=(5, 1, 1, 1)).astype("float32")
    given = []

    def denoise(z_freq, t, at_t, at_s, label, shift):
        given.append((label.dtype.name, tuple(t.shape), tuple(z_freq.shape)))
        return Estimate(ops.cast(label, "float32")[:, None, None, None] + shift + 0.0 * z_freq, None, None)

    label = np.arange(5)
    process = PROCESSES["gaussian"]
    bound = bits_per_dimension(images, process, denoise, 4, batch_size=2, conditions=(label, shift))
    error = np.asarray(bd.dct2(images), np.float64) - (label[:, None, None, None] + shift)
    whole = 0.5 * (snr(process, 0.0) - snr(process, 1.0)) * np.square(error)
    np.testing.assert_allclose(bound.diffusion, in_bits(whole), rtol=1e-4)
    # Traced once, for batches of any size.
    assert given == [("int64", (None,), (None, *SIZE, 1))]


# What is not allowed

IMAGES = np.zeros((2, 4, 4, 1), "float32") + 1.0 / 255.0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"process": bd.process.heat_dissipation()}, "bits per dimension need a process that ends in noise"),
        ({"process": bd.process.cold()}, "bits per dimension need a process that ends in noise"),
        ({"num_steps": 0}, "num_steps must be an integer of 1 or more"),
        ({"num_steps": 2.0}, "num_steps must be an integer of 1 or more.*Received: 2.0"),
        ({"num_times": 0}, "num_times must be an integer of 1 or more"),
        ({"num_times": 3}, "num_times must divide num_steps, 10. Received: 3"),
        ({"num_times": 20}, "num_times must divide num_steps, 10. Received: 20"),
        ({"grid": "cubic"}, "grid must be one of uniform, quadratic, logsnr. Received: 'cubic'"),
        ({"seed": 2**63}, "seed must be an integer of 64 bits"),
        ({"seed": 0.5}, "seed must be an integer of 64 bits. Received: 0.5"),
        ({"batch_size": 0}, "batch_size must be an integer of 1 or more"),
        ({"num_bands": True}, "num_bands must be an integer of 1 or more"),
        ({"images": IMAGES[0]}, r"images must be floats \[N, H, W, C\].*shape \(4, 4, 1\)"),
        ({"images": IMAGES[:0]}, r"images must be floats \[N, H, W, C\].*shape \(0, 4, 4, 1\)"),
        ({"images": np.zeros((2, 4, 4, 1), "uint8")}, r"images must be floats \[N, H, W, C\].*uint8"),
        ({"images": 0.0 * IMAGES}, "images must be 8-bit pixels.*0.5 of a level"),
        ({"images": IMAGES + 2.0}, "images must be 8-bit pixels"),
        ({"images": IMAGES + np.nan}, "images must be 8-bit pixels"),
        ({"conditions": (np.zeros(3),)}, r"conditions must have 2 rows.*shape \(3,\)"),
        ({"denoiser": lambda *_: Estimate(None, None, None)}, "need an estimate of the image"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {"images": IMAGES, "process": PROCESSES["gaussian"], "denoiser": grey, "num_steps": 10, **changes}
    with pytest.raises(UserError, match=message):
        bits_per_dimension(**arguments)


def test_a_large_seed_is_taken():
    for seed in (2**63 - 1, -(2**63)):
        assert np.isfinite(bits_per_dimension(IMAGES, PROCESSES["gaussian"], grey, 4, 1, seed=seed).total).all()
