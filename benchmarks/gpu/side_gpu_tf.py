"""The side of tf_blurdiff on a GPU, see benchmarks/speed/protocol.py.

What it prepares, by the words of "what":

    training, PROCESS, HOW    steps of training; HOW is compiled or plain
    sampling, PROCESS, HOW    a batch of images; HOW is compiled, plain or SavedModel
    lsun, HOW                 steps of lsun.yaml's network with batches of "size"; HOW is rematerialized or plain

Commands of its own: `peak`, `limit` to so many GB of GPU memory before anything else, and `fits`.
"""

import os
import tempfile

import protocol

_LSUN_STEPS_PER_ACTION = 2
_SMALL_LSUN = (
    "data.image_size=16", "network.channels=8", "network.multipliers=[1,1]", "network.num_res_blocks=1",
    "network.attention_resolutions=[8]",
)  # fmt: skip


def make_action(what, size, precision):
    """See `protocol.Conversation`."""
    kind, *words = what.split(", ")
    return {"training": _training, "sampling": _sampling, "lsun": _lsun}[kind](size, precision, *words)


def _model(size, precision, process, compiled):
    import blurdiff_work
    from gpu_sizes import GPU_SIZES

    import tf_blurdiff as bd

    size = GPU_SIZES[size]
    process = bd.process.gaussian() if process == "gaussian" else bd.process.blurring(sigma_blur_max=size.image / 2)
    return size, blurdiff_work.make_model(size, precision, process, jit_compile=compiled)


def _training(size_name, precision, process, how):
    import blurdiff_work
    from gpu_sizes import STEPS_PER_ACTION

    size, model = _model(size_name, precision, process, how == "compiled")
    action = _steps(model, blurdiff_work.images(size), STEPS_PER_ACTION[size_name])
    return action, model.network.count_params()


def _steps(model, x, count):
    """Some steps in a traced loop, as the trainer has it."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def steps():
        body = lambda i, loss: (i + 1, model.train_step(x)["loss"])
        return tf.while_loop(lambda i, loss: i < count, body, (0, 0.0), parallel_iterations=1)[1]

    return lambda: float(steps())


def _sampling(size_name, precision, process, how):
    import numpy as np
    import tensorflow as tf
    from sizes import SAMPLING_STEPS

    import tf_blurdiff as bd

    size, model = _model(size_name, precision, process, how == "compiled")
    parameters, seeds = model.network.count_params(), np.arange(size.batch)
    if how != "SavedModel":
        return lambda: model.sample(seeds, SAMPLING_STEPS, "ddim", batch_size=size.batch), parameters
    with tempfile.TemporaryDirectory() as folder:
        path = bd.export_savedmodel(model, folder, num_steps=SAMPLING_STEPS, sampler="ddim")
        served = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda: served(seed=tf.constant(seeds))["image"].numpy(), parameters


def _lsun_step(rematerialize, precision, small):
    import tf_blurdiff as bd
    from tf_blurdiff.config import load_config
    from tf_blurdiff.config.loading import build_model

    changes = [f"network.rematerialize={rematerialize}", f"train.precision={precision}"]
    model = build_model(load_config("lsun.yaml", [*changes, *(_SMALL_LSUN if small else ())]))
    model.compile(bd.optimizers.Adam(1e-4))
    model.optimizer.build(model.network.trainable_variables)
    return model


def _lsun(size, precision, how):
    batch, small = int(size.removeprefix("small ")), size.startswith("small")
    model = _lsun_step(how == "rematerialized", precision, small)
    return _steps(model, _noise(model, batch), _LSUN_STEPS_PER_ACTION), model.network.count_params()


def _noise(model, batch):
    import tensorflow as tf

    return tf.random.stateless_uniform((batch, *model.image_shape), [0, 0], -1.0, 1.0)


def peak():
    """The most GPU memory of this process up to now, in GB; None without a GPU."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return {"gb": None}
    return {"gb": tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9}


def limit(gb):
    """Bounds what this process may take of the GPU."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU")[:1]:
        whole = [tf.config.LogicalDeviceConfiguration(memory_limit=int(gb * 1e9 / 2**20))]
        tf.config.set_logical_device_configuration(gpu, whole)
    return {}


class _Fits:
    """The command `fits`: whether a training step of lsun.yaml's network with a batch can be done."""

    def __init__(self):
        self._model = None

    def __call__(self, rematerialize, precision, batch, small):
        import tensorflow as tf

        if self._model is None:
            self._model = _lsun_step(rematerialize, precision, small)
        try:
            _steps(self._model, _noise(self._model, batch), 2)()
        except (tf.errors.ResourceExhaustedError, tf.errors.InternalError) as error:
            if not any(word in str(error) for word in ("OOM", "RESOURCE_EXHAUSTED", "ut of memory")):
                raise
            return {"fits": False}
        return {"fits": True}


def main():
    """Imports after standard output is out of the libraries' reach."""
    answers = protocol.take_stdout()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    protocol.Conversation(answers, make_action, peak=peak, limit=limit, fits=_Fits()).hold()


if __name__ == "__main__":
    main()
