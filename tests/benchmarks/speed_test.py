"""The arithmetic of the benchmarks of speed: operations counted, and what is made of times. Nothing is timed here."""

import keras
import numpy as np
import operations
import pytest
import rounds
import tensorflow as tf

from tf_blurdiff.networks.layers import UpsampleConv, attend


def count(function, *shapes):
    """The operations of a function of float32 tensors."""
    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return operations.count_operations(tf.function(function, autograph=False).get_concrete_function(*specs))


@pytest.mark.parametrize("strides", [1, 2])
def test_a_convolution_counts_two_operations_per_multiply_add(strides):
    layer = keras.layers.Conv2D(7, 3, strides=strides, padding="same")
    expected = 2 * (5 * (8 // strides) * (6 // strides)) * (3 * 3 * 4) * 7
    assert count(layer, (5, 8, 6, 4)) == operations.Operations(expected, expected)


@pytest.mark.parametrize("shape", [(5, 4), (5, 8, 6, 4)])
def test_a_dense_layer(shape):
    expected = 2 * np.prod(shape) * 7
    assert count(keras.layers.Dense(7), shape).executed == expected


@pytest.mark.parametrize(
    "spelling", [attend, lambda q, k, v: tf.einsum("bnm,bmd->bnd", q @ tf.transpose(k, (0, 2, 1)), v)]
)
def test_attention_is_two_products(spelling):
    assert count(spelling, *[(3, 10, 4)] * 3).executed == 2 * (2 * 3 * 10 * 10 * 4)


def test_the_gradient_of_a_convolution_is_two_more():
    layer = keras.layers.Conv2D(7, 3, padding="same")
    layer.build((5, 8, 6, 4))

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x)))
        return tape.gradient(loss, [x, layer.kernel.value])

    assert count(gradients, (5, 8, 6, 4)).executed == 3 * 2 * (5 * 8 * 6) * (3 * 3 * 4) * 7


def test_an_upsampling_convolution_counts_nominally_as_repeated_pixels_and_a_convolution():
    layer = UpsampleConv(7)
    layer.build((5, 8, 6, 4))
    of_kernel = 2 * 16 * 9 * 4 * 7  # how the small kernel becomes the large one

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x)))
        return tape.gradient(loss, [x, layer.kernel.value])

    nominal = 2 * (5 * 16 * 12) * (3 * 3 * 4) * 7
    assert count(layer, (5, 8, 6, 4)) == operations.Operations(nominal * 16 / 36 + of_kernel, nominal + of_kernel)
    assert count(gradient, (5, 8, 6, 4)).nominal == 3 * nominal + 2 * of_kernel


def test_functions_that_are_called_count_and_of_branches_the_larger():
    product = tf.function(lambda x: x @ x, autograph=False)
    assert count(lambda x: product(product(x)), (6, 6)).executed == 2 * (2 * 6**3)
    branches = lambda x: tf.cond(x[0, 0] > 0, lambda: product(x), lambda: x)
    assert count(branches, (6, 6)).executed == 2 * 6**3


def test_a_shape_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="MatMul"):
        count(lambda x: x @ x, (None, None))


def test_the_ratio_is_taken_round_by_round():
    # The machine slows down threefold: the ratio of the medians would be 3 / 2.
    ratio = rounds.ratio([1.0, 3.0, 3.0], [2.0, 6.0, 1.5])
    assert (ratio.median, ratio.lowest, ratio.highest) == (0.5, 0.5, 2.0)
    with pytest.raises(ValueError):
        rounds.ratio([1.0, 2.0], [1.0])


def test_the_mean_over_sizes_is_geometric():
    ratios = [rounds.Ratio(median, 0.0, 9.0) for median in (0.5, 2.0, 8.0)]
    assert rounds.geometric_mean(ratios) == pytest.approx(2.0)


def made_up_contender(name, seconds, log):
    """Takes the seconds that it is told; the first run is slow."""

    def run(count):
        log.append((name, count))
        return [10 * seconds] + [seconds] * (count - 1)

    return run


@pytest.mark.parametrize("seconds, runs", [(1.0, 3), (0.1, 5), (0.001, 20)])
def test_contenders_take_turns(seconds, runs):
    log = []
    contenders = [made_up_contender("a", seconds, log), made_up_contender("b", 0.5 * seconds, log)]
    times = rounds.take_turns(contenders, 2, least_runs=3, warmup=4)
    assert times == [[seconds] * 2, [0.5 * seconds] * 2]
    assert log == [("a", 4), ("b", 4)] + [("a", runs), ("b", runs)] * 2
