import numpy as np
import pytest
import scipy.linalg

from tf_blurdiff.metrics import frechet_distance


def test_it_is_the_formula_with_a_general_matrix_root(rng):
    mix = rng.normal(size=(2, 5, 5))
    x, y = rng.normal(size=(300, 5)) @ mix[0], 0.5 + rng.normal(size=(400, 5)) @ mix[1]
    c, d = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-8)
    np.testing.assert_allclose(frechet_distance(y, x), expected, rtol=1e-8)


def test_fewer_images_than_pixels_are_no_problem(rng):
    images = rng.normal(size=(10, 8, 8, 1))
    np.testing.assert_allclose(frechet_distance(images, images), 0.0, atol=1e-6)
    assert frechet_distance(images, 2 * images) > 1.0


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4))])
def test_sets_that_cannot_be_compared_are_named(shapes):
    with pytest.raises(ValueError, match=r"one length are expected. Received: \(\d, \d\) and \(5, \d\)"):
        frechet_distance(*(np.zeros(shape) for shape in shapes))
