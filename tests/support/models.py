"""Small models and data for tests."""

import keras
import numpy as np

import tf_blurdiff as bd
from tf_blurdiff.diffusion.predictions import PREDICTIONS
from tf_blurdiff.diffusion.samplers import SAMPLERS

PROCESSES = {
    "gaussian": bd.process.gaussian(),
    "gaussian, linear betas": bd.process.gaussian(noise_schedule="linear_betas"),
    "blurring": bd.process.blurring(sigma_blur_max=4.0),
    "blurring, sin": bd.process.blurring(sigma_blur_max=0.5, blur_schedule="sin", blur_unit="width"),
    "heat_dissipation": bd.process.heat_dissipation(sigma_blur_max=4.0, num_levels=6),
    "cold": bd.process.cold(sigma_blur_min=0.05, num_levels=6),
}
# Every (process, prediction) that is allowed, and every (process, prediction, sampler).
PREDICTED = [
    (process, prediction)
    for process in PROCESSES
    for prediction in PREDICTIONS
    if PREDICTIONS[prediction].allowed(PROCESSES[process])
]
SAMPLED = [
    (process, prediction, sampler)
    for process, prediction in PREDICTED
    for sampler in SAMPLERS
    if SAMPLERS[sampler].allowed(PROCESSES[process], prediction)
]


def small_network(num_classes=None, image_shape=(8, 8, 1)):
    """A plain Keras model of the form that is asked for; much faster to trace than a U-Net."""
    z, t = keras.Input(image_shape), keras.Input(())
    condition, inputs = keras.layers.Dense(4)(keras.layers.Reshape((1, 1, 1))(t)), [z, t]
    if num_classes is not None:
        label = keras.Input((), dtype="int64")
        inputs.append(label)
        condition = condition + keras.layers.Reshape((1, 1, 4))(keras.layers.Embedding(num_classes + 1, 4)(label))
    hidden = keras.layers.Activation("silu")(keras.layers.Conv2D(4, 3, padding="same")(z) + condition)
    network = keras.Model(inputs, keras.layers.Conv2D(image_shape[-1], 3, padding="same")(hidden))
    network.num_classes = num_classes
    return network


def make(network=None, process="blurring", prediction=None, **kwargs):
    """A `DiffusionModel`, untrained; unless told it predicts eps where it can, which needs no statistics of data."""
    network = small_network() if network is None else network
    if prediction is None and PREDICTIONS["eps"].allowed(PROCESSES[process]):
        prediction = "eps"
    return bd.DiffusionModel(network, PROCESSES[process], prediction, image_shape=(8, 8, 1), **kwargs)


def randomized(model, seed=0):
    """Gives the averaged weights random values: a fresh network would predict 0 and hide mistakes."""
    labels = () if model.num_classes is None else (np.arange(64) % model.num_classes,)
    model.adapt([(images(), *labels)])
    rng = np.random.default_rng(seed)
    for average in model.ema_weights:
        average.assign(0.1 * rng.normal(size=average.shape))
    return model


def images(count=64, seed=0):
    """White noise in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, size=(count, 8, 8, 1)).astype("float32")
