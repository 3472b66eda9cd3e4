import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd


def weights_after(optimizer, steps, rng):
    weights = [keras.Variable(rng.normal(size=shape).astype("float32")) for shape in [(3, 4), (5,)]]
    for _ in range(steps):
        optimizer.apply([tf.constant(rng.normal(size=weight.shape), tf.float32) for weight in weights], weights)
    state = [np.asarray(variable) for variable in optimizer.variables]
    return [np.asarray(weight) for weight in weights], state


@pytest.mark.parametrize("arguments", [{}, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}, {"amsgrad": True}])
def test_weights_and_state_are_those_of_keras(arguments):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
    ours, our_state = weights_after(bd.optimizers.Adam(schedule, **arguments), 7, np.random.default_rng(0))
    theirs, their_state = weights_after(keras.optimizers.Adam(schedule, **arguments), 7, np.random.default_rng(0))
    for actual, expected in zip([*ours, *our_state], [*theirs, *their_state], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-7)


def test_a_saved_one_comes_back():
    optimizer = bd.optimizers.Adam(1e-3, beta_2=0.9)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is bd.optimizers.Adam
    assert copy.get_config() == optimizer.get_config()
