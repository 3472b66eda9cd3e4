"""What an export holds beside the graph, in assets.extra: warm-up requests, known images, a manifest, a card."""

import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_blurdiff import __version__
from tf_blurdiff.diffusion.samplers import SamplingSettings
from tf_blurdiff.model import DiffusionModel
from tf_blurdiff.serving.card import export_card
from tf_blurdiff.serving.signatures import Signature

FOLDER, MANIFEST, KNOWN, WARMUP = "assets.extra", "manifest.json", "known", "tf_serving_warmup_requests"
CARD = "README.md"
_VERSIONS = {
    "tf_blurdiff": __version__,
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "numpy": np.__version__,
}


def write_assets(
    folder: pathlib.Path,
    model: DiffusionModel,
    settings: SamplingSettings,
    signatures: Mapping[str, Signature],
    students: Mapping[str, DiffusionModel],
    notes: str | None,
) -> None:
    """Writes all of them.

    Args:
        folder: where to, a path that does not exist yet.
        model: the `DiffusionModel`.
        settings: its `samplers.SamplingSettings` for `serving_default`.
        signatures: name -> `signatures.Signature`.
        students: name of a signature -> the distilled model that answers it.
        notes: Markdown for the end of the card, or None.
    """
    (folder / KNOWN).mkdir(parents=True)
    examples = {name: {key: i.example for key, i in entry.inputs.items()} for name, entry in signatures.items()}
    write_warmup(folder / WARMUP, examples)
    known = {name: _answer(entry.function, examples[name]) for name, entry in signatures.items()}
    for name, answer in known.items():
        # NumPy's own bytes type: a PNG file does not end in NULs, which it would drop.
        feeds = {key: rows.astype(bytes) if rows.dtype == object else rows for key, rows in examples[name].items()}
        arrays: dict[str, Any] = {"image": answer, **{f"input_{key}": rows for key, rows in feeds.items()}}
        np.savez(folder / KNOWN / f"{name}.npz", **arrays)
    manifest = _manifest(model, settings, signatures, students, known["serving_default"])
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    (folder / CARD).write_text(export_card(model, settings, signatures, students, notes))


def write_warmup(path: str | os.PathLike, examples: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """The file of requests that TF Serving sends itself before it reports a model ready; examples by signature."""
    from tensorflow_serving.apis import prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, feeds in examples.items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            for name, rows in feeds.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(rows))
            writer.write(log.SerializeToString())


def read_warmup(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The inverse of `write_warmup`, as pairs; raises tf.errors.OpError or DecodeError for a damaged file."""
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        yield request.model_spec.signature_name, {n: tf.make_ndarray(proto) for n, proto in request.inputs.items()}


def _answer(function, feeds):
    # The concrete function: TensorFlow takes signatures of the same lines for one that is traced again and again.
    answer = function.get_concrete_function()(*(tf.constant(rows) for rows in feeds.values()))
    for name in ("image", "label"):
        if name in answer:
            return answer[name].numpy()
    return np.stack([tf.io.decode_png(file).numpy() for file in answer["image_bytes"]])


def _manifest(model, settings, signatures, students, images):
    signature = {
        name: {
            "meaning": entry.meaning,
            "inputs": {
                key: {"dtype": i.dtype, "shape": [None, *i.shape], "meaning": i.meaning, "allowed": i.allowed}
                for key, i in entry.inputs.items()
            },
        }
        for name, entry in signatures.items()
    }
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _VERSIONS,
        "model_sha256": model.fingerprint(),
        "sampling": settings._asdict(),
        "class_names": model.class_names,
        "signatures": signature,
        "students": {
            name: {"model_sha256": student.fingerprint(), "sampling": student.sampling_settings()._asdict()}
            for name, student in students.items()
        },
        # Another processor may round a pixel differently: the known images are compared to within a grey level.
        "known": {"seed": 0, "image_sha256": hashlib.sha256(images[0].tobytes()).hexdigest()},
        "model": keras.saving.serialize_keras_object(model),
    }
