"""One line for a mistake of every kind: the key, the value and what is allowed."""

import pytest

from tests.support.configs import DIGITS, problems, with_values

KINDS = [
    (
        "unknown key",
        {"train.lr": 0.1},
        "train.lr: unknown key (value 0.1); allowed: steps, batch_size, learning_rate, ",
    ),
    ("unknown section", {"nets": {}}, "nets: unknown key (value {}); allowed: data, process, network, model, train, "),
    ("no text", {1: 2}, "1: unknown key; allowed: data, process"),
    (
        "key of another preset",
        {"process": {"preset": "gaussian", "sigma_blur_max": 3.0}},
        "process.sigma_blur_max: unknown key (value 3.0); allowed: preset, noise_schedule, logsnr_min",
    ),
    (
        "key of another source",
        {"data.name": "cifar10"},
        "data.name: unknown key (value 'cifar10'); allowed: source, image_size, channels, flip, augment, held_",
    ),
    ("text", {"train.steps": "many"}, "train.steps: got 'many', expected a valid integer"),
    ("fraction", {"train.steps": 2.0}, "train.steps: got 2.0, expected a valid integer"),
    ("truth", {"train.steps": True}, "train.steps: got true, expected a valid integer"),
    ("no truth", {"data.flip": 1}, "data.flip: got 1, expected a valid boolean"),
    ("no text or null", {"train.clip_norm": "x"}, "train.clip_norm: got 'x', expected a valid number or null"),
    ("null", {"data.root": None}, "data.root: got null, expected a valid string"),
    ("nothing", {"data.root": ""}, "data.root: got '', expected to have at least 1 character"),
    ("nan", {"train.learning_rate": float("nan")}, "train.learning_rate: got nan, expected a finite number"),
    ("inf", {"train.learning_rate": float("inf")}, "train.learning_rate: got inf, expected a finite number"),
    ("low", {"train.batch_size": 0}, "train.batch_size: got 0, expected greater than or equal to 1"),
    ("low or null", {"train.replicas": 0}, "train.replicas: got 0, expected greater than or equal to 1 or null"),
    ("high", {"train.ema_decay": 1.0}, "train.ema_decay: got 1.0, expected less than 1"),
    ("odd", {"network.channels": 31}, "network.channels: got 31, expected a multiple of 2"),
    ("choice", {"data.channels": 2}, "data.channels: got 2, expected 1 or 3"),
    ("name", {"model.prediction": "score"}, "model.prediction: got 'score', expected one of eps, v, x0, less_blurred"),
    ("no name", {"sample.grid": 3}, "sample.grid: got 3, expected one of uniform, quadratic, logsnr or null"),
    ("list as a name", {"sample.grid": []}, "sample.grid: got [], expected one of uniform, quadratic, logsnr or null"),
    ("short list", {"network.multipliers": []}, "network.multipliers: got [], expected to have at least 1 item"),
    ("no list", {"network.multipliers": 3}, "network.multipliers: got 3, expected a valid list"),
    ("in a list", {"network.multipliers": [1, "a", 0]}, "network.multipliers.1: got 'a', expected a valid integer"),
    ("size", {"data.image_size": [64]}, "data.image_size: got [64], expected an integer >= 1, or [height, width]"),
    ("size of text", {"data.image_size": "64"}, "data.image_size: got '64', expected an integer >= 1, or [height, "),
    ("size of truth", {"data.image_size": [True, 8]}, "data.image_size: got [True, 8], expected an integer >= 1, or ["),
    ("no section", {"train": 3}, "train: got 3, expected a mapping with the keys steps, batch_size"),
    ("no union", {"process": None}, "process: got null, expected a mapping with a preset"),
    ("no tag", {"process": {"min_gain": 0.1}}, "process.preset: missing, expected one of gaussian, blurring, heat_"),
    ("tag", {"process.preset": "warm"}, "process.preset: got 'warm', expected one of gaussian, blurring, heat_dissi"),
    ("null tag", {"process.preset": None}, "process.preset: got null, expected one of gaussian, blurring, heat_diss"),
    ("source", {"data.source": "imagenet"}, "data.source: got 'imagenet', expected one of digits, tfds, image_folder"),
    ("missing", {"data.source": "tfds"}, "data.name: missing, expected the name of a TFDS data set, such as cifar10"),
    ("colour", {"data.background": "whitish"}, "data.background: got 'whitish', expected a colour such as white, "),
    ("colour of no text", {"data.background": 3}, "data.background: got 3, expected a colour such as white, "),
    ("augmentation", {"data.augment": ["flip", "turn"]}, "data.augment.1: got 'turn', expected one of flip, crop or "),
    ("augmentation, no list", {"data.augment": "flip"}, "data.augment: got 'flip', expected a valid list or null"),
    ("classes", {"data.labels": "names"}, "data.labels: got 'names', expected folders, or a list of names"),
    ("a class twice", {"data.labels": ["a", "b", "a"]}, "data.labels: got ['a', 'b', 'a'], expected a list with each"),
    (
        "classes that are numbers",
        {"data.labels": [0, 1]},
        "data.labels: got [0, 1], expected folders, or a list of names of sub-folders, numbers in quotes",
    ),
    ("no classes", {"data.labels": []}, "data.labels: got [], expected folders, or a list of names"),
    ("all held out", {"data.held_out": 1.0}, "data.held_out: got 1.0, expected less than 1"),
    ("labels of another", {"data": DIGITS | {"labels": "folders"}}, "data.labels: unknown key (value 'folders')"),
    ("cut", {"data.flip": "x" * 99}, f"data.flip: got '{'x' * 76}..., expected a valid boolean"),
]


@pytest.mark.parametrize("values, line", [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(values, line):
    found = problems(with_values(values))
    assert len(found) == 1 and found[0].startswith(line), found


def test_a_mapping_that_is_none_or_empty():
    assert problems(3) == [
        "config: got 3, expected a mapping with the keys data, process, network, model, train, sample, imports"
    ]
    assert problems({}) == ["data: missing, expected the images: a mapping with a source"]
    size = "data.image_size: missing, expected height and width in pixels, or [height, width]"
    assert problems({"data": {"source": "digits"}}) == [size]


def keys_of(mapping):
    return [line.split(":")[0] for line in problems(mapping)]


def test_every_mistake_is_reported():
    mapping = with_values({"train.steps": 0, "train.lr": 1, "model.prediction": 3, "process.preset": "warm"})
    assert keys_of(mapping) == ["process.preset", "model.prediction", "train.steps", "train.lr"]


def test_every_combination_is_reported():
    values = {"network.attention_resolutions": [5], "model.label_dropout": 0.1, "process.preset": "heat_dissipation"}
    values |= {"sample.sampler": "ddim", "sample.num_steps": 5, "sample.grid": "logsnr"}
    assert keys_of(with_values(values)) == [
        "network.attention_resolutions",
        "model.label_dropout",
        "sample.sampler",
        "sample.num_steps",
        "sample.grid",
    ]
    values = {"train.replicas": 3, "train.decay_steps": 10, "process": {"preset": "cold", "sigma_blur_min": 2.0}}
    assert keys_of(with_values(values)) == [
        "process.sigma_blur_min must be above 0 and below sigma_blur_max. Received",
        "train.batch_size",
        "train.decay_steps",
    ]
