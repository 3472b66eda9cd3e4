"""Trains one step with each of many randomly changed configs: each trains, or is refused with a message.

    python -m tests.config.mutated_configs --seed 0 --count 1000

Ends with status 1 if anything else happened, and prints the config of each such case. It works in one process, by the
command line's own way through `load_config` and `train`, so that a thousand take minutes and not hours.
"""

import argparse
import collections
import gc
import pathlib
import random
import sys
import tempfile
import traceback

import keras
import numpy as np
import yaml
from PIL import Image

from tests.support import commands
from tf_blurdiff.config.loading import load_config
from tf_blurdiff.errors import UserError
from tf_blurdiff.training.loop import train

PRESETS = ("gaussian", "blurring", "heat_dissipation", "cold")
# Values that a key may get, beside those of ANY: some right, some wrong, none that would take long.
OF_KEY = {
    "data.source": ["digits", "image_folder", "tfds", "folder"],
    "data.name": ["cifar10", "nowhere", ""],
    "data.split": ["train", "test", "train[:10%]"],
    "data.root": ["PICTURES", "nowhere", "/dev/null"],
    "data.cache_dir": ["/dev/null/x"],
    "data.image_size": [4, 8, 12, 9, 1, [8, 12], [8], [8, 8, 8]],
    "data.channels": [1, 3, 2, 4],
    "data.flip": [True, False],
    "data.cache_gb": [0, 0.5, -1.0],
    "data.max_corrupt": [0, 1, -1],
    "process.preset": [*PRESETS, "ddpm"],
    "process.sigma_blur_max": [0.0, 0.3, 2, 400.0, -2],
    "process.sigma_blur_min": [0.01, 0.5, 50.0, 0],
    "process.blur_unit": ["pixels", "width", "metres"],
    "process.blur_schedule": ["sin", "sin_squared", "cos"],
    "process.noise_schedule": ["cosine", "linear_betas", "linear"],
    "process.min_gain": [0, 0.001, 0.5, 1.0],
    "process.logsnr_min": [-20.0, -1.0, 10.0, 80.0],
    "process.logsnr_max": [5.0, 20.0, -10.0, 300.0],
    "process.sigma": [0, 0.02, 1.0, -0.1],
    "process.num_levels": [2, 3, 7, 1],
    "network.channels": [2, 4, 6, 8, 7, 0],
    "network.multipliers": [[1], [1, 2], [2, 1, 1], [], [0], [1, 1, 1, 1, 1]],
    "network.num_res_blocks": [1, 2, 0],
    "network.attention_resolutions": [[], [8], [4], [8, 4], [3], [0]],
    "network.dropout": [0, 0.5, 1.0, -0.5],
    "network.num_classes": [10, 3, 1, 0],
    "model.prediction": ["eps", "v", "x0", "less_blurred", "preconditioned", "noise"],
    "model.loss_type": ["squared_error", "absolute_error", "l2"],
    "model.loss_exponent": [0, 0.25, 1.0, -1.0],
    "model.label_dropout": [0.1, 0.99, 1.0, -0.1],
    "train.batch_size": [1, 2, 16, 1797, 5000, 0],
    "train.learning_rate": [1e-9, 1.0, 1e6, 0, -1.0],
    "train.warmup_steps": [0, 1, 10**9, -1],
    "train.decay_steps": [1, 2, 10**9, 0],
    "train.clip_norm": [1e-9, 1e9, 0],
    "train.ema_decay": [0.0, 0.9999, 1.0],
    "train.seed": [0, 2**31 - 1, 2**31, -1],
    "train.compile": ["auto", "on", "off", "yes"],
    "train.precision": ["auto", "float32", "mixed_bfloat16", "mixed_float16", "float64"],
    "train.strategy": ["auto", "one_device", "multi_worker", "tpu"],
    "train.replicas": [0, 3, -1],
    "train.keep_checkpoints": [1, 3, 0],
    "train.checkpoint_every": [1, 5, 0],
    "train.sample_every": [1, 5, 0],
    "train.log_every": [1, 5, 0],
    "sample.sampler": [
        "ancestral", "ancestral2", "ddim", "multistep2", "multistep3", "heat", "cold", "cold_naive", "euler",
    ],
    "sample.num_steps": [1, 2, 5, 0],
    "sample.grid": ["uniform", "quadratic", "logsnr", "cosine"],
    "sample.num_images": [1, 2, 5, 0],
}  # fmt: skip
ANY = [None, "", "x", -1, 0, 1.5, True, [], {}, [[1]], {"a": 1}, "1", "${train.seed}", "${nowhere}", "???", "é\n"]


def mutated(rng, pictures):
    """The text of a config file."""
    config = load_config("digits", [*commands.TINY, "sample.num_steps=null", "sample.sampler=null"])
    mapping = config.model_dump(mode="json")
    if rng.random() < 0.6:
        _take_other_preset(mapping, rng.choice(PRESETS))
    if rng.random() < 0.3:
        mapping["data"] |= {"source": "image_folder", "root": pictures, "channels": rng.choice([1, 3])}
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3])):
        _change_a_key(mapping, rng, pictures)
    text = yaml.safe_dump(mapping)
    for _ in range(rng.choice([0, 0, 0, 0, 0, 0, 1, 2])):
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(["", ":", "\t", "[", "'", "x", "\n", " "]) + text[place + 1 :]
    return text


def _take_other_preset(mapping, preset):
    mapping["process"] = {"preset": preset}
    if preset in ("heat_dissipation", "cold"):
        mapping["process"] |= {"num_levels": 4, "sigma_blur_max": 4.0 if preset == "heat_dissipation" else 0.5}


def _change_a_key(mapping, rng, pictures):
    key = rng.choice(list(OF_KEY))
    section, name = key.split(".")
    values = OF_KEY[key] if rng.random() < 0.75 else ANY
    value = rng.choice(values)
    if not isinstance(mapping.get(section), dict) or rng.random() < 0.03:
        mapping[section] = value
    elif rng.random() < 0.05:
        mapping[section].pop(name, None)
    elif rng.random() < 0.05:
        mapping[section][name + "s"] = value
    else:
        mapping[section][name] = pictures if value == "PICTURES" else value


def outcome(text, folder):
    """ "trained", or what was said against the config."""
    path = folder / "config.yaml"
    path.write_text(text)
    try:
        train(load_config(path, ["train.steps=1"]), folder / "run", verbose=False)
    except UserError as error:
        assert str(error).strip(), "a message without words"
        return str(error)
    return "trained"


def check(seed, count, first=0):
    """How many of each outcome there were, and the texts of the configs that had another.

    The configs before number `first` are made, so that the others are the same, and not tried.
    """
    rng, counts, failures = random.Random(seed), collections.Counter(), []
    with tempfile.TemporaryDirectory() as top:
        pictures = pathlib.Path(top, "pictures")
        pictures.mkdir()
        for number in range(20):
            pixels = np.random.default_rng(number).integers(0, 256, (10, 14, 3), np.uint8)
            Image.fromarray(pixels).save(pictures / f"{number}.png")
        for number in range(count):
            text = mutated(rng, str(pictures))
            if number < first:
                continue
            folder = pathlib.Path(top, str(number))
            folder.mkdir()
            try:
                result = outcome(text, folder)
            except Exception:
                failures.append(f"number {number}:\n{text}\n{traceback.format_exc()}")
                result = "failed"
            # Else the graphs of hundreds of models pile up.
            keras.utils.clear_session()
            gc.collect()
            counts["trained" if result == "trained" else "failed" if result == "failed" else "refused"] += 1
            if number % 50 == 49:
                print(number + 1, dict(counts), file=sys.stderr, flush=True)
    return counts, failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    counts, failures = check(arguments.seed, arguments.count, arguments.first)
    print(*failures, sep="\n\n")
    print(dict(counts))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
