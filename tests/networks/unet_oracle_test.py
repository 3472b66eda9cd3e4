"""The U-Net held against the papers' plain formulas in NumPy and float64, which share no code with it."""

import numpy as np
import pytest

import tf_blurdiff as bd
from tf_blurdiff.networks.layers import SelfAttention


def array(weight):
    return np.asarray(weight, "float64")


def silu(x):
    return x / (1.0 + np.exp(-x))


def dense(layer, x):
    return x @ array(layer.kernel) + array(layer.bias)


def conv(layer, x, stride=1):
    """A convolution with zeros around the picture; TensorFlow puts none before the first pixel for stride 2."""
    kernel, (height, width) = array(layer.kernel), x.shape[1:3]
    size = kernel.shape[0]
    before = (size - 1) // 2 if stride == 1 else 0
    padded = np.pad(x, [(0, 0), (before, size), (before, size), (0, 0)])
    y = sum(
        padded[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )
    return y + array(layer.bias)


def norm(layer, x, modulation=None):
    batch, height, width, channels = x.shape
    groups = max(n for n in range(1, 33) if channels % n == 0 and 32 % n == 0 and channels // n >= 4)
    grouped = x.reshape(batch, height * width, groups, channels // groups)
    mean, variance = (function(grouped, axis=(1, 3), keepdims=True) for function in (np.mean, np.var))
    y = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * array(layer.gamma) + array(layer.beta)
    if modulation is not None:
        scale, shift = np.split(modulation[:, None, None, :], 2, axis=-1)
        y = y * (1.0 + scale) + shift
    return y


def attention(layer, x):
    batch, height, width, channels = x.shape
    heads = max(n for n in range(1, max(1, channels // 64) + 1) if channels % n == 0)
    joined = dense(layer.query_key_value, norm(layer.norm, x)).reshape(batch, height * width, 3, heads, -1)
    query, key, value = np.moveaxis(joined, 2, 0)
    scores = np.exp(np.einsum("bqhc,bkhc->bhqk", query, key) / np.sqrt(channels // heads))
    attended = np.einsum("bhqk,bkhc->bqhc", scores / scores.sum(axis=-1, keepdims=True), value)
    return x + dense(layer.output_dense, attended.reshape(x.shape))


def block(layer, x, embedding):
    hidden = conv(layer.conv_in, silu(norm(layer.norm_in, x)))
    hidden = conv(layer.conv_out, silu(norm(layer.norm_out, hidden, dense(layer.modulation, embedding))))
    x = hidden + (x if layer.projection is None else conv(layer.projection, x))
    return x if layer.attention is None else attention(layer.attention, x)


def embed(network, t, label):
    half = network.channels // 2
    angles = 1000.0 * t[:, None] * 10000.0 ** (-np.arange(half) / half)
    sinusoids = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    embedding = dense(network.time_dense_out, silu(dense(network.time_dense_in, sinusoids)))
    return silu(embedding + array(network.label_embedding.embeddings)[label])


def unet(network, z, t, label):
    embedding, down, up = embed(network, t, label), iter(network.down_blocks), iter(network.up_blocks)
    down_convs, up_convs = iter(network.down_convs), iter(network.up_convs)
    levels = range(len(network.multipliers))
    skips = [conv(network.conv_in, z)]
    for level in levels:
        if level:
            skips.append(conv(next(down_convs), skips[-1], stride=2))
        for _ in range(network.num_res_blocks):
            skips.append(block(next(down), skips[-1], embedding))
    x = skips[-1]
    for layer in network.middle_blocks:
        x = block(layer, x, embedding)
    for level in reversed(levels):
        for _ in range(network.num_res_blocks + 1):
            x = block(next(up), np.concatenate([x, skips.pop()], axis=-1), embedding)
        if level:
            x = conv(next(up_convs), x.repeat(2, axis=1).repeat(2, axis=2))
    return conv(network.conv_out, silu(norm(network.norm_out, x)))


# Relative to the output's size.
@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-4), ("mixed_bfloat16", 0.1)])
def test_the_network_is_the_plain_formulas(rng, policy, tolerance):
    network = bd.UNet((8, 12, 3), 32, (1, 2, 4), 1, attention_resolutions=(4,), num_classes=3, dtype=policy)
    network.build()
    weights = [rng.normal(size=w.shape) / np.sqrt(max(1, np.prod(w.shape[:-1]))) for w in network.get_weights()]
    network.set_weights(weights)
    z, t = rng.normal(size=(2, 8, 12, 3)).astype("float32"), np.array([0.125, 0.75], "float32")
    label = np.array([0, 3])
    expected = unet(network, z.astype("float64"), t.astype("float64"), label)
    error = np.abs(np.asarray(network([z, t, label])) - expected).max()
    assert np.abs(expected).max() > 0.1
    assert error < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("channels, heads", [(60, 1), (192, 3), (194, 2), (197, 1)])
def test_attention_of_any_width_is_the_plain_formula(rng, channels, heads):
    layer = SelfAttention()
    layer.build((None, 2, 3, channels))
    layer.set_weights([rng.normal(size=weight.shape) / np.sqrt(channels) for weight in layer.get_weights()])
    x = rng.normal(size=(2, 2, 3, channels)).astype("float32")
    assert layer.heads == heads
    np.testing.assert_allclose(layer(x), attention(layer, x.astype("float64")), atol=1e-4)
