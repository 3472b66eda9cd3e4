import subprocess
import sys

import pytest

from tf_blurdiff import config as config_module
from tf_blurdiff.config import Config, ConfigError, load_config, parse_config, save_config, shipped_configs

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
        "min_gain": 0.001,
        "logsnr_min": -10.0,
        "logsnr_max": 10.0,
    }
    assert config.image_shape == (64, 64, 3) and config.network.multipliers == (1, 2, 2, 2)
    assert (config.train.steps, config.train.learning_rate, config.sample.num_steps) == (800_000, 2e-4, 50)


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
        {"train.precision": "mixed_float16"},
        "train.precision: got 'mixed_float16', expected one of float32, mixed_bfloat16",
    ),
    ({"train.strategy": "mirrored"}, "train.strategy: got 'mirrored', expected one of auto, one_device"),
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
    ({"process": {"min_gain": 0.1}}, "process.preset: missing, expected one of blurring, gaussian"),
    ({"process": None}, "process: got null, expected a mapping with a preset"),
    ({"process.preset": "cold"}, "process.preset: got 'cold', expected one of blurring, gaussian"),
    ({"process.preset": None}, "process.preset: got null, expected one of blurring, gaussian"),
    (
        {"process": {"preset": "gaussian", "sigma_blur_max": 3.0}},
        "process.sigma_blur_max: unknown key (value 3.0); allowed: preset, logsnr_min, logsnr_max",
    ),
    ({"process": {"preset": "blurring", "min_gain": 1}}, "process.min_gain: got 1, expected a number >= 0 and < 1"),
    (
        {"process": {"preset": "gaussian", "logsnr_min": 12}},
        "process.logsnr_min: got 12.0, expected a number < process.logsnr_max, which is 10.0",
    ),
    ({"model.prediction": "x0"}, "model.prediction: got 'x0', expected one of eps, v"),
    ({"sample.sampler": "euler"}, "sample.sampler: got 'euler', expected one of ancestral, ddim"),
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
    mapping = with_values({"data.name": "x", "data.root": None, "network.attention_resolutions": [5]})
    assert [line.split(":")[0] for line in problems(mapping)] == [
        "data.name",
        "data.root",
        "network.attention_resolutions",
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
    for section in [*sections, config_module.Gaussian, config_module.Blurring]:
        assert all(field.description for field in section.model_fields.values()), section


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse_config({"data": FOLDER}).train.steps = 3


@pytest.mark.parametrize("name", ["cifar10", "digits", "fashion_mnist", "lsun"])
def test_shipped_configs_are_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(f"{name}.yaml") == load_config(shipped_configs()[f"{name}.yaml"])


def test_configs_inside_the_package_come_first(tmp_path, monkeypatch):
    (tmp_path / "package" / "configs").mkdir(parents=True)
    (tmp_path / "package" / "configs" / "installed.yaml").write_text("data: {source: tfds, name: x, image_size: 32}")
    monkeypatch.setattr(config_module, "__file__", str(tmp_path / "package" / "config.py"))
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


def test_another_preset_starts_from_its_defaults():
    config = load_config("cifar10", ["process.preset=gaussian", "process.logsnr_min=-12"])
    assert config.process.model_dump() == {"preset": "gaussian", "logsnr_min": -12.0, "logsnr_max": 10.0}
    config = load_config("cifar10", ["process.sigma_blur_max=7", "process.preset=blurring"])
    assert config.process.sigma_blur_max == 7.0


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
    with pytest.raises(
        ConfigError, match=r"lsum.yaml: no such file; expected a path or one of cifar10\.yaml, digits\.yaml"
    ):
        load_config("lsum.yaml")
    with pytest.raises(ConfigError, match="is a folder, expected a YAML file"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_a_saved_config_is_the_same_config(name, tmp_path):
    config = load_config(name, ["train.learning_rate=1e-5", "data.cache_dir='1e-3'", "train.clip_norm=null"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert "num_images" in (tmp_path / "config.yaml").read_text()


def test_configs_are_read_without_tensorflow():
    program = (
        "import sys, types; package = types.ModuleType('tf_blurdiff'); sys.modules['tf_blurdiff'] = package;"
        f"package.__path__ = [{str(config_module.Path(config_module.__file__).parent)!r}];"
        "from tf_blurdiff.config import load_config; load_config('digits'); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_build_process():
    process = config_module.build_process(
        parse_config(with_values({"process.preset": "blurring", "process.min_gain": 0}))
    )
    assert process.min_gain == 0.0 and process.dissipation.sigma_blur_max == 20.0
    process = config_module.build_process(parse_config(with_values({"process.preset": "gaussian"})))
    alpha, _ = process.alpha_sigma([0.5], 4, 4)
    assert float(alpha[0, 0, 0, 0]) == float(alpha[0, 3, 3, 0])


def test_build_model():
    mapping = {
        "data": DIGITS | {"image_size": [8, 12]},
        "network": SMALL | {"num_classes": 10},
        "model": {"prediction": "v"},
        "train": {"ema_decay": 0.5, "clip_norm": None, "seed": 3, "precision": "mixed_bfloat16"},
        "sample": {"sampler": "ancestral", "num_steps": 7},
    }
    model = config_module.build_model(parse_config(mapping))
    assert model.image_shape == (8, 12, 1) and model.network.num_classes == 10
    assert model.network.multipliers == (1, 2) and model.network.dtype_policy.name == "mixed_bfloat16"
    assert (model.prediction, model.ema_decay, model.clip_norm, model.seed) == ("v", 0.5, None, 3)
    assert (model.sampler, model.num_steps) == ("ancestral", 7)


def test_what_only_the_network_knows_is_a_config_error():
    # 194 channels make three heads of attention, which do not divide them.
    mapping = {"data": DIGITS, "network": SMALL | {"channels": 194, "multipliers": [1, 1]}}
    with pytest.raises(ConfigError, match="network: 194 channels cannot be split"):
        config_module.build_network(parse_config(mapping))


def test_build_images(monkeypatch):
    images = config_module.build_images(parse_config({"data": DIGITS, "network": SMALL | {"num_classes": 10}}))
    assert (images.num_images, images.image_shape, images.num_classes) == (1797, (8, 8, 1), 10)
    monkeypatch.setattr("tf_blurdiff.data.open_images", lambda **_: images)
    mapping = {"data": {"source": "tfds", "name": "x", "image_size": 64}, "network": {"num_classes": 7}}
    with pytest.raises(ConfigError, match=r"network\.num_classes: got 7, expected 10 or null for this data set"):
        config_module.build_images(parse_config(mapping))
