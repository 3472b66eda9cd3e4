"""The figures of an export: written, loaded in TensorFlow's C++ runtime, and held against its model."""

import hashlib
import json
import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np
from runtime_times import Times, times_in_cpp_runtime
from tensorflow.core.protobuf import saved_model_pb2
from tqdm import tqdm

import tf_blurdiff as bd
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError
from tf_blurdiff.serving import assets as export_assets
from tf_blurdiff.serving.verification import verify

SEEDS = np.arange(8, dtype=np.int64)
NUM_CALLS = 10


class Export(NamedTuple):
    """Where an export is, its manifest, seconds that writing took, its times and images, and two differences.

    `worst_known` is verify's, None if it refused the export; `worst_sampled` is that to the model's own images.
    """

    path: pathlib.Path
    manifest: dict
    written: float
    times: Times
    worst_known: int | None
    worst_sampled: int


def measured(model, base_dir):
    """Exports a model into a folder; the `Export`."""
    with tqdm(total=NUM_CALLS + 4, desc=f"{base_dir.name}: writing", unit="step", leave=False) as progress:

        def next_is(what):
            progress.update()
            progress.set_description(f"{base_dir.name}: {what}")

        start = time.perf_counter()
        path = bd.export_savedmodel(model, base_dir)
        written = time.perf_counter() - start
        next_is("in the C++ runtime")
        manifest = json.loads((path / export_assets.FOLDER / export_assets.MANIFEST).read_text())
        feeds, output, labels = inputs(model, path)
        try:
            times = times_in_cpp_runtime(path, feeds, output, NUM_CALLS, progress.update)
        except RuntimeError as error:
            raise UserError(f"{path} does not run in TensorFlow's C++ runtime: {error}") from error
        progress.set_description(f"{base_dir.name}: all signatures")
        try:
            worst_known = verify(path)
        except UserError as error:
            worst_known = None
            progress.write(str(error), file=sys.stderr)
        next_is("model.sample")
        sampled = to_uint8(model.sample(SEEDS, labels=labels)).numpy()
        progress.update()
    return Export(path, manifest, written, times, worst_known, largest_difference(times.answer, sampled))


def inputs(model, export_dir):
    """(feeds, output) of the first signature as tensor names, and the labels for `model.sample`, or None."""
    saved_model = saved_model_pb2.SavedModel.FromString((export_dir / "saved_model.pb").read_bytes())
    signature = saved_model.meta_graphs[0].signature_def["serving_default"]
    values = {"seed": SEEDS}
    if model.num_classes is not None:
        values["label"] = SEEDS % model.num_classes
    if model.label_dropout:
        values["guidance_scale"] = np.ones(len(SEEDS), np.float32)
    feeds = {signature.inputs[key].name: rows for key, rows in values.items()}
    return feeds, signature.outputs["image"].name, values.get("label")


def row(process, export):
    """The cells of the table after the model."""
    sampling, times = export.manifest["sampling"], export.times
    size = sum(path.stat().st_size for path in export.path.rglob("*") if path.is_file())
    return [
        family(process),
        ", ".join(export.manifest["signatures"]),
        f"{sampling['sampler']}, {sampling['num_steps']}",
        f"{size / 1e6:.1f}",
        *(f"{seconds:.2f}" for seconds in (export.written, times.load, times.calls[0], times.calls[-1])),
        "the same" if is_known(times.answer[0], export.manifest) else "another",
        "refused" if export.worst_known is None else str(export.worst_known),
        str(export.worst_sampled),
    ]


def family(process):
    """The preset that makes such a process."""
    if process.ends_in_noise:
        return "blurring" if process.dissipation.sigma_blur_max > 0 else "gaussian"
    return "heat_dissipation" if process.has_noise else "cold"


def is_known(image, manifest):
    """Whether uint8 `[H, W, C]` is the image that the manifest has the hash of."""
    return hashlib.sha256(image.tobytes()).hexdigest() == manifest["known"]["image_sha256"]


def largest_difference(images, others):
    """In grey levels, of uint8 images of one shape."""
    return int(np.abs(images.astype(np.int64) - others).max())
