"""Distances between sets of images."""

import numpy as np


def frechet_distance(features, other):
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
    sets = [np.asarray(each, np.float64).reshape(len(each), -1) for each in (features, other)]
    if min(map(len, sets)) < 2 or sets[0].shape[1] != sets[1].shape[1]:
        shapes = " and ".join(str(each.shape) for each in sets)
        raise ValueError(f"Two sets of at least two vectors of one length are expected. Received: {shapes}")
    means = [each.mean(axis=0) for each in sets]
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in sets]
    # tr (C1 C2)^(1/2) = tr (S C2 S)^(1/2) with S = C1^(1/2), and that matrix is symmetric.
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0.0)).sum()
    distance = np.square(means[0] - means[1]).sum() + sum(map(np.trace, covariances)) - 2.0 * cross
    return max(0.0, float(distance))
