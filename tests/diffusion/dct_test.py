import numpy as np
import pytest
import scipy.fft

import tf_blurdiff as bd

SIZES = [(8, 8), (7, 5), (1, 6), (28, 28), (33, 64)]


@pytest.mark.parametrize("size", SIZES)
def test_dct2_is_scipys_orthonormal_dct(rng, size):
    x = rng.normal(size=(2, *size, 3))
    expected = scipy.fft.dctn(x, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(bd.dct2(x), expected, atol=5e-6)


@pytest.mark.parametrize("size", SIZES)
def test_idct2_is_the_inverse(rng, size):
    x = rng.normal(size=(2, *size, 3))
    np.testing.assert_allclose(bd.idct2(bd.dct2(x)), x, atol=5e-6)


def test_half_precision_is_computed_in_float32(rng):
    x = rng.normal(size=(1, 4, 4, 1)).astype("float16")
    assert bd.dct2(x).dtype == "float32"


def test_other_ranks_are_refused():
    with pytest.raises(ValueError, match=r"B, H, W, C.*\(4, 4\)"):
        bd.dct2(np.zeros((4, 4)))


def test_eigenvalues_are_those_of_the_continuous_laplacian():
    eigenvalues = bd.laplacian_eigenvalues(3, 4)
    assert eigenvalues.shape == (3, 4)
    np.testing.assert_allclose(eigenvalues[2, 3], (2 * np.pi / 3) ** 2 + (3 * np.pi / 4) ** 2, rtol=1e-6)
