"""The arithmetic of the benchmarks of quality: distances of images, and tables of what `evaluate` wrote."""

import digits_scores
import learning_curves
import linear_estimates
import miniature_tables
import numpy as np
import perceptual
import pytest

import tf_blurdiff as bd
from tf_blurdiff.data.pixels import to_unit_range
from tf_blurdiff.data.sources import open_images
from tf_blurdiff.diffusion.inverse_problems import Blurred
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.features import open_features


@pytest.fixture(scope="module")
def digits():
    return to_unit_range(open_images("digits", image_size=8, channels=1).read(np.arange(60))).numpy()


@pytest.mark.parametrize("name", ["pixels", "dct_energies"])
def test_the_perceptual_distance_goes_from_the_original_over_noise_to_a_stranger(name, digits, rng):
    distance = perceptual.PerceptualDistance(open_features(name, (8, 8, 1)), digits)
    noisy = [distance(digits + rng.normal(0, std, digits.shape)) for std in (0.05, 0.1, 0.2)]
    # Each digit at the place of every other one: all different pairs.
    strangers = np.mean([distance(np.roll(digits, shift, axis=0)) for shift in range(1, len(digits))])
    assert distance(digits) == 0.0
    assert 0.0 < noisy[0] < noisy[1] < noisy[2] < strangers
    assert strangers == pytest.approx(1.0, abs=1e-6)


def test_the_perceptual_distance_of_pixels_by_hand():
    originals = np.array([-1.0, 0.2, 1.0])[:, None, None, None] * np.ones((3, 8, 8, 1))
    distance = perceptual.PerceptualDistance(open_features("pixels", (8, 8, 1)), originals)
    # The pairs are 1.2, 0.8 and 2 apart; the last image is 0.4 away from its original.
    assert distance(originals - [[[[0.0]]], [[[0.0]]], [[[0.4]]]]) == pytest.approx((0.4 / 3) / (4.0 / 3), rel=0.02)


@pytest.mark.parametrize("count", [1, 2])
def test_the_perceptual_distance_needs_strangers(count):
    with pytest.raises(UserError, match=f"pixels: two originals .* Received: {count} image"):
        perceptual.PerceptualDistance(open_features("pixels", (8, 8, 1)), np.zeros((count, 8, 8, 1)))


def test_filling_in_is_the_regression_on_the_pixels_around(rng):
    """No linear guess, fitted to many such images, is much better, and it is as good on others."""
    mean, std = rng.normal(0, 0.1, (4, 4, 2)).astype("float32"), rng.uniform(0.01, 0.2, (4, 4, 2)).astype("float32")
    images = np.asarray(bd.idct2(rng.normal(mean, std, (40_000, 4, 4, 2)).astype("float32")))
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    filled = linear_estimates.linear_filling(mean, std, images, mask)
    np.testing.assert_array_equal(filled[:, ~mask], images[:, ~mask])
    for channel in range(2):
        known, wanted = images[:, ~mask, channel], images[:, mask, channel]
        known = np.pad(known, ((0, 0), (0, 1)), constant_values=1.0)
        fitted = np.linalg.lstsq(known[:20_000], wanted[:20_000], rcond=None)[0]
        best = np.mean((known[20_000:] @ fitted - wanted[20_000:]) ** 2)
        error = np.mean((filled[20_000:, mask, channel] - wanted[20_000:]) ** 2)
        assert 0.97 * best < error < 1.01 * best < 0.7 * np.mean(wanted.var(axis=0))


def test_the_linear_estimate_of_a_blurred_image_is_wieners(rng):
    mean, std = np.full((8, 8, 1), 0.05, "float32"), rng.uniform(0.01, 0.2, (8, 8, 1)).astype("float32")
    images = np.asarray(bd.idct2(rng.normal(mean, std, (2000, 8, 8, 1)).astype("float32")))
    noise_std = 0.05
    blurred = np.asarray(bd.layers.HeatBlur()([images, np.ones(2000, "float32")])) + rng.normal(0, 0.05, images.shape)
    measured = Blurred.of(blurred.astype("float32"), [1.0], [noise_std])
    estimate = bd.dct2(linear_estimates.linear_estimate(mean, std, measured))
    gain = np.asarray(measured.gain)[0]
    expected = std**2 * noise_std**2 / (gain**2 * std**2 + noise_std**2)
    error = np.mean((np.asarray(estimate) - np.asarray(bd.dct2(images))) ** 2, axis=0)
    np.testing.assert_allclose(error, expected, rtol=0.2)
    np.testing.assert_allclose(error.mean(), expected.mean(), rtol=0.02)


def test_the_distances_of_digits_are_over_those_of_their_halves():
    """A half is about a quarter as far from all of them; noise is far."""
    scores = digits_scores.Scores()
    assert len(scores.pixels) == len(scores.labels) == sum(map(len, scores.halves)) == 1797
    noise = np.random.default_rng(0).integers(0, 256, scores.pixels.shape).astype(np.uint8)
    of_all, of_half, of_noise = map(scores.distances, (scores.pixels, scores.pixels[scores.halves[0]], noise))
    np.testing.assert_allclose(of_all, 0.0, atol=1e-6)
    np.testing.assert_allclose(of_half, 0.25, atol=0.1)
    assert min(of_noise) > 20.0


def a_report(distance, bits):
    kernel = {"value": 0.0123, "standard_error": 0.0042}
    scores = {"frechet": distance, "kernel": kernel, "precision": 0.8, "recall": 0.5}
    model = {"scores": {"pixels": scores}, "bits": bits, "sampler": "ddim", "num_steps": 20, "num_images": 300}
    floor = {**scores, "frechet": 0.25}
    return {"models": [model], "real": {"features": [{"name": "pixels", "floor": floor}]}}


def test_runs_of_other_seeds_become_one_row_with_their_spread():
    reports = {"a": a_report(1.0, {"total": 3.0}), "b": a_report(3.0, {"total": 3.5}), "c": a_report(8.0, {"none": ""})}
    rows = {"both": ("a", "b"), "one": ("c",), "not there": ("d",)}
    titles, floor, both, one = miniature_tables.runs_table(rows, reports)
    assert titles[3:] == [
        "Frechet, pixels", "kernel, pixels", "precision, pixels", "recall, pixels", "bits per dimension",
    ]  # fmt: skip
    assert floor[3] == "0.25"
    assert both == ["both", "2", "ddim, 20", "2 ± 1.4", "0.0123 ± 0", "0.8 ± 0", "0.5 ± 0", "3.25 ± 0.35"]
    assert one == ["one", "1", "ddim, 20", "8", "0.0123", "0.8", "0.5", "no bound"]


def test_ways_of_sampling_become_rows():
    titles, row = miniature_tables.calls_table([("a", a_report(1.5, {}))])
    assert titles == ["run", "samples", "sampler", "calls", "Frechet, pixels", "kernel, pixels"]
    assert row == ["a", "300", "ddim", "20", "1.5", "0.0123 ± 0.0042"]


def test_runs_of_other_seeds_become_one_row_with_a_column_for_each_sampler():
    reports = {name: a_report(distance, {}) for name, distance in {"a": 1.0, "b": 3.0, "c": 8.0}.items()}
    for name, distance in {"a": 2.0, "b": 4.0, "c": 9.0}.items():
        reports[name]["models"] += a_report(distance, {})["models"]
        reports[name]["models"][1]["sampler"] = "ancestral2"
    rows = {"both": ("a", "b"), "one": ("c", "d"), "not there": ("d",)}
    assert miniature_tables.samplers_table(rows, reports) == [
        ["", "runs", "ddim", "ancestral2"], ["both", "2", "2 ± 1.4", "3 ± 1.4"], ["one", "1", "8", "9"],
    ]  # fmt: skip


def test_learning_curves_become_rows_and_a_picture(tmp_path):
    curves = {
        "gaussian, eps": {500: [a_report(80.0, {})], 1000: [a_report(39.0, {}), a_report(41.0, {})]},
        "gaussian, preconditioned": {1000: [a_report(30.0, {})]},
    }
    assert learning_curves.curves_table(curves) == [
        ["steps", "500", "1000"], ["gaussian, eps", "80", "40 ± 1.4"], ["gaussian, preconditioned", "", "30"],
    ]  # fmt: skip
    learning_curves.draw_curves(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
