import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tf_blurdiff as bd
from tf_blurdiff.networks import layers

SHAPE = (2, 6, 4, 8)
CASES = {
    "DCT2D": (layers.DCT2D, {}, SHAPE),
    "IDCT2D": (layers.IDCT2D, {}, SHAPE),
    "HeatBlur": (layers.HeatBlur, {}, [SHAPE, (2,)]),
    "Dropout": (layers.Dropout, {"rate": 0.5}, SHAPE),
    "GroupNorm": (layers.GroupNorm, {"max_groups": 4, "activation": "silu"}, SHAPE),
    "ResBlock": (layers.ResBlock, {"channels": 16, "dropout": 0.1, "attention": True}, [SHAPE, (2, 5)]),
    "SelfAttention": (layers.SelfAttention, {"head_size": 4}, SHAPE),
    "UpsampleConv": (layers.UpsampleConv, {"channels": 5}, SHAPE),
    "TimeEmbedding": (layers.TimeEmbedding, {"size": 6}, (2,)),
}


def call(layer, shapes, rng):
    arrays = [rng.normal(size=shape).astype("float32") for shape in (shapes if isinstance(shapes, list) else [shapes])]
    return layer(arrays) if isinstance(layer, layers.HeatBlur) else layer(*arrays)


@pytest.mark.parametrize("name", CASES)
def test_a_copy_from_the_config_with_the_same_weights_is_the_same_layer(name, rng):
    make, arguments, shapes = CASES[name]
    layer = make(**arguments)
    call(layer, shapes, rng)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    call(copy, shapes, rng)
    # Zero-initialised layers would hide a difference.
    weights = [rng.normal(size=weight.shape) for weight in layer.get_weights()]
    layer.set_weights(weights)
    copy.set_weights(weights)
    ours, theirs = (call(each, shapes, np.random.default_rng(1)) for each in (layer, copy))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("DCT2D", "IDCT2D", "HeatBlur")])
def test_bfloat16_stays_near_float32(name, rng):
    make, arguments, shapes = CASES[name]
    layer, half = make(**arguments), make(**arguments, dtype="mixed_bfloat16")
    call(layer, shapes, rng), call(half, shapes, rng)
    weights = [0.3 * rng.normal(size=weight.shape) for weight in layer.get_weights()]
    layer.set_weights(weights), half.set_weights(weights)
    expected = ops.convert_to_numpy(call(layer, shapes, np.random.default_rng(1)))
    actual = ops.convert_to_numpy(ops.cast(call(half, shapes, np.random.default_rng(1)), "float32"))
    np.testing.assert_allclose(actual, expected, atol=0.1)
    assert name == "TimeEmbedding" or half.compute_dtype == "bfloat16"


def test_a_cosine_is_an_eigenfunction_of_the_blur():
    height, width, blur_sigma = 9, 12, 1.5
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None, :] + 0.5
    for i, j in [(0, 0), (2, 0), (0, 3), (4, 5)]:
        wave = np.cos(np.pi * i * rows / height) * np.cos(np.pi * j * columns / width)
        eigenvalue = (np.pi * i / height) ** 2 + (np.pi * j / width) ** 2
        blurred = layers.HeatBlur()([wave[None, :, :, None], np.array([blur_sigma], "float32")])
        np.testing.assert_allclose(blurred[0, :, :, 0], np.exp(-eigenvalue * blur_sigma**2 / 2) * wave, atol=2e-6)


def test_each_image_has_its_own_blur(rng):
    x = rng.normal(size=(2, 8, 8, 1)).astype("float32")
    blurred = layers.HeatBlur()([x, np.array([0.0, 100.0], "float32")])
    np.testing.assert_allclose(blurred[0], x[0], atol=1e-5)
    np.testing.assert_allclose(blurred[1], np.full((8, 8, 1), x[1].mean()), atol=1e-5)


def test_group_norm_is_keras_group_normalization(rng):
    x = (3.0 + 2.0 * rng.normal(size=(2, 5, 6, 16))).astype("float32")
    ours, theirs = layers.GroupNorm(max_groups=4), keras.layers.GroupNormalization(4, epsilon=1e-5)
    ours.build(x.shape), theirs.build(x.shape)
    weights = rng.normal(size=(2, 16))
    ours.set_weights(weights), theirs.set_weights(weights)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
    scale, shift = rng.normal(size=(2, 2, 16)).astype("float32")
    modulated = ours(x, modulation=np.concatenate([scale, shift], axis=1))
    expected = theirs(x) * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(modulated, expected, atol=2e-5)


@pytest.mark.parametrize("channels, groups", [(128, 32), (64, 16), (24, 4), (8, 2), (6, 1), (2, 1), (33, 1)])
def test_a_group_has_four_channels_or_more(channels, groups):
    """Else a constant that is added to a channel would change nothing, and a bias before the layer be dead."""
    norm = layers.GroupNorm()
    norm.build((None, 2, 2, channels))
    assert norm.groups == groups


def test_self_attention_is_the_formula(rng):
    x = rng.normal(size=(2, 3, 4, 8)).astype("float32")
    layer = layers.SelfAttention(head_size=4)
    layer.build(x.shape)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    joined = np.reshape(layer.query_key_value(layer.norm(x)), (2, 12, 6, 4))
    query, key, value = joined[:, :, :2], joined[:, :, 2:4], joined[:, :, 4:]
    scores = np.exp(np.einsum("bqhc,bkhc->bhqk", query, key) / 2.0)
    attended = np.einsum("bhqk,bkhc->bqhc", scores / scores.sum(axis=-1, keepdims=True), value)
    expected = x + np.asarray(layer.output_dense(attended.reshape(2, 3, 4, 8)))
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = np.ones((100, 10, 10, 3), "float32")
    dropped = np.asarray(layers.Dropout(0.3)(x, training=True, seed=np.array([1, 2])))
    assert set(np.unique(dropped)) == {0.0, np.float32(1.0 / 0.7)}
    np.testing.assert_allclose(dropped.mean(), 1.0, atol=0.02)
    np.testing.assert_array_equal(layers.Dropout(0.3)(x), x)


def test_dropout_without_a_seed_draws_anew(rng):
    x, layer = rng.normal(size=SHAPE).astype("float32"), layers.Dropout(0.5)
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))


def test_upsample_conv_is_a_convolution_of_repeated_pixels(rng):
    x = rng.normal(size=(2, 3, 5, 4)).astype("float32")
    ours, theirs = layers.UpsampleConv(6), keras.layers.Conv2D(6, 3, padding="same")
    repeated = x.repeat(2, axis=1).repeat(2, axis=2)
    ours.build(x.shape), theirs.build(repeated.shape)
    weights = [rng.normal(size=weight.shape) for weight in theirs.get_weights()]
    ours.set_weights(weights), theirs.set_weights(weights)
    np.testing.assert_allclose(ours(x), theirs(repeated), atol=1e-5)


def test_upsample_conv_has_the_gradients_of_a_convolution_of_repeated_pixels(rng):
    x = tf.constant(rng.normal(size=(2, 3, 5, 4)), tf.float32)
    weight, kernel = rng.normal(size=(2, 6, 10, 6)).astype("float32"), rng.normal(size=(3, 3, 4, 6))
    layer = layers.UpsampleConv(6)
    layer.build(x.shape)
    layer.set_weights([kernel, np.zeros(6)])
    kernel = tf.constant(kernel, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        ours = tf.reduce_sum(weight * layer(x))
        repeated = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
        theirs = tf.reduce_sum(weight * tf.nn.conv2d(repeated, kernel, 1, "SAME"))
    np.testing.assert_allclose(tape.gradient(ours, x), tape.gradient(theirs, x), atol=2e-5)
    np.testing.assert_allclose(tape.gradient(ours, layer.kernel.value), tape.gradient(theirs, kernel), atol=2e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.Dropout(1.0), r"dropout rate must be in \[0, 1\). Received: 1.0"),
        (lambda: layers.GroupNorm(activation="relu"), "activation must be 'silu' or None. Received: 'relu'"),
        (lambda: layers.TimeEmbedding(3), "must be even. Received: 3"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_work_in_a_functional_model():
    image = keras.Input((8, 8, 1))
    sigma = keras.Input(())
    model = keras.Model([image, sigma], bd.layers.HeatBlur()([image, sigma]))
    assert model.predict([np.ones((2, 8, 8, 1)), np.ones(2)], verbose=0).shape == (2, 8, 8, 1)


def test_res_block_is_the_formula(rng):
    x, embedding = rng.normal(size=(2, 6, 4, 8)).astype("float32"), rng.normal(size=(2, 5)).astype("float32")
    block = layers.ResBlock(8, dropout=0.5)
    block(x, embedding)
    block.set_weights([rng.normal(size=weight.shape) for weight in block.get_weights()])
    hidden = block.conv_in(block.norm_in(x))
    hidden = block.norm_out(hidden, modulation=block.modulation(embedding))
    np.testing.assert_allclose(block(x, embedding), x + block.conv_out(hidden), atol=1e-4)
    dropped = block.dropout(hidden, training=True, seed=[1, 2])
    np.testing.assert_allclose(block(x, embedding, training=True, seed=[1, 2]), x + block.conv_out(dropped), atol=1e-4)


def test_time_embedding_is_the_papers():
    t = np.array([0.0, 0.123, 1.0])
    angles = 1000 * t[:, None] * 10000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(layers.TimeEmbedding(8)(t), expected, atol=1e-3)
