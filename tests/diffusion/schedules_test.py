import math
import re

import keras
import numpy as np
import pytest

from tf_blurdiff.diffusion.schedules import (
    ConstantNoise,
    CosineNoise,
    LinearBetaNoise,
    LogSpacedBlur,
    SinBlur,
    SinSquaredBlur,
)
from tf_blurdiff.errors import UserError

EVERY = [
    CosineNoise(-8.0, 9.0), LinearBetaNoise(), ConstantNoise(0.02), SinSquaredBlur(3.0), SinBlur(3.0),
    LogSpacedBlur(0.5, 20.0, 40),
]  # fmt: skip


def numpy(arrays):
    return [np.asarray(array, np.float64) for array in arrays]


def test_linear_betas_are_ddpms():
    signal = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    t = (np.arange(1000) / 999).astype("float32")
    log_a, log_sigma = numpy(LinearBetaNoise()(t))
    np.testing.assert_allclose(log_a, 0.5 * np.log(signal), rtol=1e-4)
    np.testing.assert_allclose(log_sigma, 0.5 * np.log1p(-signal), rtol=1e-4, atol=1e-6)


def test_linear_betas_are_interpolated_between_levels():
    log_a, _ = numpy(LinearBetaNoise()(np.array([100, 100.25, 101], "float32") / 999))
    np.testing.assert_allclose((log_a[1] - log_a[0]) / (log_a[2] - log_a[0]), 0.25, atol=2e-2)


@pytest.mark.parametrize("noise", [CosineNoise(), CosineNoise(-6.0, 8.0), LinearBetaNoise()])
def test_the_time_of_a_logsnr_is_the_schedules_inverse(noise):
    t = np.linspace(0.0, 1.0, 301).astype("float32")
    log_a, log_sigma = noise(t)
    # The linear betas' log-SNR has rounding errors where a_t is almost 1.
    np.testing.assert_allclose(noise.time_of(log_a - log_sigma), t, atol=2e-5)
    assert np.all(np.diff(log_a - log_sigma) < 0)


def test_constant_noise_is_constant():
    log_a, log_sigma = numpy(ConstantNoise(0.02)(np.array([0.0, 0.4, 1.0], "float32")))
    np.testing.assert_array_equal(log_a, 0.0)
    np.testing.assert_allclose(np.exp(log_sigma), 0.02, rtol=1e-6)
    assert np.exp(ConstantNoise(0.0)(0.5)[1]) == 0.0


def test_blur_levels_are_log_spaced_after_zero():
    schedule = LogSpacedBlur(0.5, 20.0, num_levels=200)
    expected = np.concatenate([[0.0], np.exp(np.linspace(np.log(0.5), np.log(20.0), 200))])
    np.testing.assert_allclose(schedule((np.arange(201) / 200).astype("float32")), expected, rtol=1e-4)


@pytest.mark.parametrize("schedule, power", [(SinBlur(5.0), 1), (SinSquaredBlur(5.0), 2)])
def test_the_sines_are_their_formulas(schedule, power):
    t = np.linspace(0, 1, 11).astype("float32")
    np.testing.assert_allclose(schedule(t), 5.0 * np.sin(np.pi * t / 2) ** power, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", EVERY, ids=lambda schedule: type(schedule).__name__)
def test_a_saved_schedule_comes_back(schedule):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert copy == schedule and type(copy) is type(schedule)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ConstantNoise(-0.1), "sigma must be 0 or more, and at most 1,000,000. Received: -0.1"),
        (lambda: ConstantNoise(math.inf), "sigma must be 0 or more, and at most 1,000,000. Received: inf"),
        (lambda: SinSquaredBlur("20"), "sigma_blur_max must be 0 or more, and at most 1,000,000. Received: '20'"),
        (lambda: SinSquaredBlur(1e20), "sigma_blur_max must be 0 or more, and at most 1,000,000. Received: 1e+20"),
        (lambda: LogSpacedBlur(1.0, math.inf, 5), "sigma_blur_max must be 0 or more, and at most"),
        (lambda: CosineNoise("a"), "logsnr_min must be below logsnr_max, both from -30 to 80. Received: 'a', 10.0"),
        (lambda: CosineNoise(-30.5), "logsnr_min must be below logsnr_max, both from -30 to 80. Received: -30.5, 10.0"),
        (
            lambda: LogSpacedBlur(0.0, 2.0, 5),
            "sigma_blur_min must be above 0 and below sigma_blur_max. Received: 0.0, 2.0",
        ),
        (lambda: LogSpacedBlur(2.0, 2.0, 5), "sigma_blur_min must be above 0 and below"),
        (lambda: LogSpacedBlur(1.0, 2.0, 1), "num_levels must be an integer of 2 or more, below 2^31. Received: 1"),
        (lambda: SinBlur(-1.0), "sigma_blur_max must be 0 or more, and at most 1,000,000. Received: -1.0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()


def test_levels_may_be_counted_by_numpy():
    assert LogSpacedBlur(1.0, 2.0, np.int64(5)) == LogSpacedBlur(1.0, 2.0, 5)


@pytest.mark.parametrize("limits", [(-30.0, 10.0), (-10.0, 80.0), (-30.0, 80.0)])
def test_the_ends_of_what_is_allowed_have_times_that_rise_to_1(limits):
    schedule = CosineNoise(*limits)
    log_a_over_sigma = 0.5 * np.linspace(limits[1], limits[0], 1001)
    times = schedule.time_of(log_a_over_sigma.astype("float32")).numpy()
    assert (np.diff(times) >= 0).all() and times[0] >= -1e-6 and times[-1] <= 1.0
