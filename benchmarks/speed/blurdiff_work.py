"""What is timed of tf_blurdiff: a training step, a forward pass, sampling."""

import keras
import tensorflow as tf
from sizes import RES_BLOCKS, SAMPLING_STEPS, size_of

import tf_blurdiff as bd


def make_model(size, precision, process=None, jit_compile="auto", **network_settings):
    """A model of a `Size` with an optimizer.

    Args:
        size: a `Size`.
        precision: "float32" or "mixed_bfloat16".
        process: a `Process`; None for a Gaussian one.
        jit_compile: see `DiffusionModel.compile`.
        **network_settings: of `UNet`.
    """
    process = bd.process.gaussian() if process is None else process
    keras.config.set_dtype_policy(precision)
    try:
        network = bd.UNet(
            size.shape, size.widths[0], size.multipliers, RES_BLOCKS, (size.attention,), dropout=0.0, **network_settings
        )
        # What diffusers predicts; "preconditioned" would have to be given data first.
        model = bd.DiffusionModel(network, process, "eps", image_shape=size.shape, clip_norm=1.0)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(bd.optimizers.Adam(1e-4), jit_compile=jit_compile)
    model.optimizer.build(network.trainable_variables)
    return model


def images(size):
    """A batch."""
    return tf.random.stateless_uniform((size.batch, *size.shape), [0, 0], -1.0, 1.0)


def training_function(model):
    """The traced step; a function of a batch."""
    return tf.function(model.train_step, autograph=False)


def forward_function(model):
    """The traced network; a function of images and times."""
    return tf.function(lambda x, t: model.network([x, t]), autograph=False)


def make_action(what, size_name, precision):
    """An action without arguments that returns when it is done, and the network's number of parameters."""
    size = size_of(size_name)
    model = make_model(size, precision, rematerialize=what == "training step, rematerialized")
    x, t = images(size), tf.linspace(0.0, 1.0, size.batch)
    if what in ("training step", "training step, rematerialized"):
        step = training_function(model)
        action = lambda: float(step(x)["loss"])
    elif what == "forward pass":
        forward = forward_function(model)
        action = lambda: forward(x, t).numpy()
    elif what == "sampling":
        action = lambda: model.sample(range(size.batch), SAMPLING_STEPS, "ddim", batch_size=size.batch)
    else:
        raise ValueError(f"nothing is known of {what}")
    return action, model.network.count_params()
