"""What a config may say: defaults, ranges, what goes with what; held against the library."""

import inspect
import itertools
import typing

import pytest

from tests.support.configs import DIGITS, FOLDER, SMALL, problems, with_values
from tf_blurdiff.config import data_sections, process_sections, schema
from tf_blurdiff.config.loading import load_config, parse_config, save_config
from tf_blurdiff.config.messages import ConfigError
from tf_blurdiff.config.schema import Config
from tf_blurdiff.data.sources import open_images
from tf_blurdiff.diffusion import grids, predictions, process, samplers
from tf_blurdiff.errors import UserError

OWN = [process_sections.OwnProcess, data_sections.OwnData, schema.OwnNetwork]
PRESETS, SOURCES = (
    [each for each in typing.get_args(Config.model_fields[name].annotation) if each not in OWN]
    for name in ("process", "data")
)


def test_defaults():
    config = parse_config({"data": FOLDER})
    assert config.data.model_dump() == {
        "source": "image_folder",
        "image_size": 64,
        "channels": 3,
        "flip": True,
        "augment": None,
        "held_out": 0.0,
        "root": "photos",
        "cache_gb": 2.0,
        "max_corrupt": 100,
        "background": "white",
        "labels": None,
    }
    assert config.process == process_sections.Blurring()
    assert config.image_shape == (64, 64, 3) and config.network.multipliers == (1, 2, 2, 2)
    assert (config.train.steps, config.train.learning_rate, config.train.precision) == (800_000, 2e-4, "float32")
    assert config.model.model_dump() == {
        "prediction": None,
        "loss_type": None,
        "loss_exponent": None,
        "label_dropout": 0.0,
    }
    assert config.sample.model_dump() == {"sampler": None, "num_steps": None, "grid": None, "num_images": 64}


def test_a_preset_has_the_defaults_and_the_arguments_of_the_library():
    assert len(PRESETS) == 4
    for preset in PRESETS:
        values = preset().model_dump()
        parameters = inspect.signature(getattr(process, values.pop("preset"))).parameters
        assert values == {name: parameter.default for name, parameter in parameters.items()}


def test_a_source_has_defaults_and_arguments_of_the_library():
    parameters = inspect.signature(open_images).parameters
    assert len(SOURCES) == 3
    assert {key for source in SOURCES for key in source.model_fields} - {"flip", "augment"} == {*parameters} - {"crop"}
    for source in SOURCES:
        specific = source.model_fields.keys() - data_sections.Data.model_fields.keys()
        for key, field in source.model_fields.items():
            if key in specific and not field.is_required():
                assert field.default == parameters[key].default, (source, key)


def test_every_field_has_a_description():
    for section in [Config, *PRESETS, *SOURCES, *OWN, schema.Network, schema.Model, schema.Train, schema.Sample]:
        assert all(field.description for field in section.model_fields.values()), section


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse_config({"data": FOLDER}).train.steps = 3


def test_integers_are_numbers():
    config = parse_config(with_values({"train.clip_norm": 2, "train.learning_rate": 1, "network.dropout": 0}))
    assert (config.train.clip_norm, config.train.learning_rate) == (2.0, 1.0)
    assert parse_config(with_values({"train.clip_norm": None})).train.clip_norm is None


# For each key a value just outside its range.
OUTSIDE = {
    **dict.fromkeys(
        [
            "data.image_size", "network.num_classes", "network.num_res_blocks", "train.steps", "train.batch_size",
            "train.learning_rate", "train.clip_norm", "train.decay_steps", "train.replicas", "train.keep_checkpoints",
            "train.checkpoint_every", "train.sample_every", "train.log_every", "sample.num_steps", "sample.num_images",
        ],
        0,
    ),
    "data.cache_gb": -0.5,
    "data.max_corrupt": -1,
    "data.held_out": -0.5,
    "network.channels": 1,
    "network.dropout": 1,
    "model.label_dropout": 1,
    "train.warmup_steps": -1,
    "train.ema_decay": 1.0,
    "train.seed": 2**31,
}  # fmt: skip
OUTSIDE_OF_PRESET = {
    "gaussian": {"logsnr_min": -101.0, "logsnr_max": 101.0},
    "blurring": {"sigma_blur_max": -1, "min_gain": 1},
    "heat_dissipation": {"sigma_blur_min": 0, "sigma": -1, "num_levels": 1},
    "cold": {"sigma_blur_max": 0, "num_levels": 1},
}


def test_every_range_is_kept():
    cases = [({key: value}, key, value) for key, value in OUTSIDE.items()]
    for preset, values in OUTSIDE_OF_PRESET.items():
        cases += [
            ({"process": {"preset": preset, key: value}}, f"process.{key}", value) for key, value in values.items()
        ]
    for values, key, value in cases:
        (line,) = problems(with_values(values))
        assert line.startswith(f"{key}: got {value}, expected "), line


@pytest.mark.parametrize(
    "values, line",
    [
        (
            {"data.image_size": 36},
            "data.image_size: got 36, expected a multiple of 8, since network.multipliers [1, 2, 2, 2]",
        ),
        ({"data.image_size": [64, 36]}, "data.image_size: got [64, 36], expected a multiple of 8, since network."),
        (
            {"network.attention_resolutions": [16, 7]},
            "network.attention_resolutions: got [16, 7], expected some of [64, 32, 16, 8], the levels' heights with "
            "data.image_size 64 and network.multipliers [1, 2, 2, 2]",
        ),
        ({"model.label_dropout": 0.1}, "model.label_dropout: got 0.1, expected 0, since network.num_classes is null"),
        (
            {"train.strategy": "multi_worker", "train.replicas": 2},
            "train.replicas: got 2, expected null, since train.strategy is multi_worker",
        ),
        (
            {"train.replicas": 3, "train.batch_size": 16},
            "train.batch_size: got 16, expected a multiple of train.replicas, which is 3",
        ),
        (
            {"train.decay_steps": 5000},
            "train.decay_steps: got 5000, expected an integer > train.warmup_steps, which is 5000",
        ),
        ({"data": DIGITS | {"channels": 3}, "network": SMALL}, "data.channels: got 3, expected 1"),
        ({"data": DIGITS | {"cache_gb": 1}}, "data.cache_gb: unknown key (value 1); allowed: source, image_size, "),
        ({"data.split": "test"}, "data.split: unknown key (value 'test'); allowed: source, image_size, "),
        (
            {"process": {"preset": "gaussian", "logsnr_min": 12}},
            "process.logsnr_min must be below logsnr_max, both from -30 to 80. Received: 12.0, 10.0",
        ),
        (
            {"process": {"preset": "gaussian", "noise_schedule": "linear_betas", "logsnr_max": 9}},
            "process.logsnr_min and logsnr_max must be -10.0 and 10.0 with linear_betas, which has limits of its own. "
            "Received: -10.0, 9.0",
        ),
        (
            {"process": {"preset": "heat_dissipation", "sigma_blur_min": 24}},
            "process.sigma_blur_min must be above 0 and below sigma_blur_max. Received: 24.0, 24.0",
        ),
        (
            {"model.prediction": "less_blurred", "sample.sampler": "heat"},
            "model.prediction: prediction 'less_blurred' needs a process with levels (heat_dissipation, cold); with "
            "this process it must be one of eps, v, x0, preconditioned",
        ),
        (
            {"process.preset": "cold", "model.prediction": "preconditioned", "model.loss_exponent": 1.0},
            "model.prediction: prediction 'preconditioned' needs a process with noise; with this process it must be "
            "one of x0, less_blurred",
        ),
        (
            {"model.prediction": "eps", "model.loss_exponent": 0.5},
            "model.loss_exponent: loss_exponent is for the prediction preconditioned; with eps it must be left out. "
            "Received: 0.5",
        ),
        (
            {"model.prediction": "preconditioned", "model.loss_exponent": -0.5},
            "model.loss_exponent: got -0.5, expected",
        ),
        (
            {"process.preset": "cold", "sample.sampler": "ddim"},
            "sample.sampler: sampler 'ddim' needs a process with noise, and the prediction eps, v, x0 or "
            "preconditioned; with this process and prediction 'x0' it must be one of heat, cold, cold_naive",
        ),
        (
            {"process.preset": "heat_dissipation", "sample.num_steps": 50},
            "sample.num_steps: prediction 'less_blurred' goes from level to level: num_steps must be 200 and grid "
            "uniform. Received: 50, uniform",
        ),
        (
            {"process.preset": "heat_dissipation", "sample.grid": "quadratic"},
            "sample.grid: prediction 'less_blurred' goes from level to level: num_steps must be 200 and grid uniform. "
            "Received: 200, quadratic",
        ),
        (
            {"process.preset": "cold", "sample.grid": "logsnr"},
            "sample.grid: grid logsnr needs a process that ends in noise; with this one it must be uniform or ",
        ),
        (
            {"process": {"preset": "heat_dissipation", "sigma": 0}, "model.loss_type": "squared_error"},
            "model.prediction: got null, expected less_blurred or x0, since process.sigma is 0",
        ),
        (
            {"process": {"preset": "heat_dissipation", "sigma": 0}, "model.prediction": "less_blurred"},
            "model.loss_type: got null, expected squared_error or absolute_error, since process.sigma is 0",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(values, line):
    found = problems(with_values(values))
    assert len(found) == 1 and found[0].startswith(line), found


@pytest.mark.parametrize(
    "values, key, proposal",
    [
        ({"data.image_size": 36}, "data.image_size", 32),
        ({"data.image_size": 100}, "data.image_size", 128),  # 96 and 104 have no level of height 16.
        ({"data.image_size": 3}, "data.image_size", 16),
        ({"data.image_size": [50, 60]}, "data.image_size", [64, 56]),
        ({"data.image_size": 37, "network.attention_resolutions": []}, "data.image_size", 40),
        ({"data.image_size": 37, "network.attention_resolutions": [5]}, "data.image_size", 40),
        # Nothing goes with both heights: at least the size can be halved.
        ({"data.image_size": 37, "network.attention_resolutions": [5, 7]}, "data.image_size", 40),
        ({"data.image_size": 96}, "network.attention_resolutions", [12]),
        ({"network.attention_resolutions": [64, 9, 17]}, "network.attention_resolutions", [64, 16, 8]),
        ({"network.attention_resolutions": [1000]}, "network.attention_resolutions", [64]),
    ],
)
def test_a_size_that_does_not_fit_is_told_one_that_does(values, key, proposal):
    (line,) = problems(with_values(values))
    assert line.startswith(f"{key}: got ") and line.endswith(f"; {proposal} would do")
    if values.get("network.attention_resolutions") != [5, 7]:
        parse_config(with_values(values | {key: proposal}))


def test_augment_goes_before_flip():
    def flip_and_crop(values):
        data = parse_config(with_values(values)).data
        assert parse_config({"data": data.model_dump(mode="json")}).data == data
        return data.flip, data.crop

    assert flip_and_crop({}) == (True, False)
    assert flip_and_crop({"data.flip": False}) == (False, False)
    assert flip_and_crop({"data.flip": True, "data.augment": ["crop"]}) == (False, True)
    assert flip_and_crop({"data.flip": False, "data.augment": ["flip", "crop"]}) == (True, True)
    assert flip_and_crop({"data.augment": []}) == (False, False)


def test_a_size_may_be_left_to_the_pictures_of_a_folder_alone():
    config = parse_config({"data": {"source": "image_folder", "root": "photos"}, "network": {"multipliers": [3, 4]}})
    with pytest.raises(UserError, match=r"^data\.image_size: got null, expected a size"):
        _ = config.image_shape
    assert problems({"data": {"source": "tfds", "name": "x"}})[0].startswith("data.image_size: missing, expected")


def test_labels_of_a_folder_may_be_dropped():
    assert parse_config(with_values({"data.labels": "folders", "model.label_dropout": 0.1})).model.label_dropout == 0.1


def test_attention_counts_heights_of_images_that_are_not_square():
    values = {"data.image_size": [32, 48], "network.multipliers": [1, 1], "network.attention_resolutions": [16]}
    assert parse_config(with_values(values)).image_shape == (32, 48, 3)
    assert problems(with_values(values | {"network.attention_resolutions": [24]}))


PROCESSES = [
    {"preset": "gaussian"},
    {"preset": "gaussian", "noise_schedule": "linear_betas"},
    {"preset": "blurring"},
    {"preset": "blurring", "min_gain": 0},
    {"preset": "blurring", "min_gain": 0, "sigma_blur_max": 0},
    {"preset": "heat_dissipation", "num_levels": 9},
    {"preset": "heat_dissipation", "num_levels": 9, "sigma": 0},
    {"preset": "cold", "num_levels": 9},
]


def library_allows(built, prediction, sampler, num_steps, grid):
    """What a model of these would say, its own choices filled in."""
    try:
        predictions.get_prediction(prediction, built)
        sampler = sampler or samplers.default_sampler(built, prediction)
        num_steps = num_steps or samplers.default_num_steps(built, prediction)
        grid = grid or samplers.get_sampler(sampler).grid
        settings = samplers.SamplingSettings(sampler, num_steps, grid)
        samplers.checked_settings(settings, built, prediction)
        grids.GRIDS[grid](num_steps, built)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("values", PROCESSES, ids=lambda values: ",".join(map(str, values.values())))
def test_a_config_allows_what_the_library_allows(values):
    model = {"loss_type": "squared_error"}
    built = parse_config({"data": FOLDER, "process": values, "model": model | {"prediction": "x0"}}).process.build()
    answers = set()
    for choice in itertools.product(
        predictions.PREDICTIONS, [None, *samplers.SAMPLERS], [None, 7, 9], [None, *grids.GRIDS]
    ):
        prediction, sampler, num_steps, grid = choice
        sample = {"sampler": sampler, "num_steps": num_steps, "grid": grid}
        try:
            parse_config(
                {"data": FOLDER, "process": values, "model": model | {"prediction": prediction}, "sample": sample}
            )
            allowed = True
        except ConfigError:
            allowed = False
        assert allowed == library_allows(built, *choice), (values, choice)
        answers.add(allowed)
    assert answers == {True, False}


@pytest.mark.parametrize("text, value", [("on", "on"), ("off", "off"), ("auto", "auto"), ("true", "on")])
def test_yamls_on_and_off_are_words(text, value, tmp_path):
    config = load_config("digits", [f"train.compile={text}"])
    save_config(config, tmp_path / "config.yaml")
    assert config.train.compile == load_config(tmp_path / "config.yaml").train.compile == value
