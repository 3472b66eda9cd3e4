"""Scores models against a config's images, and writes a report with pictures.

    python -m tf_blurdiff.evaluate --model runs/digits/model.keras --config digits.yaml --num_images 2048
    python -m tf_blurdiff.evaluate --model A.keras --model B.keras --config digits.yaml --sampler ddim
        --sampler ancestral --num_steps 20 --num_steps 50 --features pixels --features classifier:classifier.keras

Every --model is sampled with every --sampler in every --num_steps. The same command again makes only the images that
are missing. docs/evaluation.md says what the figures mean, and which may be called FID.
"""

import json
import sys

from tf_blurdiff import command_line
from tf_blurdiff.config import build_images, load_config, with_pictures
from tf_blurdiff.devices import open_devices
from tf_blurdiff.errors import UserError, check_count
from tf_blurdiff.evaluation import (
    BOUND,
    METRICS,
    BoundSettings,
    Reference,
    SampleSettings,
    as_text,
    default_features,
    describe_run,
    draw_samples,
    open_candidates,
    open_features,
    score,
    write_report,
)
from tf_blurdiff.files import writable_folder

FLAGS = command_line.Flags()
_MODEL = FLAGS.shared("model", repeatable=True, required=True)
_CONFIG = FLAGS.shared("config", required=True)
FLAGS.shared("imports")
_SET = FLAGS.shared("set")
_SPLIT = FLAGS.enum(
    "split", "train", ["train", "held_out"], "Which real images: those that a run learns from, or data.held_out's."
)
_OUT_DIR = FLAGS.string("out_dir", "report", "The folder for report.html, report.json, pictures and samples.")
_NUM_IMAGES = FLAGS.integer("num_images", 10_000, "Samples of each model, sampler and number of steps.")
_NUM_REFERENCE = FLAGS.integer("num_reference", None, "Real images, evenly spaced (default: all).")
_METRICS = FLAGS.list("metrics", list(METRICS), f"Some of {','.join(METRICS)}.")
_FEATURES = FLAGS.multi_string(
    "features",
    None,
    "pixels, dct_energies, efficientnet_lite0, classifier:PATH or inception:PATH (default: pixels, if they are few, "
    "and dct_energies)",
)
_SAMPLER = FLAGS.shared("sampler", repeatable=True)
_NUM_STEPS = FLAGS.shared("num_steps", repeatable=True)
_GRID, _ETA, _DELTA = FLAGS.shared("grid"), FLAGS.shared("eta"), FLAGS.shared("delta")
_GUIDANCE_SCALE = FLAGS.shared("guidance_scale")
_SEED = FLAGS.shared("seed")
_BATCH_SIZE = FLAGS.shared("batch_size")
_PRECISION = FLAGS.shared("precision")
_BITS_IMAGES = FLAGS.integer("bits_images", BOUND.num_images, "Real images for bits per dimension.")
_BITS_STEPS = FLAGS.integer("bits_steps", BOUND.num_steps, "Steps of the bound.")
_BITS_TIMES = FLAGS.integer("bits_times", BOUND.num_times, "At how many of them the network is called, a divisor.")
_CACHE_DIR = FLAGS.string("cache_dir", "~/.cache/tf_blurdiff", "Where the real images' features are kept.")
_STRATEGY = FLAGS.shared("strategy")
_REPLICAS = FLAGS.shared("replicas")


def main() -> None:
    """Evaluates, prints the scores and says where the report is."""
    _check_flags()
    config, config_name = load_config(_CONFIG.value, _SET.value), " ".join([_CONFIG.value, *_SET.value])
    if _SPLIT.value == "held_out":
        config_name += ", the held-out images"
        if not config.data.held_out:
            raise UserError(f"--split held_out needs a config with data.held_out above 0. Received: {config_name}")
    config = with_pictures(config)
    # Made before hours of sampling, not after.
    cache_dir = writable_folder(_CACHE_DIR.value, f"--cache_dir {_CACHE_DIR.value}")
    out_dir = writable_folder(_OUT_DIR.value, f"--out_dir {_OUT_DIR.value}")
    devices = open_devices(_STRATEGY.value, _REPLICAS.value, in_step=False)
    learned = build_images(config)
    # Which there are, since data.held_out was looked at.
    images = (learned.held_out or learned) if _SPLIT.value == "held_out" else learned
    reference = Reference(images, _NUM_REFERENCE.value, verbose=True)
    names = _FEATURES.value or default_features(config.image_shape)
    networks = [open_features(name, config.image_shape) for name in names]
    samples = SampleSettings(
        num_images=_NUM_IMAGES.value,
        seed=_SEED.value,
        grid=_GRID.value,
        eta=_ETA.value,
        delta=_DELTA.value,
        guidance_scale=_GUIDANCE_SCALE.value,
        batch_size=_BATCH_SIZE.value,
        precision=_PRECISION.value,
    )
    ways = _SAMPLER.value or (None,), _NUM_STEPS.value or (None,), _METRICS.value
    with devices.strategy.scope():
        candidates = open_candidates(_MODEL.value, reference, samples, *ways)
    draw_samples(candidates, reference, samples, out_dir, devices, verbose=True)
    if not devices.is_chief:
        print("the images of this worker are made; the first worker writes the report when all are")
        return
    bound = BoundSettings(_BITS_IMAGES.value, _BITS_STEPS.value, _BITS_TIMES.value)
    scored, real = score(
        candidates, reference, networks, samples, out_dir, cache_dir, _METRICS.value, bound, verbose=True
    )
    command = ["python", "-m", "tf_blurdiff.evaluate", *sys.argv[1:]]
    about = describe_run(command, config, config_name, real, devices)
    as_json, as_html = write_report(scored, real, reference, about, out_dir)
    print(as_text(json.loads(as_json.read_text())))
    print(f"figures: {as_json}\nreport: {as_html}")


def _check_flags() -> None:
    check_count("--bits_images", _BITS_IMAGES.value, 2)
    check_count("--bits_times", _BITS_TIMES.value)
    if _BITS_STEPS.value < 1 or _BITS_STEPS.value % _BITS_TIMES.value:
        raise UserError(f"--bits_times must divide --bits_steps, {_BITS_STEPS.value}. Received: {_BITS_TIMES.value}")
    for flag in (_MODEL, _FEATURES, _SAMPLER, _NUM_STEPS):
        if len(set(flag.value or ())) < len(flag.value or ()):
            raise UserError(f"--{flag.name} must not be given twice with the same value. Received: {flag.value}")
    kinds = [name.partition(":")[0] for name in _FEATURES.value or ()]
    if len(set(kinds)) < len(kinds):
        raise UserError(f"--features must be of different kinds. Received: {', '.join(_FEATURES.value)}")


if __name__ == "__main__":
    command_line.run(main, FLAGS.values)
