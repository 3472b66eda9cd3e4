import numpy as np
import pytest

import tf_blurdiff as bd
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import priors
from tf_blurdiff.model.priors import BlurredPrior, dct_statistics

SHAPE = (8, 6, 2)
HEAT = bd.process.heat_dissipation(sigma_blur_max=3.0, num_levels=10)
COLD = bd.process.cold(sigma_blur_max=2.0)


def correlated_images(rng, count=4000):
    """The two lowest frequencies of a channel, and the two channels, go together; in two clusters."""
    freq = 0.02 * rng.normal(size=(count, *SHAPE))
    common = rng.normal(size=(count, 1)) + np.where(rng.uniform(size=(count, 1)) < 0.5, -3.0, 3.0)
    freq[:, 0, 0] += common
    freq[:, 0, 1] += -0.5 * common
    return bd.idct2(freq).numpy()


def draw(prior, statistics, count, label=None):
    normals = np.random.default_rng(1).normal(size=(count, *SHAPE)).astype("float32")
    choice = np.random.default_rng(2).normal(size=(count, 1)).astype("float32")
    label = np.zeros(count, "int64") if label is None else label
    return np.asarray(prior(normals, choice, statistics.mean, statistics.std, label))


@pytest.mark.parametrize("process", [HEAT, COLD])
def test_the_prior_has_the_blurred_datas_moments(rng, process):
    images = correlated_images(rng)
    prior = BlurredPrior(process, SHAPE)
    statistics = dct_statistics(np.array_split(images, 7), prior.positions)
    prior.fit(statistics)
    drawn = draw(prior, statistics, 8000)
    gain = np.asarray(process.marginal([1.0], *SHAPE[:2]).alpha)
    blurred = gain * bd.dct2(images).numpy()
    error = 5 / np.sqrt(4000)
    scale = blurred.std(axis=0) + 1e-6
    assert (np.abs(drawn.mean(axis=0) - blurred.mean(axis=0)) / scale).max() < 2 * error
    np.testing.assert_allclose(drawn.std(axis=0), blurred.std(axis=0), rtol=0.1, atol=1e-6)
    lowest = lambda freq: np.corrcoef(freq[:, 0, :2].reshape(len(freq), -1), rowvar=False)
    if len(prior.positions[0]) > 1:
        np.testing.assert_allclose(lowest(drawn), lowest(blurred), atol=0.03)
    # Both clusters, and little between them: one Gaussian would have much there.
    assert (np.abs(drawn[:, 0, 0, 0]) < 1.0).mean() == pytest.approx((np.abs(blurred[:, 0, 0, 0]) < 1).mean(), abs=0.03)


def test_where_the_mean_colour_is_left_only_that_is_drawn_jointly():
    assert np.array_equal(BlurredPrior(bd.process.cold(), (8, 8, 2)).positions, [[0], [0]])
    assert len(BlurredPrior(HEAT, SHAPE).positions[0]) > 3


def test_a_label_without_images_starts_from_all_of_them(rng):
    labels = np.arange(600) % 2
    images = rng.normal(size=(600, *SHAPE)) * 0.05 + labels[:, None, None, None]
    prior = BlurredPrior(COLD, SHAPE, num_classes=3)
    statistics = dct_statistics([(images, labels)], prior.positions)
    prior.fit(statistics)
    means = [draw(prior, statistics, 500, np.full(500, label))[:, 0, 0, 0].mean() for label in range(3)]
    np.testing.assert_allclose(means[2], (means[0] + means[1]) / 2, atol=0.2 * abs(means[1] - means[0]))
    assert abs(means[1] - means[0]) > 1.0


def test_labels_come_with_every_batch_or_with_none(rng):
    images = rng.normal(size=(4, *SHAPE))
    for batches in ([(images, np.arange(4)), images], [images, (images, np.arange(4))]):
        with pytest.raises(UserError, match="labels must come with every batch, or with none"):
            dct_statistics(batches, ((0,), (0,)))


def test_with_labels_there_is_one_gaussian_for_each(rng):
    labels = np.arange(3000) % 3
    images = rng.normal(size=(3000, *SHAPE)) * 0.05 + labels[:, None, None, None] / 3
    prior = BlurredPrior(COLD, SHAPE, num_classes=3)
    statistics = dct_statistics(
        [(images[i : i + 500], labels[i : i + 500]) for i in range(0, 3000, 500)], prior.positions
    )
    prior.fit(statistics)
    means = [draw(prior, statistics, 500, np.full(500, label))[:, 0, 0].mean() for label in range(4)]
    expected = [bd.dct2(images[labels == label]).numpy()[:, 0, 0].mean() for label in range(3)]
    np.testing.assert_allclose(means[:3], expected, atol=0.02)
    assert expected[0] + 0.5 < means[3] < expected[2] - 0.5  # No label: all of them.


def test_statistics_are_numpys(rng):
    images = rng.uniform(-1, 1, size=(100, *SHAPE))
    statistics = dct_statistics(np.array_split(images, 3), ([0, 2], [1, 3]))
    freq = bd.dct2(images).numpy()
    np.testing.assert_allclose(statistics.mean, freq.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(statistics.std, freq.std(axis=0), atol=1e-5)
    np.testing.assert_allclose(statistics.chosen, freq[:, [0, 2], [1, 3]], atol=1e-6)
    assert statistics.labels is None


def test_of_many_images_an_even_sample_is_kept(monkeypatch):
    monkeypatch.setattr(priors, "_FITTED_IMAGES", 10)
    images = np.repeat(np.arange(100.0), 4).reshape(100, 2, 2, 1)
    statistics = dct_statistics(np.array_split(images, 9), ([0], [0]))
    kept = statistics.chosen[:, 0, 0] / 2
    assert 10 <= len(kept) < 20 and np.ptp(np.diff(kept)) < 1e-4
    np.testing.assert_allclose(statistics.mean[0, 0, 0], 2 * 49.5)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        dct_statistics([])
