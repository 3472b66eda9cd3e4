"""Consistency with a measurement is the posterior mean of a linear Gaussian problem, solved densely here."""

import numpy as np
import pytest
import scipy.fft

from tf_blurdiff.diffusion.inverse_problems import Averaged, Blurred, Masked, averaging_matrix, error_variance
from tf_blurdiff.diffusion.process import Marginal, gaussian
from tf_blurdiff.model.priors import UNKNOWN_STD

SHAPE = (6, 12)


def dct_basis(height, width):
    """Orthonormal: pixels to coefficients, `[H W, H W]`."""
    pixels = np.eye(height * width).reshape(-1, height, width)
    return scipy.fft.dctn(pixels, axes=(1, 2), norm="ortho").reshape(height * width, -1).T


def averages(height, width, factor):
    """Pixels to means of squares."""
    pixels = np.eye(height * width).reshape(-1, height // factor, factor, width // factor, factor)
    return pixels.mean(axis=(2, 4)).reshape(height * width, -1).T


def heat(height, width, blur_sigma):
    """Pixels to pixels blurred with mirrored borders, by the explicit sum over frequencies."""
    rows, columns = np.pi * np.arange(height) / height, np.pi * np.arange(width) / width
    gain = np.exp(-0.5 * blur_sigma**2 * (rows[:, None] ** 2 + columns**2)).ravel()
    basis = dct_basis(height, width)
    return basis.T @ (gain[:, None] * basis)


MASK = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 3 == 0
OPERATORS = {
    "blurred": heat(*SHAPE, 0.8),
    "averaged by 2": averages(*SHAPE, 2),
    "averaged by 3": averages(*SHAPE, 3),
    "masked": np.eye(MASK.size)[~MASK.ravel()],
}


def observe(kind, operator, x, noise, rng):
    """The library's measurement of pixels x, `[H W]`, and the same as a vector."""
    y = operator @ x + noise * rng.normal(size=len(operator))
    if kind == "masked":
        image = np.full(x.shape, 9.0)  # What is under the mask must not matter.
        image[~MASK.ravel()] = y
        return Masked.of(image.reshape(1, *SHAPE, 1).astype("float32"), MASK[None, :, :, None], [noise]), y
    if kind == "blurred":
        return Blurred.of(y.reshape(1, *SHAPE, 1).astype("float32"), [0.8], [noise]), y
    factor = int(kind[-1])
    small = y.reshape(1, SHAPE[0] // factor, SHAPE[1] // factor, 1).astype("float32")
    return Averaged.of(small, [noise]), y


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_it_is_the_posterior_mean(rng, kind, noise):
    operator, basis = OPERATORS[kind], dct_basis(*SHAPE)
    size = operator.shape[1]
    variance = np.full(size, 0.7) if kind == "masked" else rng.uniform(0.1, 2.0, size)
    estimate, x = rng.normal(size=size), rng.normal(size=size)
    measured, y = observe(kind, operator, x, noise, rng)
    # The estimate and its error's variance are of DCT coefficients.
    a = operator @ basis.T
    gain = variance[:, None] * a.T @ np.linalg.inv(a * variance @ a.T + noise**2 * np.eye(len(a)))
    expected = estimate + gain @ (y - a @ estimate)
    as_image = lambda values: values.reshape(1, *SHAPE, 1).astype("float32")
    found = measured.consistent(as_image(estimate), as_image(variance))
    np.testing.assert_allclose(np.ravel(found), expected, atol=2e-4)
    assert np.abs(expected - estimate).max() > 0.1


def test_in_pixels_the_error_is_taken_for_white(rng):
    measured, _ = observe("masked", OPERATORS["masked"], rng.normal(size=MASK.size), 0.3, rng)
    estimate, variance = rng.normal(size=(2, 1, *SHAPE, 1)).astype("float32")
    variance = np.square(variance)
    found, of_mean = (
        measured.consistent(estimate, each) for each in (variance, np.full_like(variance, variance.mean()))
    )
    np.testing.assert_allclose(found, of_mean, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_averaging_matrix_is_averaging_in_the_basis_of_cosines(factor):
    matrix = averaging_matrix(12, factor)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(12 // factor), atol=1e-6)
    x = np.random.default_rng(0).normal(size=12)
    small = x.reshape(-1, factor).mean(axis=1) * np.sqrt(factor)
    np.testing.assert_allclose(matrix @ scipy.fft.dct(x, norm="ortho"), scipy.fft.dct(small, norm="ortho"), atol=1e-6)
    assert (np.abs(matrix) > 1e-6).sum(axis=0).max() == 1


def test_the_error_variance_is_that_of_a_gaussian_coefficient(rng):
    at_t = gaussian().marginal(np.array([0.3], "float32"), 4, 4)
    assert isinstance(at_t, Marginal)
    alpha, sigma = float(np.ravel(at_t.alpha)[0]), float(np.ravel(at_t.sigma)[0])
    x = 1.7 * rng.normal(size=200_000)
    z = alpha * x + sigma * rng.normal(size=x.size)
    residual = x - z * np.cov(x, z)[0, 1] / np.var(z)
    np.testing.assert_allclose(error_variance(1.7, at_t)[0, 0, 0, 0], np.var(residual), rtol=0.02)


def test_of_what_nothing_is_known_the_error_variance_is_that_of_the_noise():
    at_t = gaussian().marginal(np.array([0.3], "float32"), 4, 4)
    expected = np.square(np.asarray(at_t.sigma) / np.asarray(at_t.alpha))
    np.testing.assert_allclose(error_variance(UNKNOWN_STD, at_t), expected, rtol=1e-5)
