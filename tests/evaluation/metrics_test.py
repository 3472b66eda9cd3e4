"""The metrics against independent implementations: POT, scipy's general matrix root, and plain loops written here.

torch-fidelity and pytorch-fid need torch, which would be a large dependency for a test; they are not used.
"""

import os

os.environ.setdefault("POT_BACKEND_DISABLE_TENSORFLOW", "1")

import numpy as np
import ot
import pytest
import scipy.linalg
from scipy.spatial.distance import cdist

from tests.support.images import all_of
from tests.support.models import images
from tf_blurdiff.data.sources import open_images
from tf_blurdiff.evaluation.metrics import (
    FeatureStatistics,
    frechet_distance,
    gaussian_frechet_distance,
    kernel_distance,
    nearest_neighbours,
    precision_recall,
)


@pytest.fixture
def sets(rng):
    """Two Gaussian sets, correlated and shifted, in 5 dimensions."""
    mix = rng.normal(size=(2, 5, 5))
    return rng.normal(size=(300, 5)) @ mix[0], 0.5 + rng.normal(size=(400, 5)) @ mix[1]


@pytest.fixture(scope="module")
def digits():
    """Real digits, float `[1797, 64]` in [0, 255]."""
    return all_of(open_images("digits", image_size=8, channels=1)).reshape(-1, 64).astype(float)


def noisy(digits, level):
    return digits + level * np.random.default_rng(1).normal(size=digits.shape)


def blurred(digits, level):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(digits.reshape(-1, 8, 8), (0, level, level)).reshape(-1, 64)


# Frechet


def test_it_is_the_formula_with_a_general_matrix_root(sets):
    x, y = sets
    c, d = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-8)
    np.testing.assert_allclose(frechet_distance(y, x), expected, rtol=1e-8)


@pytest.mark.parametrize("num_features", [1, 5, 100])
def test_it_is_the_bures_wasserstein_distance_of_an_optimal_transport_library(rng, num_features):
    mix = rng.normal(size=(2, num_features, num_features))
    covariances = mix @ mix.transpose(0, 2, 1)
    means = rng.normal(size=(2, num_features))
    expected = ot.gaussian.bures_wasserstein_distance(*means, *covariances) ** 2
    actual = gaussian_frechet_distance(means[0], covariances[0], means[1], covariances[1])
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_fewer_images_than_pixels_are_no_problem(rng):
    few = rng.normal(size=(10, 8, 8, 1))
    np.testing.assert_allclose(frechet_distance(few, few), 0.0, atol=1e-6)
    assert frechet_distance(few, 2 * few) > 1.0


def test_float32_images_lose_nothing():
    x, y = images(40, seed=0), images(40, seed=1) + 3.0
    expected = frechet_distance(x.astype(np.float64), y.astype(np.float64))
    assert frechet_distance(x, y) == expected


def test_statistics_in_pieces_are_those_of_the_whole(sets):
    x = sets[0] + 1e4  # Far from 0, a sum of squares would lose eight digits.
    parts = [FeatureStatistics(5) for _ in range(3)]
    for part, rows in zip(parts, np.split(x, [7, 8])):
        for batch in np.array_split(rows, 4):
            part.update(batch)
    merged = FeatureStatistics(5)
    for part in parts:
        merged.merge(part)
    assert merged.count == 300
    np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(x.T), rtol=1e-9)


@pytest.mark.parametrize("wrong", [np.zeros((3, 4)), np.zeros(5)])
def test_statistics_refuse_vectors_of_another_length(wrong):
    with pytest.raises(ValueError, match=r"Vectors of length 5 are expected. Received: shape"):
        FeatureStatistics(5).update(wrong)


# Kernel


def unbiased_mmd(x, y):
    """Plain loops."""
    kernel = lambda a, b: (float(np.dot(a, b)) / len(a) + 1) ** 3
    within = [
        sum(kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def test_kernel_distance_is_the_mean_of_plain_loops(sets):
    x, y = sets[0][:60], sets[1][:67]
    actual = kernel_distance(x, y, subset_size=20, seed=3)
    rng = np.random.default_rng(3)
    x, y = x[rng.permutation(60)], y[rng.permutation(67)]
    expected = [unbiased_mmd(x[first : first + 20], y[first : first + 20]) for first in (0, 20, 40)]
    np.testing.assert_allclose(actual.value, np.mean(expected), rtol=1e-10)
    np.testing.assert_allclose(actual.standard_error, np.std(expected, ddof=1) / np.sqrt(3), rtol=1e-10)


def test_kernel_distance_is_unbiased_and_its_standard_error_is_right(rng):
    results = [kernel_distance(*rng.normal(size=(2, 100, 3)), subset_size=10) for _ in range(400)]
    values, errors = np.array(results).T
    spread = values.std()
    assert abs(values.mean()) < 4 * spread / np.sqrt(400)
    # The mean of 400 standard errors of 10 subsets each is within a few percent.
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), spread, rtol=0.15)


# Precision and recall


def plain_precision_recall(real, generated, k):
    """Every distance at once."""

    def share(vectors, others):
        radii = np.sort(cdist(others, others), axis=1)[:, k]
        return np.mean([(distances <= radii).any() for distances in cdist(vectors, others)])

    return share(generated, real), share(real, generated)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_precision_and_recall_are_those_of_all_distances_at_once(rng, k):
    import sklearn

    real, generated = rng.normal(size=(700, 6)), 0.7 * rng.normal(size=(500, 6)) + 0.3
    with sklearn.config_context(working_memory=1):  # MiB: several blocks.
        actual = precision_recall(real, generated, k)
    np.testing.assert_allclose(actual, plain_precision_recall(real, generated, k), rtol=0, atol=1e-12)


def test_precision_and_recall_tell_missing_from_wrong(rng):
    real = np.concatenate([rng.normal(size=(300, 2)) - 10, rng.normal(size=(300, 2)) + 10])
    half, spread = rng.normal(size=(600, 2)) + 10, rng.uniform(-40, 40, size=(6000, 2))
    missing, wrong = precision_recall(real, half), precision_recall(real, spread)
    assert missing.precision > 0.95 and missing.recall < 0.55
    assert wrong.precision < 0.1 and wrong.recall > 0.95


def test_copies_of_real_images_are_precise_also_where_there_are_doubles(digits):
    real = np.repeat(digits[:50], 5, axis=0)  # All distances to the third neighbour are 0.
    assert precision_recall(real, digits[:50]) == (1.0, 1.0)


def test_nearest_neighbours_are_those_of_a_sort(rng):
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(7, 4))
    distances, numbers = nearest_neighbours(x, y, 5)
    np.testing.assert_array_equal(numbers, np.argsort(cdist(y, x), axis=1)[:, :5])
    np.testing.assert_allclose(distances, np.sort(cdist(y, x), axis=1)[:, :5], rtol=1e-9)


# What they are for


@pytest.mark.parametrize("worse", [noisy, blurred])
def test_every_metric_orders_noise_and_blur_above_the_floor_of_real_halves(digits, worse):
    halves = np.random.default_rng(0).permutation(digits)
    one, other = halves[:898], halves[898:]
    levels = [0.0, 20.0, 60.0, 120.0] if worse is noisy else [0.0, 0.5, 1.0, 2.0]
    sets = [worse(other, level) for level in levels]
    frechet = [frechet_distance(one, x) for x in sets]
    kernel = [kernel_distance(one, x).value for x in sets]
    # Their sum: a little blur alone is more precise, and recalls less.
    shares = [sum(precision_recall(one, x)) for x in sets]
    assert np.all(np.diff(frechet) > 0) and np.all(np.diff(kernel) > 0) and np.all(np.diff(shares) < 0)
    floor = kernel_distance(one, other)
    assert abs(floor.value) < 4 * floor.standard_error and shares[0] > 1.5 and shares[-1] <= 1.0


# Mistakes


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4))])
def test_sets_that_cannot_be_compared_are_named(shapes):
    sets = [np.zeros(shape) for shape in shapes]
    for metric in (frechet_distance, kernel_distance, precision_recall):
        with pytest.raises(ValueError, match=r"one length are expected. Received: \(\d, \d\) and \(5, \d\)"):
            metric(*sets)


@pytest.mark.parametrize("subset_size", [1, 6])
def test_subsets_that_cannot_be_made_are_named(subset_size):
    with pytest.raises(ValueError, match=r"subset_size must be in \[2, 5\]"):
        kernel_distance(np.zeros((10, 3)), np.zeros((12, 3)), subset_size)
