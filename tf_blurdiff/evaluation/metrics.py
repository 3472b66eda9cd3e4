"""Distances between sets of images, from their features; all in float64.

Whose features they are belongs to a distance's name: see `features`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_MIN_VECTORS = 2


class FeatureStatistics:
    """Number, mean and covariance of vectors that come in batches; two of them merge to those of all their vectors.

    Args:
        num_features: length of a vector.

    Attributes:
        count: how many vectors.
        mean: float64 `[D]`.
        scatter: float64 `[D, D]`, the sum of `(x - mean) (x - mean)^T`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(100, 3))
        >>> statistics = FeatureStatistics(3)
        >>> statistics.update(x[:30])
        >>> statistics.update(x[30:])
        >>> bool(np.allclose(statistics.covariance, np.cov(x.T)))
        True

    Reference: Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983.
    """

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(num_features)
        self.scatter: np.ndarray = np.zeros((num_features, num_features))

    def update(self, features: ArrayLike) -> None:
        """Adds vectors, `[N, D]`."""
        vectors = np.asarray(features, np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ValueError(f"Vectors of length {len(self.mean)} are expected. Received: shape {vectors.shape}")
        if len(vectors):
            mean = vectors.mean(axis=0)
            self._add(len(vectors), mean, (vectors - mean).T @ (vectors - mean))

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds the vectors of another `FeatureStatistics`."""
        self._add(other.count, other.mean, other.scatter)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, float64 `[D, D]`; of two vectors or more."""
        if self.count < _MIN_VECTORS:
            raise ValueError(f"A covariance is of at least two vectors. Received: {self.count}")
        return self.scatter / (self.count - 1)

    def _add(self, count, mean, scatter):
        total = self.count + count
        if not total:
            return
        shift = mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total


def frechet_distance(features: ArrayLike, other: ArrayLike) -> float:
    """The Frechet distance between two sets of features, taken for Gaussians; computed in float64.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. On Inception features it is what is called FID; on others it is not.

    Args:
        features, other: `[N, ...]` each, N at least 2; all but the first axis are one vector.

    Returns:
        A float, 0 or more.

    Raises:
        ValueError: if the vectors differ in length, or a set has fewer than 2.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(1000, 2))
        >>> round(frechet_distance(x, x + [3.0, 0.0]), 6)
        9.0

    Reference: Dowson and Landau, The Frechet distance between multivariate normal distributions, 1982.
    """
    sets = _checked(features, other, _MIN_VECTORS)
    one, two = ((x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))) for x in sets)
    return gaussian_frechet_distance(*one, *two)


def gaussian_frechet_distance(
    mean: ArrayLike, covariance: ArrayLike, other_mean: ArrayLike, other_covariance: ArrayLike
) -> float:
    """The Frechet distance between two Gaussians.

    Args:
        mean, other_mean: `[D]`.
        covariance, other_covariance: `[D, D]`; they may be singular.

    Returns:
        A float, 0 or more.

    Example:
        >>> gaussian_frechet_distance([0.0], [[1.0]], [1.0], [[4.0]])
        2.0
    """
    m_1, c_1, m_2, c_2 = (np.asarray(each, np.float64) for each in (mean, covariance, other_mean, other_covariance))
    # tr (C1 C2)^(1/2) = tr (S C2 S)^(1/2) with S = C1^(1/2), and that matrix is symmetric.
    values, vectors = np.linalg.eigh(c_1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c_2 @ root), 0.0)).sum()
    distance = np.square(m_1 - m_2).sum() + np.trace(c_1) + np.trace(c_2) - 2.0 * cross
    return max(0.0, float(distance))


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy, which is unbiased and can be below 0."""

    value: float
    standard_error: float  # of value, over the choice of both sets


def kernel_distance(
    features: ArrayLike, other: ArrayLike, subset_size: int | None = None, seed: int = 0
) -> KernelDistance:
    """The kernel distance between two sets: the unbiased MMD^2 with the kernel `(x . y / D + 1)^3`.

    It is the mean over subsets. They are disjoint here, where the paper draws overlapping ones: the expectation is the
    same, and the standard error over independent subsets is that of the value. On Inception features it is what is
    called KID; on others it is not.

    Args:
        features, other: `[N, ...]` each; all but the first axis are one vector.
        subset_size: vectors in a subset, 2 or more and at most half of the smaller set. None is a tenth of the smaller
            set, but no more than 1,000.
        seed: of the division into subsets.

    Returns:
        A `KernelDistance`.

    Raises:
        ValueError: if the vectors differ in length, or the sets are too small for two subsets.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(2, 500, 4))
        >>> same, shifted = kernel_distance(x, y), kernel_distance(x, y + 1.0)
        >>> abs(same.value) < 3 * same.standard_error, shifted.value > 3 * shifted.standard_error
        (True, True)

    Reference: Binkowski et al., Demystifying MMD GANs, 2018, section 4.
    """
    x, y = _checked(features, other, 2 * _MIN_VECTORS)
    smaller = min(len(x), len(y))
    size = max(_MIN_VECTORS, min(1000, smaller // 10)) if subset_size is None else subset_size
    if not _MIN_VECTORS <= size <= smaller // 2:
        raise ValueError(f"subset_size must be in [2, {smaller // 2}], half of the smaller set. Received: {size}")
    rng, num_subsets = np.random.default_rng(seed), smaller // size
    x, y = (each[rng.permutation(len(each))[: num_subsets * size]] for each in (x, y))
    values = [_squared_mmd(*pair) for pair in zip(np.split(x, num_subsets), np.split(y, num_subsets))]
    return KernelDistance(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(num_subsets)))


def _squared_mmd(x, y):
    kernel = lambda a, b: (a @ b.T / x.shape[1] + 1.0) ** 3
    within = [(np.sum(k) - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return sum(within) - 2.0 * np.mean(kernel(x, y))


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]."""

    precision: float  # of the generated vectors, those among the real ones
    recall: float  # of the real vectors, those among the generated ones


def precision_recall(real: ArrayLike, generated: ArrayLike, num_neighbours: int = 3) -> PrecisionRecall:
    """Precision and recall of generated images: how many look real, and how much of what is real they cover.

    A vector is among a set if it is within the distance of some vector of that set to its nearest neighbour number
    num_neighbours in the set. Both shares depend on the sizes of the sets.

    Args:
        real, generated: `[N, ...]` each, N above num_neighbours; all but the first axis are one vector.
        num_neighbours: 1 or more.

    Returns:
        A `PrecisionRecall`.

    Raises:
        ValueError: if the vectors differ in length, or a set is too small.

    Example:
        >>> real = np.random.default_rng(0).normal(size=(200, 2))
        >>> precision_recall(real, real[real[:, 0] > 0]).precision
        1.0

    Reference: Kynkaanniemi et al., Improved precision and recall metric for assessing generative models, 2019.
    """
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours must be 1 or more. Received: {num_neighbours}")
    x, y = _checked(real, generated, num_neighbours + 1)
    return PrecisionRecall(_share_among(y, x, num_neighbours), _share_among(x, y, num_neighbours))


def _share_among(vectors, others, num_neighbours):
    from sklearn.metrics import pairwise_distances_chunked

    radii = nearest_neighbours(others, None, num_neighbours)[0][:, -1]
    # A vector that is in both sets has the distance 0, up to rounding.
    among = lambda distances, start: (distances <= radii + 1e-12).any(axis=1)
    return float(np.concatenate(list(pairwise_distances_chunked(vectors, others, reduce_func=among))).mean())


def nearest_neighbours(vectors: ArrayLike, others: ArrayLike | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `others`, its nearest vectors, the nearest first.

    Args:
        vectors: `[N, D]`.
        others: `[M, D]`, or None for the vectors themselves, none of which is then its own neighbour.
        count: neighbours of each, at most N, or N - 1.

    Returns:
        Distances `[M, count]` and the neighbours' row numbers `[M, count]`.

    Example:
        >>> nearest_neighbours([[0.0], [2.0], [3.0]], None, 1)[1].tolist()
        [[1], [2], [1]]
    """
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count, algorithm="brute").fit(vectors).kneighbors(others)


def _checked(features, other, smallest):
    """Both sets as float64 `[N, D]`."""
    sets = [np.asarray(each, np.float64).reshape(len(each), -1) for each in (features, other)]
    if min(map(len, sets)) < smallest or sets[0].shape[1] != sets[1].shape[1]:
        shapes = " and ".join(str(each.shape) for each in sets)
        number = "two" if smallest == _MIN_VECTORS else smallest
        raise ValueError(f"Two sets of at least {number} vectors of one length are expected. Received: {shapes}")
    return sets
