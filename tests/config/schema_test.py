import inspect
import itertools
import subprocess
import sys
import typing

import pytest

from tf_blurdiff import devices
from tf_blurdiff.config import schema as config_module
from tf_blurdiff.config.checks import loss_type_of, prediction_of
from tf_blurdiff.config.schema import (
    Config,
    ConfigError,
    build_process,
    load_config,
    parse_config,
    save_config,
    shipped_configs,
)
from tf_blurdiff.diffusion import grids, predictions, process, samplers
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import arguments as sampling_arguments
from tf_blurdiff.model import learning as training_step
from tf_blurdiff.networks import precision

FOLDER = {"source": "image_folder", "root": "photos", "image_size": 64}
DIGITS = {"source": "digits", "image_size": 8, "channels": 1}
SMALL = {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]}


def problems(mapping):
    with pytest.raises(ConfigError) as caught:
        parse_config(mapping)
    return str(caught.value).splitlines()


def with_values(values):
    """A valid config with some dotted keys set."""
    mapping = {"data": dict(FOLDER)}
    for key, value in values.items():
        *sections, name = key.split(".") if isinstance(key, str) else [key]
        place = mapping
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return mapping


def test_defaults():
    config = parse_config({"data": FOLDER})
    assert config.process.model_dump() == {
        "preset": "blurring",
        "sigma_blur_max": 20.0,
        "blur_unit": "pixels",
        "blur_schedule": "sin_squared",
        "min_gain": 0.001,
        "logsnr_min": -10.0,
        "logsnr_max": 10.0,
    }
    assert config.image_shape == (64, 64, 3) and config.network.multipliers == (1, 2, 2, 2)
    assert (config.train.steps, config.train.learning_rate, config.train.precision) == (800_000, 2e-4, "float32")
    assert config.model.model_dump() == {"prediction": None, "loss_type": None, "label_dropout": 0.0}
    assert config.sample.model_dump() == {"sampler": None, "num_steps": None, "grid": None, "num_images": 64}


@pytest.mark.parametrize(
    "preset, prediction, loss_type",
    [
        ("gaussian", "eps", "squared_error"),
        ("blurring", "eps", "squared_error"),
        ("heat_dissipation", "less_blurred", "squared_error"),
        ("cold", "x0", "absolute_error"),
    ],
)
def test_what_goes_with_a_preset(preset, prediction, loss_type):
    config = parse_config(with_values({"process.preset": preset}))
    assert (prediction_of(config), loss_type_of(config)) == (prediction, loss_type)
    given = {"process.preset": preset, "model.prediction": "x0", "model.loss_type": "squared_error"}
    config = parse_config(with_values(given))
    assert (prediction_of(config), loss_type_of(config)) == ("x0", "squared_error")


@pytest.mark.parametrize("preset", ["gaussian", "blurring", "heat_dissipation", "cold"])
def test_a_preset_has_the_defaults_and_the_arguments_of_the_library(preset):
    values = parse_config(with_values({"process.preset": preset})).process.model_dump(exclude={"preset"})
    parameters = inspect.signature(getattr(process, preset)).parameters
    assert values == {name: parameter.default for name, parameter in parameters.items()}


def test_the_choices_are_those_of_the_library():
    def choices(section, key):
        found = set()
        for part in [section.model_fields[key].annotation, *typing.get_args(section.model_fields[key].annotation)]:
            found |= set(typing.get_args(part)) if typing.get_origin(part) is typing.Literal else set()
        return found

    assert choices(config_module.Sample, "sampler") == set(samplers.SAMPLERS)
    assert choices(config_module.Sample, "grid") == set(grids.GRIDS)
    assert choices(config_module.Model, "prediction") == set(predictions.PREDICTIONS)
    assert choices(config_module.Model, "loss_type") == set(training_step.LOSSES)
    assert choices(config_module.Train, "strategy") == set(devices.STRATEGIES)
    assert choices(config_module.Train, "precision") == set(precision.PRECISIONS)
    assert choices(config_module.Gaussian, "noise_schedule") == set(process.NOISE_SCHEDULES)
    assert choices(config_module.Blurring, "blur_schedule") == set(process.BLUR_SCHEDULES)
    for section in (config_module.Blurring, config_module.HeatDissipation, config_module.Cold):
        assert choices(section, "blur_unit") == set(process.BLUR_UNITS)


WRONG = [
    ({"train.lr": 0.1}, "train.lr: unknown key (value 0.1); allowed: steps, batch_size, learning_rate, "),
    ({"nets": {}}, "nets: unknown key (value {}); allowed: data, process, network, model, train, sample"),
    ({1: 2}, "1: unknown key (value 2); allowed: data, process"),
    ({"train.steps": "many"}, "train.steps: got 'many', expected an integer >= 1"),
    ({"train.steps": 2.0}, "train.steps: got 2.0, expected an integer >= 1"),
    ({"train.steps": True}, "train.steps: got true, expected an integer >= 1"),
    ({"train.batch_size": 0}, "train.batch_size: got 0, expected an integer >= 1"),
    ({"train.learning_rate": 0}, "train.learning_rate: got 0, expected a number > 0"),
    ({"train.learning_rate": float("nan")}, "train.learning_rate: got nan, expected a number > 0"),
    ({"train.learning_rate": float("inf")}, "train.learning_rate: got inf, expected a number > 0"),
    ({"train.warmup_steps": -1}, "train.warmup_steps: got -1, expected an integer >= 0"),
    ({"train.clip_norm": "x"}, "train.clip_norm: got 'x', expected a number > 0 or null"),
    ({"train.ema_decay": 1.0}, "train.ema_decay: got 1.0, expected a number >= 0 and < 1"),
    ({"train.seed": 2**31}, "train.seed: got 2147483648, expected an integer >= 0 and < 2147483648"),
    (
        {"train.precision": "float16"},
        "train.precision: got 'float16', expected one of float32, mixed_bfloat16, mixed_float16",
    ),
    ({"train.strategy": "tpu"}, "train.strategy: got 'tpu', expected one of auto, one_device, mirrored, multi_worker"),
    ({"train.replicas": 0}, "train.replicas: got 0, expected an integer >= 1 or null"),
    (
        {"train.strategy": "multi_worker", "train.replicas": 2},
        "train.replicas: got 2, expected null, since train.strategy is multi_worker",
    ),
    ({"train.replicas": 3, "train.batch_size": 16}, "train.batch_size: got 16, expected a multiple of train.replicas"),
    ({"train.keep_checkpoints": 0}, "train.keep_checkpoints: got 0, expected an integer >= 1"),
    ({"train.log_every": 0}, "train.log_every: got 0, expected an integer >= 1"),
    ({"train.checkpoint_every": 0}, "train.checkpoint_every: got 0, expected an integer >= 1"),
    ({"train.sample_every": 0}, "train.sample_every: got 0, expected an integer >= 1"),
    ({"train": 3}, "train: got 3, expected a mapping with the keys steps, batch_size"),
    ({"data.source": "imagenet"}, "data.source: got 'imagenet', expected one of digits, tfds, image_folder"),
    ({"data.image_size": [64]}, "data.image_size: got [64], expected an integer >= 1 or a list of 2 integers >= 1"),
    ({"data.image_size": "64"}, "data.image_size: got '64', expected an integer >= 1 or a list of 2 integers >= 1"),
    (
        {"data.image_size": 36},
        "data.image_size: got 36, expected a multiple of 8, since network.multipliers [1, 2, 2, 2]",
    ),
    (
        {"data.image_size": [64, 36]},
        "data.image_size: got [64, 36], expected a multiple of 8, since network.multipliers",
    ),
    ({"data.channels": 2}, "data.channels: got 2, expected one of 1, 3"),
    ({"data.flip": 1}, "data.flip: got 1, expected true or false"),
    ({"data.num_classes": 10}, "data.num_classes: unknown key (value 10); allowed: source, name, split"),
    ({"data.root": None}, "data.root: got null, expected a folder, since data.source is image_folder"),
    ({"data.name": "cifar10"}, "data.name: got 'cifar10', expected null, since data.source is image_folder"),
    ({"data.split": "test"}, "data.split: got 'test', expected train, since data.source is image_folder"),
    ({"data.source": "tfds"}, "data.name: got null, expected the name of a TFDS data set"),
    ({"data.cache_gb": -0.5}, "data.cache_gb: got -0.5, expected a number >= 0"),
    ({"data.max_corrupt": -1}, "data.max_corrupt: got -1, expected an integer >= 0"),
    ({"data.max_corrupt": 0.5}, "data.max_corrupt: got 0.5, expected an integer >= 0"),
    (
        {"data.source": "tfds", "data.name": "cifar10", "data.max_corrupt": 0},
        "data.max_corrupt: got 0, expected 100, since data.source is tfds",
    ),
    (
        {"data": DIGITS | {"cache_gb": 1}, "network": SMALL},
        "data.cache_gb: got 1.0, expected 2.0, since data.source is digits",
    ),
    (
        {"data": DIGITS | {"channels": 3}, "network": SMALL},
        "data.channels: got 3, expected 1, since data.source is digits",
    ),
    (
        {"data": DIGITS | {"root": "x"}, "network": SMALL},
        "data.root: got 'x', expected null, since data.source is digits",
    ),
    ({"data": DIGITS, "network": SMALL | {"num_classes": 5}}, "network.num_classes: got 5, expected 10 or null, since"),
    ({"network.num_classes": 10}, "network.num_classes: got 10, expected null, since an image_folder has no labels"),
    ({"network.num_classes": 0}, "network.num_classes: got 0, expected an integer >= 1 or null"),
    ({"network.channels": 31}, "network.channels: got 31, expected an integer >= 2 and a multiple of 2"),
    ({"network.multipliers": [1, "a"]}, "network.multipliers: got [1, 'a'], expected a list of integers >= 1"),
    ({"network.multipliers": []}, "network.multipliers: got [], expected a list of integers >= 1"),
    ({"network.dropout": 1}, "network.dropout: got 1, expected a number >= 0 and < 1"),
    (
        {"network.attention_resolutions": [16, 7]},
        "network.attention_resolutions: got [16, 7], expected some of [64, 32, 16, 8], the levels' heights with "
        "data.image_size 64 and network.multipliers [1, 2, 2, 2]",
    ),
    ({"process": {"min_gain": 0.1}}, "process.preset: missing, expected one of blurring, cold, gaussian, heat_"),
    ({"process": None}, "process: got null, expected a mapping with a preset"),
    ({"process.preset": "warm"}, "process.preset: got 'warm', expected one of blurring, cold, gaussian, heat_"),
    ({"process.preset": None}, "process.preset: got null, expected one of blurring, cold, gaussian, heat_dissipation"),
    (
        {"process": {"preset": "gaussian", "sigma_blur_max": 3.0}},
        "process.sigma_blur_max: unknown key (value 3.0); allowed: preset, noise_schedule, logsnr_min",
    ),
    ({"process": {"preset": "blurring", "min_gain": 1}}, "process.min_gain: got 1, expected a number >= 0 and < 1"),
    (
        {"process": {"preset": "gaussian", "logsnr_min": 12}},
        "process.logsnr_min: got 12.0, expected a number < process.logsnr_max, which is 10.0",
    ),
    (
        {"process": {"preset": "gaussian", "noise_schedule": "linear_betas", "logsnr_max": 9}},
        "process.logsnr_max: got 9.0, expected 10.0: linear_betas have their own limits",
    ),
    (
        {"process": {"preset": "gaussian", "noise_schedule": "linear"}},
        "process.noise_schedule: got 'linear', expected one of cosine, linear_betas",
    ),
    (
        {"process": {"preset": "blurring", "blur_schedule": "cos"}},
        "process.blur_schedule: got 'cos', expected one of sin_squared, sin",
    ),
    (
        {"process": {"preset": "blurring", "blur_unit": "height"}},
        "process.blur_unit: got 'height', expected one of pixels, width",
    ),
    (
        {"process": {"preset": "heat_dissipation", "sigma_blur_min": 24}},
        "process.sigma_blur_min: got 24.0, expected a number < process.sigma_blur_max, which is 24.0",
    ),
    (
        {"process": {"preset": "heat_dissipation", "sigma": -1}},
        "process.sigma: got -1, expected a number >= 0",
    ),
    (
        {"process": {"preset": "heat_dissipation", "num_levels": 1}},
        "process.num_levels: got 1, expected an integer >= 2",
    ),
    (
        {"process": {"preset": "cold", "sigma": 0.1}},
        "process.sigma: unknown key (value 0.1); allowed: preset, sigma_blur_min, sigma_blur_max, blur_unit, num_",
    ),
    ({"model.prediction": "score"}, "model.prediction: got 'score', expected one of eps, v, x0, less_blurred or null"),
    ({"model.loss_type": "l1"}, "model.loss_type: got 'l1', expected one of squared_error, absolute_error or null"),
    (
        {"model.prediction": "less_blurred", "sample.sampler": "heat"},
        "model.prediction: got 'less_blurred', expected one of eps, v, x0, since process.preset is blurring",
    ),
    (
        {"model.prediction": "eps", "process.preset": "cold"},
        "model.prediction: got 'eps', expected one of x0, less_blurred, since process.preset is cold",
    ),
    (
        {"process": {"preset": "blurring", "min_gain": 0}},
        "model.prediction: got null, expected x0, since process.min_gain is 0.0 and process.sigma_blur_max 20.0",
    ),
    ({"model.label_dropout": 1}, "model.label_dropout: got 1, expected a number >= 0 and < 1"),
    ({"model.label_dropout": 0.1}, "model.label_dropout: got 0.1, expected 0, since network.num_classes is null"),
    (
        {"train.decay_steps": 5000},
        "train.decay_steps: got 5000, expected an integer > train.warmup_steps, which is 5000",
    ),
    (
        {"process.preset": "cold", "sample.sampler": "ddim"},
        "sample.sampler: got 'ddim', expected one of heat, cold, cold_naive or null, since process.preset is cold and "
        "model.prediction x0",
    ),
    (
        {"process.preset": "heat_dissipation", "sample.sampler": "cold"},
        "sample.sampler: got 'cold', expected heat or null, since process.preset is heat_dissipation and "
        "model.prediction less_blurred",
    ),
    (
        {"process.preset": "heat_dissipation", "sample.num_steps": 50},
        "sample.num_steps: got 50, expected 200 or null, since less_blurred goes through all of process.num_levels",
    ),
    (
        {"process.preset": "heat_dissipation", "sample.grid": "quadratic"},
        "sample.grid: got 'quadratic', expected uniform or null, since less_blurred goes from level to level",
    ),
    (
        {"process.preset": "cold", "sample.grid": "logsnr"},
        "sample.grid: got 'logsnr', expected one of uniform, quadratic or null, since process.preset is cold",
    ),
    ({"sample.grid": "cosine"}, "sample.grid: got 'cosine', expected one of uniform, quadratic, logsnr or null"),
    ({"sample.sampler": "euler"}, "sample.sampler: got 'euler', expected one of ancestral, ancestral2, ddim"),
    ({"sample.num_steps": 0}, "sample.num_steps: got 0, expected an integer >= 1"),
    ({"sample.num_images": 0}, "sample.num_images: got 0, expected an integer >= 1"),
]


@pytest.mark.parametrize("values, line", WRONG, ids=[line[:40] for _, line in WRONG])
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(values, line):
    found = problems(with_values(values))
    assert len(found) == 1 and found[0].startswith(line), found


def test_every_mistake_is_reported():
    mapping = with_values({"train.steps": 0, "train.lr": 1, "model.prediction": 3})
    assert [line.split(":")[0] for line in problems(mapping)] == ["model.prediction", "train.steps", "train.lr"]
    values = {"data.name": "x", "data.root": None, "network.attention_resolutions": [5], "model.label_dropout": 0.1}
    values |= {"process.preset": "heat_dissipation", "sample.sampler": "ddim", "sample.num_steps": 5}
    assert [line.split(":")[0] for line in problems(with_values(values | {"sample.grid": "logsnr"}))] == [
        "data.name",
        "data.root",
        "network.attention_resolutions",
        "sample.sampler",
        "sample.num_steps",
        "sample.grid",
        "model.label_dropout",
    ]


def test_what_is_missing_is_named():
    assert problems({}) == [
        f"data: missing, expected a mapping with the keys {', '.join(config_module.Data.model_fields)}"
    ]
    assert problems({"data": {"source": "digits"}})[0].startswith(
        "data.image_size: missing, expected an integer >= 1 or"
    )
    assert problems(3)[0].startswith("config: got 3, expected a mapping with the keys data, process")


def test_integers_are_numbers():
    config = parse_config(with_values({"train.clip_norm": 2, "train.learning_rate": 1, "network.dropout": 0}))
    assert (config.train.clip_norm, config.train.learning_rate) == (2.0, 1.0)
    assert parse_config(with_values({"train.clip_norm": None})).train.clip_norm is None


def test_attention_counts_heights_of_images_that_are_not_square():
    values = {"data.image_size": [32, 48], "network.multipliers": [1, 1], "network.attention_resolutions": [16]}
    assert parse_config(with_values(values)).image_shape == (32, 48, 3)
    assert problems(with_values(values | {"network.attention_resolutions": [24]}))


def test_every_field_has_a_description():
    sections = [Config, *(field.annotation for name, field in Config.model_fields.items() if name != "process")]
    presets = typing.get_args(Config.model_fields["process"].annotation)
    assert len(presets) == 4
    for section in [*sections, *presets]:
        assert all(field.description for field in section.model_fields.values()), section


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse_config({"data": FOLDER}).train.steps = 3


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


def library_allows(config_process, prediction, sampler, num_steps, grid):
    """What a model of these would say, its own choices filled in."""
    try:
        predictions.get_prediction(prediction, config_process)
        sampler = sampler or sampling_arguments.default_sampler(config_process, prediction)
        num_steps = num_steps or sampling_arguments.default_num_steps(config_process, prediction)
        grid = grid or samplers.get_sampler(sampler).grid
        sampling_arguments.check_sampling(config_process, prediction, sampler, num_steps, grid)
        grids.GRIDS[grid](num_steps, config_process)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("values", PROCESSES, ids=lambda values: ",".join(map(str, values.values())))
def test_the_checks_allow_what_the_library_allows(values):
    built = build_process(parse_config({"data": FOLDER, "process": values, "model": {"prediction": "x0"}}))
    answers = set()
    for choice in itertools.product(
        predictions.PREDICTIONS, [None, *samplers.SAMPLERS], [None, 7, 9], [None, *grids.GRIDS]
    ):
        prediction, sampler, num_steps, grid = choice
        sample = {"sampler": sampler, "num_steps": num_steps, "grid": grid}
        try:
            Config.model_validate(
                {"data": FOLDER, "process": values, "model": {"prediction": prediction}, "sample": sample}
            )
            allowed = True
        except ValueError:
            allowed = False
        assert allowed == library_allows(built, *choice), (values, choice)
        answers.add(allowed)
    assert answers == {True, False}


SHIPPED = [name.removesuffix(".yaml") for name in shipped_configs()]


def test_every_data_set_comes_with_every_process():
    for data in ("digits", "fashion_mnist", "cifar10", "lsun"):
        for preset in ("blurring", "gaussian", "heat_dissipation", "cold"):
            config = load_config(data if preset == "blurring" else f"{data}_{preset}")
            assert config.process.preset == preset and config.data == load_config(data).data


@pytest.mark.parametrize("preset", ["gaussian", "heat_dissipation", "cold"])
@pytest.mark.parametrize("data", ["digits", "fashion_mnist"])
def test_small_data_compare_the_processes_fairly(data, preset):
    config, blurring = load_config(f"{data}_{preset}"), load_config(data)
    assert (config.network, config.train) == (blurring.network, blurring.train)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_of_use(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert config == load_config(f"{name}.yaml") == load_config(shipped_configs()[f"{name}.yaml"])
    sample = (config.sample.sampler, config.sample.num_steps, config.sample.grid)
    assert library_allows(build_process(config), prediction_of(config), *sample)
    head = " ".join(shipped_configs()[f"{name}.yaml"].read_text().replace("#", "").split())
    assert f"train --config {name}.yaml --run_dir runs/" in head
    was_run = name.startswith(("digits", "miniature")) or name == "fashion_mnist_small"
    assert was_run or "config was never run" in head


def test_configs_inside_the_package_come_first(tmp_path, monkeypatch):
    (tmp_path / "package" / "configs").mkdir(parents=True)
    (tmp_path / "package" / "configs" / "installed.yaml").write_text("data: {source: tfds, name: x, image_size: 32}")
    monkeypatch.setattr(config_module, "__file__", str(tmp_path / "package" / "config" / "schema.py"))
    assert list(shipped_configs()) == ["installed.yaml"]
    assert load_config("installed").data.name == "x"


def test_a_file_that_exists_comes_first(tmp_path, monkeypatch):
    (tmp_path / "digits.yaml").write_text(
        "data: {source: tfds, name: mine, image_size: 32}\ntrain: {learning_rate: 1e-3}"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config("digits.yaml")
    assert config.data.name == "mine" and config.train.learning_rate == 1e-3


def test_overrides():
    overrides = ["train.steps=200", "train.learning_rate=1e-4", "network.multipliers=[1,1]", "data.flip=true"]
    config = load_config("digits", [*overrides, "train.clip_norm=null", "train.steps=300"])
    assert (config.train.steps, config.train.learning_rate, config.train.clip_norm) == (300, 1e-4, None)
    assert config.network.multipliers == (1, 1) and config.data.flip is True


@pytest.mark.parametrize("overrides", itertools.permutations(["process.preset=gaussian", "process.logsnr_min=-12"]))
def test_another_preset_starts_from_its_defaults(overrides):
    assert load_config("cifar10", overrides).process == config_module.Gaussian(logsnr_min=-12.0)


def test_the_same_preset_keeps_what_the_file_says():
    config = load_config("cifar10", ["process.sigma_blur_max=7", "process.preset=blurring"])
    assert config.process.sigma_blur_max == 7.0 and config.sample.sampler == "ancestral2"


@pytest.mark.parametrize("preset", ["gaussian", "blurring", "heat_dissipation", "cold"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_config_goes_with_every_preset(name, preset):
    config = load_config(name, [f"process.preset={preset}"])
    if preset != load_config(name).process.preset:
        assert config.process == type(config.process)()
        assert config.sample == config_module.Sample(num_images=config.sample.num_images)


FULL = """
data: {source: digits, image_size: 8, channels: 1}
network: {channels: 8, multipliers: [1, 2], num_res_blocks: 1, attention_resolutions: [4], num_classes: 10}
model: {prediction: v, loss_type: absolute_error, label_dropout: 0.2}
sample: {sampler: multistep2, num_steps: 20, grid: logsnr, num_images: 4}
"""


def test_another_preset_leaves_out_what_belonged_to_the_first(tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    config = load_config(path, ["process.preset=heat_dissipation"])
    assert config.model == config_module.Model(label_dropout=0.2)
    assert config.sample == config_module.Sample(num_images=4)
    # The file has no process: it is the default one, blurring.
    assert load_config(path, ["process.preset=blurring"]) == load_config(path)


@pytest.mark.parametrize("preset", ["process.preset=cold", "process={preset: cold}"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_other_overrides_stand_before_and_after_another_preset(preset, place, tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    overrides = ["sample.num_steps=7", "model.loss_type=squared_error"]
    config = load_config(path, [*overrides[:place], preset, *overrides[place:]])
    assert config.process == config_module.Cold()
    assert (config.sample.num_steps, config.sample.sampler, config.model.loss_type) == (7, None, "squared_error")
    with pytest.raises(ConfigError, match=r"^sample\.sampler: got 'ddim', expected one of heat, cold"):
        load_config(path, ["sample.sampler=ddim", preset])


def test_another_preset_does_not_hide_other_mistakes(tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text("data: {source: digits, image_size: 8, channels: 1}\nsample: 3\nmodel: {predict: v}")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["process.preset=cold"])
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["model.predict", "sample"]


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.steps", "'train.steps': not an override; expected section.key=value"),
        ("=3", "'=3': not an override; expected section.key=value"),
        ("train..steps=3", "'train..steps=3': not an override; expected section.key=value"),
        ("train.steps=", "train.steps: got null, expected an integer >= 1"),
        ("train.steps=1e-4", "train.steps: got 0.0001, expected an integer >= 1"),
        ("train.lr=2e-4", "train.lr: unknown key (value 0.0002); allowed: steps"),
        ("train=3", "train: got 3, expected a mapping with the keys"),
        ("process=3", "process: got 3, expected a mapping with a preset"),
        ("process=${x}", "'process=${x}': cannot be applied: "),
        ("process.preset=warm", "process.preset: got 'warm', expected one of blurring, cold"),
        ("data.root=[1", "'data.root=[1': cannot be applied: "),
        ("network.multipliers.0=3", "'network.multipliers.0=3': cannot be applied: "),
        ("data.root=${", "'data.root=${': cannot be applied: "),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config("digits", [override])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"data: [1\ntrain: 3", "broken.yaml: not a readable YAML file: "),
        (b"data: 1\ndata: 2", "broken.yaml: not a readable YAML file: "),
        (b"\xff\xfe\x00", "broken.yaml: not a readable YAML file: "),
        (b"", "broken.yaml: expected a mapping with the sections data, process"),
        (b"# nothing\n", "broken.yaml: expected a mapping with the sections data, process"),
        (b"- 1\n- 2", "broken.yaml: expected a mapping with the sections data, process"),
        (b"hello", "data: missing, expected a mapping\nhello: unknown key (value null); allowed: data"),
        (b"3", "broken.yaml: not a readable YAML file: "),
        (
            b"data: {source: digits, image_size: '${train.steps}'}",
            "broken.yaml: Interpolation key 'train.steps' not found",
        ),
        (
            b"data: {source: digits, image_size: '???'}",
            "broken.yaml: Missing mandatory value: image_size full_key: data.image_size",
        ),
    ],
)
def test_broken_files(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config("broken.yaml")
    found, expected = str(caught.value).splitlines(), message.splitlines()
    assert len(found) == len(expected) and all(line.startswith(start) for line, start in zip(found, expected)), found


def test_a_config_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"lsum.yaml: no such file; expected a path or one of cifar10\.yaml, "):
        load_config("lsum.yaml")
    with pytest.raises(ConfigError, match="is a folder, expected a YAML file"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "digits_labels", "digits_heat_dissipation", "lsun_cold"])
def test_a_saved_config_is_the_same_config(name, tmp_path):
    config = load_config(name, ["train.learning_rate=1e-5", "data.cache_dir='1e-3'", "train.clip_norm=null"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert "num_images" in (tmp_path / "config.yaml").read_text()


def test_configs_are_read_without_tensorflow():
    program = (
        "import sys, types; package = types.ModuleType('tf_blurdiff'); sys.modules['tf_blurdiff'] = package;"
        f"package.__path__ = [{str(config_module.Path(config_module.__file__).parents[1])!r}];"
        "from tf_blurdiff.config.schema import load_config; load_config('digits');"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_build_process():
    built = build_process(
        parse_config(with_values({"process.preset": "blurring", "process.min_gain": 0, "model.prediction": "x0"}))
    )
    assert built.min_gain == 0.0 and built.dissipation.sigma_blur_max == 20.0
    built = build_process(parse_config(with_values({"process.preset": "gaussian"})))
    alpha, _ = built.alpha_sigma([0.5], 4, 4)
    assert float(alpha[0, 0, 0, 0]) == float(alpha[0, 3, 3, 0])


def test_build_model():
    mapping = {
        "data": DIGITS | {"image_size": [8, 12]},
        "process": {"preset": "blurring", "sigma_blur_max": 4.0},
        "network": SMALL | {"num_classes": 10},
        "model": {"prediction": "v", "loss_type": "absolute_error", "label_dropout": 0.25},
        "train": {"ema_decay": 0.5, "clip_norm": None, "seed": 3, "precision": "mixed_bfloat16"},
        "sample": {"sampler": "multistep3", "num_steps": 7, "grid": "logsnr"},
    }
    model = config_module.build_model(parse_config(mapping))
    assert model.image_shape == (8, 12, 1) and model.network.num_classes == 10
    assert model.network.multipliers == (1, 2) and model.network.dtype_policy.name == "mixed_bfloat16"
    assert (model.prediction, model.ema_decay, model.clip_norm, model.seed) == ("v", 0.5, None, 3)
    assert (model.loss_type, model.label_dropout) == ("absolute_error", 0.25)
    assert (model.sampler, model.num_steps, model.grid) == ("multistep3", 7, "logsnr")


@pytest.mark.filterwarnings("ignore:the blur's standard deviation reaches")
@pytest.mark.parametrize(
    "preset, prediction, loss_type, sampler, num_steps",
    [
        ("gaussian", "eps", "squared_error", "ancestral2", 20),
        ("heat_dissipation", "less_blurred", "squared_error", "heat", 200),
        ("cold", "x0", "absolute_error", "cold", 50),
    ],
)
def test_a_preset_alone_makes_a_model(preset, prediction, loss_type, sampler, num_steps):
    small = [f"network.{key}={value}" for key, value in SMALL.items()]
    model = config_module.build_model(load_config("digits", [f"process.preset={preset}", *small]))
    assert (model.prediction, model.loss_type) == (prediction, loss_type)
    assert (model.sampler, model.num_steps, model.process.num_levels) == (
        sampler,
        num_steps,
        {"heat_dissipation": 200, "cold": 300}.get(preset),
    )


def test_what_only_the_network_knows_is_a_config_error():
    # 194 channels make three heads of attention, which do not divide them.
    mapping = {"data": DIGITS, "network": SMALL | {"channels": 194, "multipliers": [1, 1]}}
    with pytest.raises(ConfigError, match="network: 194 channels cannot be split"):
        config_module.build_network(parse_config(mapping))


def test_build_images(monkeypatch):
    images = config_module.build_images(parse_config({"data": DIGITS, "network": SMALL | {"num_classes": 10}}))
    assert (images.num_images, images.image_shape, images.num_classes) == (1797, (8, 8, 1), 10)
    monkeypatch.setattr("tf_blurdiff.data.sources.open_images", lambda **_: images)
    mapping = {"data": {"source": "tfds", "name": "x", "image_size": 64}, "network": {"num_classes": 7}}
    with pytest.raises(ConfigError, match=r"network\.num_classes: got 7, expected 10 or null for this data set"):
        config_module.build_images(parse_config(mapping))
