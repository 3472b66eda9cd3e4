"""Scores models against a config's images, and writes a report with pictures.

    python -m tf_blurdiff.evaluate --model runs/digits/model.keras --config digits.yaml --num_images 2048
    python -m tf_blurdiff.evaluate --model A.keras --model B.keras --config digits.yaml --sampler ddim
        --sampler ancestral --num_steps 20 --num_steps 50 --features pixels --features classifier:classifier.keras

Every --model is sampled with every --sampler in every --num_steps. The same command again makes only the images that
are missing. docs/evaluation.md says what the figures mean, and which may be called FID.
"""

import datetime
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import shlex
import sys

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.config.schema import build_images, load_config
from tf_blurdiff.devices import STRATEGIES, open_devices
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.samplers import SAMPLERS
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.features import default_features, open_features
from tf_blurdiff.evaluation.reference import Reference
from tf_blurdiff.evaluation.report import notes, score_table, write_report
from tf_blurdiff.evaluation.scores import BITS, METRICS, Samples, draw_samples, open_candidates, score
from tf_blurdiff.files import writable_folder

_MODEL = flags.DEFINE_multi_string(
    "model", None, "A model: a .keras file, or digits or fashion_mnist, which are shipped; repeatable.", required=True
)
_CONFIG = flags.DEFINE_string(
    "config", None, "YAML file, or the name of one that is shipped: its data are the real images.", required=True
)
_SET = flags.DEFINE_multi_string("set", [], "Overrides one value of the config, as in data.split=test; repeatable.")
_OUT_DIR = flags.DEFINE_string("out_dir", "report", "The folder for report.html, report.json, pictures and samples.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 10_000, "Samples of each model, sampler and number of steps.")
_NUM_REFERENCE = flags.DEFINE_integer("num_reference", None, "Real images, evenly spaced (default: all).")
_METRICS = flags.DEFINE_list("metrics", list(METRICS), f"Some of {','.join(METRICS)}.")
_FEATURES = flags.DEFINE_multi_string(
    "features",
    None,
    "pixels, dct_energies, efficientnet_lite0, classifier:PATH or inception:PATH; repeatable (default: pixels, if they "
    "are few, and dct_energies).",
)
_SAMPLER = flags.DEFINE_multi_enum("sampler", None, list(SAMPLERS), "A sampler; repeatable (default: the model's own).")
_NUM_STEPS = flags.DEFINE_multi_integer(
    "num_steps", None, "Calls of the network; repeatable (default: the model's own)."
)
_GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "Times of the steps (default: the model's or sampler's own).")
_ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim, from 0 (deterministic) to 1 (ancestral).")
_DELTA = flags.DEFINE_float("delta", None, "Noise of heat (default: 1.25 times the process's sigma).")
_GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", 1.0, "Strength of guidance by the label; 1 for none.")
_SEED = flags.DEFINE_integer("seed", 0, "The first sample's seed.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Samples in the memory of one device at once.")
_BITS_IMAGES = flags.DEFINE_integer("bits_images", BITS.num_images, "Real images for bits per dimension.")
_BITS_STEPS = flags.DEFINE_integer("bits_steps", BITS.num_steps, "Steps of the bound.")
_BITS_TIMES = flags.DEFINE_integer(
    "bits_times", BITS.num_times, "At how many of them the network is called, a divisor."
)
_CACHE_DIR = flags.DEFINE_string("cache_dir", "~/.cache/tf_blurdiff", "Where the real images' features are kept.")
_STRATEGY = flags.DEFINE_enum("strategy", "auto", STRATEGIES, "Devices for sampling.")
_REPLICAS = flags.DEFINE_integer("replicas", None, "With --strategy mirrored: how many devices (default: all GPUs).")


def main():
    """Evaluates, prints the scores and says where the report is."""
    _check_flags()
    config = load_config(_CONFIG.value, _SET.value)
    out_dir = _place()
    devices = open_devices(_STRATEGY.value, _REPLICAS.value, in_step=False)
    reference = Reference(build_images(config), _NUM_REFERENCE.value, verbose=True)
    networks = [open_features(name, config.image_shape) for name in _features(config.image_shape)]
    samples = Samples(
        _NUM_IMAGES.value, _SEED.value, _GRID.value, _ETA.value, _DELTA.value, _GUIDANCE_SCALE.value, _BATCH_SIZE.value
    )
    ways = _SAMPLER.value or (None,), _NUM_STEPS.value or (None,), _METRICS.value
    with devices.strategy.scope():
        candidates = open_candidates(_MODEL.value, reference, samples, *ways)
    draw_samples(candidates, reference, samples, out_dir, devices, verbose=True)
    if not devices.is_chief:
        print("the images of this worker are made; the first worker writes the report when all are")
        return
    bits = BITS._replace(num_images=_BITS_IMAGES.value, num_steps=_BITS_STEPS.value, num_times=_BITS_TIMES.value)
    scored, real = score(
        candidates, reference, networks, samples, out_dir, _CACHE_DIR.value, _METRICS.value, bits, verbose=True
    )
    as_json, as_html = write_report(scored, real, reference, _about(config, real, devices), out_dir)
    _print(json.loads(as_json.read_text()))
    print(f"figures: {as_json}\nreport: {as_html}")


def _check_flags():
    if _NUM_REFERENCE.value is not None and _NUM_REFERENCE.value < 1:
        raise UserError(f"--num_reference must be 1 or more. Received: {_NUM_REFERENCE.value}")
    if _BITS_IMAGES.value < 2:
        raise UserError(f"--bits_images must be 2 or more. Received: {_BITS_IMAGES.value}")
    if not 1 <= _BITS_TIMES.value <= _BITS_STEPS.value or _BITS_STEPS.value % _BITS_TIMES.value:
        raise UserError(f"--bits_times must divide --bits_steps, {_BITS_STEPS.value}. Received: {_BITS_TIMES.value}")
    for flag in (_MODEL, _FEATURES, _SAMPLER, _NUM_STEPS):
        if len(set(flag.value or ())) < len(flag.value or ()):
            raise UserError(f"--{flag.name} must not be given twice with the same value. Received: {flag.value}")


def _place():
    """The report's folder; made before hours of sampling, not after."""
    cache_dir = _CACHE_DIR.value
    writable_folder(pathlib.Path(cache_dir).expanduser(), f"--cache_dir {cache_dir}")
    return writable_folder(_OUT_DIR.value, f"--out_dir {_OUT_DIR.value}")


def _features(image_shape):
    return _FEATURES.value or default_features(image_shape)


def _about(config, real, devices):
    data = config.data
    where = ", ".join(str(value) for value in (data.source, data.name, data.root) if value)
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("tf_blurdiff", "tensorflow", "keras", "numpy")
    ]
    as_text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return {
        "command": shlex.join(["python", "-m", "tf_blurdiff.evaluate", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": f"{_CONFIG.value} {' '.join(_SET.value)}".strip(),
        "config sha256": hashlib.sha256(as_text.encode()).hexdigest()[:16],
        "real images": f"{where}, split {data.split}: {real['num_images']:,} of {real['of']:,}, not mirrored",
        "digest of the real images": real["digest"],
        "samples": "averaged weights, rounded to 8 bits, written as PNG and read again",
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "devices": devices.describe(),
    }


def _print(report):
    titles, rows = score_table(report)
    for row in [titles, ["---"] * len(titles), *rows]:
        print(f"| {' | '.join(row)} |")
    for model in report["models"]:
        bits = model["bits"]
        if bits:
            total = bits.get("none") or f"{bits['total']:.4f} ± {bits['standard_error']:.4f}"
            print(f"bits per dimension of real images, {model['name']}: {total}")
    for note in notes(report):
        print(f"- {note}")


if __name__ == "__main__":
    command_line.run(main)
