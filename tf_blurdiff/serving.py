"""The model as a SavedModel for TF Serving: seeds in, images out, the whole sampling loop inside the graph."""

import json
import os
import pathlib
import shutil
import zipfile

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from tf_blurdiff.cpp_runtime import run_in_cpp_runtime
from tf_blurdiff.data import to_uint8
from tf_blurdiff.errors import UserError

# What the export is checked with, and what the server runs before it reports ready.
_KNOWN_SEEDS = (0, 1, 2, 3)
_ASSETS = "assets.extra"


class _Served(tf.Module):
    """Holds the variables that an export needs, and the traced signatures."""

    def __init__(self, model, settings, times):
        super().__init__()
        # The weights in training are not served.
        kept = [*model.averages, *model.network.non_trainable_variables, model.freq_mean, model.freq_std]
        if not model.process.ends_in_noise:
            kept += model.prior.variables
        self.kept_variables = [variable.value for variable in kept]
        inputs = [tf.TensorSpec([None], tf.int64, name="seed")]
        if model.num_classes is not None:
            inputs.append(tf.TensorSpec([None], tf.int64, name="label"))
        if model.label_dropout:
            inputs.append(tf.TensorSpec([None], tf.float32, name="guidance_scale"))

        def trace(function):
            return tf.function(function, input_signature=inputs, autograph=False)

        def sample(seed, label=None, guidance_scale=None):
            label = tf.zeros_like(seed) if label is None else label
            guidance_scale = tf.ones(tf.shape(seed)) if guidance_scale is None else guidance_scale
            return model.draw(seed, seed, label, guidance_scale, times, settings)

        def png(*arguments):
            encoded = tf.map_fn(tf.io.encode_png, to_uint8(self.sample(*arguments)), fn_output_signature=tf.string)
            return {"image_bytes": encoded}

        # Not a signature, but there for who loads the export in Python: float32 images in [-1, 1].
        self.sample = trace(sample)
        self.traced = {"serving_default": trace(lambda *a: {"image": to_uint8(self.sample(*a))}), "png": trace(png)}


def export_savedmodel(model, base_dir, version=None, num_steps=None, sampler=None, eta=0.0, grid=None, delta=None):
    """Writes `<base_dir>/<version>/`, complete or not at all, for TF Serving.

    Signatures: `serving_default`, seed int64 `[B]` to image uint8 `[B, H, W, C]`; `png`, the same inputs to
    image_bytes, `[B]` PNG files. A model with labels also takes label int64 `[B]`, and one trained with label dropout
    guidance_scale float32 `[B]`; its label num_classes is "none".

    Args:
        model: a `DiffusionModel`.
        base_dir: the folder that the server watches.
        version: integer of 1 or more; None takes the next.
        num_steps, sampler, eta, grid, delta: as in `DiffusionModel.sample`; None takes the model's own.

    Returns:
        The path of the export.

    Raises:
        UserError: if the version is there already, for a sampler or num_steps that is not allowed, or if the process
            starts from blurred data and `adapt` has not told the model what that looks like.

    Example:
        >>> import tempfile
        >>> import tf_blurdiff as bd
        >>> network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1)
        >>> model = bd.DiffusionModel(network, bd.process.blurring(sigma_blur_max=4.0))
        >>> bd.export_savedmodel(model, tempfile.mkdtemp(), num_steps=2).name
        '1'
    """
    settings, times = model.sampling(sampler, num_steps, grid, eta, delta)
    model.check_prior()
    base_dir = pathlib.Path(base_dir)
    final = base_dir / str(_free_version(base_dir, version))
    # TF Serving looks at folders with an integer for a name only; the rename shows it the whole export at once.
    temporary = base_dir / f".writing-{final.name}"
    try:
        base_dir.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        served = _Served(model, settings, times)
        tf.saved_model.save(served, str(temporary), signatures=served.traced)
        _add_assets(model, temporary / _ASSETS, settings)
        os.rename(temporary, final)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise UserError(f"{final} cannot be written: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _free_version(base_dir, version):
    taken = {int(path.name) for path in base_dir.glob("*") if path.name.isdecimal()}
    if version is None:
        return max(taken, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError(f"version must be an integer of 1 or more. Received: {version!r}")
    if version in taken:
        raise UserError(f"version {version} is in {base_dir} already; taken: {sorted(taken)}")
    return version


def _add_assets(model, folder, settings):
    folder.mkdir()
    feeds = {"seed": np.array(_KNOWN_SEEDS, np.int64)}
    if model.num_classes is not None:
        feeds["label"] = np.arange(len(_KNOWN_SEEDS)) % model.num_classes
    if model.label_dropout:
        feeds["guidance_scale"] = np.linspace(1.0, 2.0, len(_KNOWN_SEEDS), dtype=np.float32)
    _write_warmup(folder / "tf_serving_warmup_requests", feeds)
    conditions = {"labels": feeds.get("label"), "guidance_scale": feeds.get("guidance_scale", 1.0)}
    images = model.sample(feeds["seed"], **settings._asdict(), **conditions)
    np.savez(folder / "known_images.npz", image=to_uint8(images).numpy(), **feeds)
    (folder / "sampling.json").write_text(json.dumps(settings._asdict()) + "\n")


def _write_warmup(path, feeds):
    from tensorflow_serving.apis import prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in ("serving_default", "png"):
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            for name, values in feeds.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            writer.write(log.SerializeToString())


def verify(export_dir):
    """Runs an export's known seeds in TensorFlow's C++ runtime, without Python TensorFlow and with XLA off.

    Args:
        export_dir: `<base_dir>/<version>`.

    Returns:
        The largest difference to the known images over both signatures, in grey levels.

    Raises:
        UserError: if the folder holds no export of this package, if it does not run, or if an image differs by more
            than one grey level.
    """
    export_dir = pathlib.Path(export_dir)
    known = _known_images(export_dir)
    if "image" not in known:
        raise UserError(f"{export_dir} is no export of tf_blurdiff: its known images are missing")
    expected = known.pop("image").astype(np.int64)
    worst = 0
    for signature, output in (("serving_default", "image"), ("png", "image_bytes")):
        feeds, fetches = _tensor_names(export_dir, signature, known)
        try:
            result = run_in_cpp_runtime(export_dir, feeds, fetches)[output]
        except RuntimeError as error:
            raise UserError(f"{export_dir} does not run in TensorFlow's C++ runtime: {error}") from error
        images = result if output == "image" else np.stack([tf.io.decode_png(png) for png in result])
        worst = max(worst, int(np.abs(images.astype(np.int64) - expected).max()))
    if worst > 1:
        raise UserError(f"{export_dir} gives other images than when it was written: {worst} grey levels apart")
    return worst


def _known_images(export_dir):
    path = export_dir / _ASSETS / "known_images.npz"
    if not path.is_file():
        raise UserError(f"{export_dir} is no export of tf_blurdiff: {_ASSETS}/{path.name} is missing")
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _tensor_names(export_dir, signature, arrays):
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString((export_dir / "saved_model.pb").read_bytes())
        definition = saved_model.meta_graphs[0].signature_def[signature]
    except (OSError, DecodeError, IndexError) as error:
        raise UserError(f"{export_dir}/saved_model.pb cannot be read: {error}") from error
    feeds = {definition.inputs[name].name: array for name, array in arrays.items()}
    return feeds, {name: tensor.name for name, tensor in definition.outputs.items()}
