import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tf_blurdiff.networks.unet import _block_seeds


def make(**kwargs):
    defaults = {"image_shape": (8, 12, 3), "channels": 8, "multipliers": (1, 2), "num_res_blocks": 1}
    return bd.UNet(**{**defaults, **kwargs})


def randomize(network, rng):
    network.set_weights([0.1 * rng.normal(size=weight.shape) for weight in network.get_weights()])


def inputs(rng, batch=2, label=False):
    z, t = rng.normal(size=(batch, 8, 12, 3)).astype("float32"), rng.uniform(size=batch).astype("float32")
    return [z, t, np.arange(batch)] if label else [z, t]


def test_it_is_zero_before_training(rng):
    assert not np.any(make()(inputs(rng)))


def test_every_weight_is_made_by_build():
    network = make(num_classes=3, num_res_blocks=2)
    network.build()
    count = len(network.weights)
    network([np.zeros((1, 8, 12, 3)), np.zeros(1), np.zeros(1, "int64")], training=True)
    assert len(network.weights) == count > 0


def test_each_input_matters(rng):
    network = make(num_classes=3)
    network.build()
    randomize(network, rng)
    z, t, label = inputs(rng, label=True)
    base = np.asarray(network([z, t, label]))
    for other in ([z + 0.1, t, label], [z, t + 0.05, label], [z, t, label + 1]):
        assert np.abs(base - network(other)).max(axis=(1, 2, 3)).min() > 1e-4


def test_an_example_does_not_depend_on_its_batch(rng):
    network = make()
    network.build()
    randomize(network, rng)
    z, t = inputs(rng, batch=5)
    np.testing.assert_allclose(network([z, t])[3:4], network([z[3:4], t[3:4]]), atol=1e-5)


def test_dropout_follows_the_seed(rng):
    network = make(dropout=0.5)
    network.build()
    randomize(network, rng)
    batch = inputs(rng)
    one, again, two = (network(batch, training=True, seed=np.array([0, n])) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-4


def test_attention_is_where_it_was_asked_for():
    network = make(multipliers=(1, 1, 1), attention_resolutions=(8, 2), num_res_blocks=2)
    attention = [block.attention is not None for block in network.down_blocks]
    assert attention == [True, True, False, False, True, True]
    assert [block.attention is not None for block in network.up_blocks] == [True] * 3 + [False] * 3 + [True] * 3


def test_a_copy_from_the_config_is_the_same_network(rng):
    network = make(num_classes=2, dropout=0.3, dtype="mixed_bfloat16")
    network.build()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    copy.build()
    randomize(network, rng)
    copy.set_weights(network.get_weights())
    batch = inputs(rng, label=True)
    np.testing.assert_array_equal(network(batch), copy(batch))
    assert copy.dropout == 0.3 and copy.conv_in.compute_dtype == "bfloat16"


def test_bfloat16_tells_near_times_apart(rng):
    network = make(dtype="mixed_bfloat16")
    network.build()
    randomize(network, rng)
    z, _ = inputs(rng)
    embedding = network.time_embedding
    assert np.abs(embedding(np.array([0.5003])) - embedding(np.array([0.5]))).max() > 0.1
    assert network([z, np.array([0.5, 0.5])]).dtype == "float32"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"image_shape": (9, 12, 3)}, r"divisible by 2, since 2 multipliers.*Received: \(9, 12, 3\)"),
        ({"image_shape": (8, 12)}, r"must be \(H, W, C\)"),
        ({"image_shape": (None, None, 1)}, "each of image_shape must be an integer of 1 or more, .*Received: None"),
        ({"channels": "32"}, "channels must be an integer of 2 or more, below .*Received: '32'"),
        ({"multipliers": 2}, "multipliers must be a list of integers. Received: 2"),
        ({"multipliers": ()}, "multipliers must be one or more. Received: none"),
        ({"num_res_blocks": 0}, "num_res_blocks must be an integer of 1 or more, .*Received: 0"),
        ({"attention_resolutions": 8}, "attention_resolutions must be a list of integers. Received: 8"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\). Received: 1.0"),
    ],
)
def test_wrong_sizes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_a_missing_label_is_named(rng):
    with pytest.raises(ValueError, match="Received: no label"):
        make(num_classes=3)(inputs(rng))


def test_every_block_is_used():
    network = bd.UNet(image_shape=(8, 12, 3), channels=8, multipliers=(1, 2), num_res_blocks=2)
    network.build()
    assert all(block.built for block in [*network.down_blocks, *network.middle_blocks, *network.up_blocks])


def test_blocks_drop_different_values():
    seeds = _block_seeds([0, 1])
    assert len({tuple(np.asarray(next(seeds))) for _ in range(5)}) == 5


def gradients_of(network, batch, seed):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(batch, training=True, seed=seed)))
    return tape.gradient(loss, network.trainable_variables)


@pytest.mark.parametrize("seed", [np.array([0, 7]), pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("in_graph", [True, False])
def test_rematerialisation_changes_no_gradient(rng, in_graph, seed):
    plain, again = (
        make(dropout=0.5, num_classes=3, attention_resolutions=(4,), rematerialize=flag) for flag in (False, True)
    )
    for network in (plain, again):
        network.build()
    randomize(plain, rng)
    again.set_weights([*plain.get_weights(), *again.get_weights()[len(plain.get_weights()) :]])
    batch = [tf.convert_to_tensor(array) for array in inputs(rng, label=True)]
    if seed is None:
        # The next of its own seeds, found out by a second generator in the same state.
        twin = keras.random.SeedGenerator()
        twin.state.assign(again.seed_generator.state)
        expected = gradients_of(plain, batch, tf.cast(twin.next(), tf.int64))
    else:
        expected = gradients_of(plain, batch, seed)
    step = tf.function(gradients_of, autograph=False) if in_graph else gradients_of
    for gradient, wanted in zip(step(again, batch, seed), expected, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), tf.convert_to_tensor(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rematerialisation_computes_the_blocks_twice_and_only_in_training(rng):
    def convolutions(rematerialize, function):
        network = make(rematerialize=rematerialize)
        network.build()
        batch = [tf.convert_to_tensor(array) for array in inputs(rng)]
        graph = tf.function(lambda: function(network, batch), autograph=False).get_concrete_function().graph
        return sum(operation.type == "Conv2D" for operation in graph.get_operations())

    def predict(network, batch):
        return network(batch)

    def train(network, batch):
        return gradients_of(network, batch, tf.constant([0, 1]))

    blocks = 8  # Two on the way down, two in the middle, four on the way up; each has two convolutions, or three.
    assert convolutions(True, train) >= convolutions(False, train) + 2 * blocks
    assert convolutions(True, predict) == convolutions(False, predict)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_building_leaves_nothing_for_the_first_call(num_classes):
    network = bd.UNet((8, 12, 1), 8, (1, 2, 2), 1, (4, 8), num_classes=num_classes, rematerialize=True)
    network.build()
    paths = [weight.path for weight in network.weights]
    assert all(layer.built for layer in network._flatten_layers())
    label = [] if num_classes is None else [np.array([0, 3])]
    assert network([np.zeros((2, 8, 12, 1)), np.zeros(2), *label], training=True).shape == (2, 8, 12, 1)
    assert [weight.path for weight in network.weights] == paths
