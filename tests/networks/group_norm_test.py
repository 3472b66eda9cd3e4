import numpy as np
import pytest
import tensorflow as tf

from tf_blurdiff.networks.group_norm import group_norm, number_of_groups

EPSILON = 1e-5


def plain_formula(x, scale, shift, groups, silu):
    """The definition, with nothing folded and no gradient written by hand."""
    batch, height, width, channels = x.shape
    grouped = tf.reshape(x, (batch, height * width, groups, channels // groups))
    mean = tf.reduce_mean(grouped, axis=(1, 3), keepdims=True)
    variance = tf.reduce_mean((grouped - mean) ** 2, axis=(1, 3), keepdims=True)
    normed = tf.reshape((grouped - mean) / tf.sqrt(variance + EPSILON), x.shape)
    y = normed * scale[:, None, None, :] + shift[:, None, None, :]
    return y * tf.sigmoid(y) if silu else y


def arrays(rng, dtype):
    x = 0.5 + 2.0 * rng.normal(size=(3, 5, 4, 8))
    return [tf.constant(array, dtype) for array in (x, *rng.normal(size=(2, 3, 8)), rng.normal(size=x.shape))]


def value_and_gradients(function, x, scale, shift, weight):
    with tf.GradientTape() as tape:
        tape.watch([x, scale, shift])
        y = function(x, scale, shift)
        total = tf.reduce_sum(tf.cast(y, weight.dtype) * weight)
    return y, *tape.gradient(total, [x, scale, shift])


@pytest.mark.parametrize("silu", [True, False])
def test_value_and_gradients_are_those_of_the_plain_formula(rng, silu):
    inputs = arrays(rng, "float64")
    exact = value_and_gradients(lambda *args: plain_formula(*args, 2, silu), *inputs)
    groups = number_of_groups(8, 32)
    ours = value_and_gradients(
        lambda *args: group_norm(*args, groups, EPSILON, silu), *(tf.cast(array, "float32") for array in inputs)
    )
    for actual, expected in zip(ours, exact):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("silu", [True, False])
def test_bfloat16_is_within_its_rounding(rng, silu):
    x, scale, shift, weight = (tf.cast(array, "float32") for array in arrays(rng, "float64"))
    half = tf.cast(x, "bfloat16")
    exact = value_and_gradients(
        lambda *args: plain_formula(*args, 2, silu), tf.cast(half, "float32"), scale, shift, weight
    )
    groups = number_of_groups(8, 32)
    ours = value_and_gradients(lambda *args: group_norm(*args, groups, EPSILON, silu), half, scale, shift, weight)
    assert ours[0].dtype == ours[1].dtype == tf.bfloat16
    for actual, expected in zip(ours, exact):
        size = float(tf.reduce_max(tf.abs(expected)))
        np.testing.assert_allclose(tf.cast(actual, "float32"), expected, atol=0.015 * size)


def test_a_large_mean_does_not_spoil_the_variance(rng):
    x = tf.constant(30.0 + rng.normal(size=(2, 16, 16, 4)), "float32")
    ones = tf.ones((2, 4))
    y = group_norm(x, ones, 0.0 * ones, 1, EPSILON, silu=False)
    exact = plain_formula(*(tf.cast(array, "float64") for array in (x, ones, 0.0 * ones)), 1, silu=False)
    np.testing.assert_allclose(y, exact, atol=2e-3)
