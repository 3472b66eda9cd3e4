"""From YAML files, overrides and runs of older versions to configs, and from configs to objects."""

import itertools
import pathlib

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from tests.support.configs import DIGITS, FOLDER, SMALL, with_values
from tf_blurdiff import files
from tf_blurdiff.config import data_sections, loading, process_sections, schema
from tf_blurdiff.config.loading import (
    build_images,
    build_model,
    build_network,
    build_process,
    changed_keys,
    load_config,
    parse_config,
    save_config,
    shipped_configs,
    with_pictures,
)
from tf_blurdiff.config.messages import ConfigError
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.networks.layers import SelfAttention

WERE_RUN = "emoji", "fashion_mnist", "fashion_mnist_gaussian"
SHIPPED = [name.removesuffix(".yaml") for name in shipped_configs()]


def test_every_data_set_comes_with_every_process():
    for data in ("digits", "fashion_mnist", "cifar10", "lsun", "folder"):
        for preset in ("blurring", "gaussian", "heat_dissipation", "cold"):
            config = load_config(data if preset == "blurring" else f"{data}_{preset}")
            assert config.process.preset == preset and config.data == load_config(data).data


def test_small_data_compare_the_processes_fairly():
    for data, preset in itertools.product(
        ["digits", "fashion_mnist", "folder"], ["gaussian", "heat_dissipation", "cold"]
    ):
        config, blurring = load_config(f"{data}_{preset}"), load_config(data)
        assert (config.network, config.train) == (blurring.network, blurring.train)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_of_use(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert config == load_config(f"{name}.yaml") == load_config(shipped_configs()[f"{name}.yaml"])
    head = " ".join(shipped_configs()[f"{name}.yaml"].read_text().replace("#", "").split())
    assert f"train --config {name}.yaml --run_dir runs/" in head
    was_run = name.startswith(("digits", "miniature")) or name in WERE_RUN
    assert was_run or "config was never run" in head


def test_configs_inside_the_package_come_first(tmp_path, monkeypatch):
    (tmp_path / "package" / "configs").mkdir(parents=True)
    (tmp_path / "package" / "configs" / "installed.yaml").write_text("data: {source: tfds, name: x, image_size: 32}")
    monkeypatch.setattr(files, "__file__", str(tmp_path / "package" / "files.py"))
    assert list(shipped_configs()) == ["installed.yaml"]
    assert load_config("installed").data.name == "x"


def test_a_file_that_exists_comes_first(tmp_path, monkeypatch):
    (tmp_path / "digits.yaml").write_text(
        "data: {source: tfds, name: mine, image_size: 32}\ntrain: {learning_rate: 1e-3}"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config("digits.yaml")
    assert config.data.name == "mine" and config.train.learning_rate == 1e-3


def test_a_colour_is_no_comment():
    assert (
        load_config("digits", ["data.source=tfds", "data.name=x", "data.background=#10ff80"]).data.background
        == "#10ff80"
    )


@pytest.mark.parametrize("root", ["/photos/set #2", "/mine/anna's #1", "'/quoted #3'"])
def test_what_follows_a_number_sign_in_a_path_is_no_comment(root):
    config = load_config("digits", ["data.source=image_folder", f"data.root={root}"])
    assert config.data.root == (root[1:-1] if root.startswith("'") else root)


@pytest.mark.parametrize(
    "root", ["2020", "1e3", "on", "2020_01", "my photos: 2020", "[2020] trip", "@photos", "*x", "~"]
)
def test_a_path_is_text_whatever_it_looks_like(root):
    assert load_config("folder", [f"data.root={root}"]).data.root == root


def test_an_override_of_flip_goes_before_the_augment_of_the_file():
    def augmented(*overrides):
        data = load_config("folder", ["data.root=x", *overrides]).data
        return data.augment, data.flip

    assert augmented() == (("flip", "crop"), True)
    assert augmented("data.flip=false") == (("crop",), False)
    assert augmented("data.flip=true") == (("flip", "crop"), True)
    assert augmented("data.augment=[crop]", "data.flip=true") == (("flip", "crop"), True)
    assert augmented("data.flip=true", "data.augment=[crop]") == (("crop",), False)
    assert load_config("digits", ["data.flip=true"]).data.augment is None


def test_overrides():
    overrides = ["train.steps=200", "train.learning_rate=1e-4", "network.multipliers=[1,1]", "data.flip=true"]
    config = load_config("digits", [*overrides, "train.clip_norm=null", "train.steps=300"])
    assert (config.train.steps, config.train.learning_rate, config.train.clip_norm) == (300, 1e-4, None)
    assert config.network.multipliers == (1, 1) and config.data.flip is True


@pytest.mark.parametrize("overrides", itertools.permutations(["process.preset=gaussian", "process.logsnr_min=-12"]))
def test_another_preset_starts_from_its_defaults(overrides):
    assert load_config("cifar10", overrides).process == process_sections.Gaussian(logsnr_min=-12.0)


def test_the_same_preset_keeps_what_the_file_says():
    config = load_config("cifar10", ["process.sigma_blur_max=7", "process.preset=blurring"])
    assert config.process.sigma_blur_max == 7.0 and config.sample.sampler == "ancestral2"


@pytest.mark.parametrize("preset", ["gaussian", "blurring", "heat_dissipation", "cold"])
def test_every_config_goes_with_every_preset(preset):
    for name in SHIPPED:
        config = load_config(name, [f"process.preset={preset}"])
        if preset == load_config(name).process.preset:
            continue
        assert config.process == type(config.process)()
        assert config.sample == schema.Sample(num_images=config.sample.num_images)


# What a config of 0.1.0 said where its file did not: runs of that version have it in their config.yaml.
OLDER = yaml.safe_load(pathlib.Path(__file__).with_name("older_defaults.yaml").read_text())


def of_an_older_run(file):
    """The config.yaml that 0.1.0 wrote for a config file: every key of every source, filled in."""
    sections = {**OLDER, "process": OLDER["process"][file.get("process", {}).get("preset", "blurring")]}
    return {section: {**values, **file.get(section, {})} for section, values in sections.items()}


def test_a_run_of_an_older_version_goes_on():
    for name, path in shipped_configs().items():
        # OmegaConf's YAML reads 2e-4 as a number.
        file = OmegaConf.to_container(OmegaConf.load(path))
        older = of_an_older_run(file)
        assert older["data"].keys() >= {"name", "root", "cache_gb", "cache_dir", "max_corrupt"}
        assert changed_keys(parse_config(older), load_config(name)) == {}
    folder = parse_config(of_an_older_run({"data": FOLDER | {"cache_gb": 1.0}, "process": {"preset": "cold"}}))
    assert (folder.data.cache_gb, folder.process) == (1.0, process_sections.Cold())


def test_a_key_that_an_older_version_did_not_use_is_refused():
    for key, value in {"root": "x", "cache_dir": "x", "cache_gb": 1.0, "max_corrupt": 0, "name": "x"}.items():
        with pytest.raises(ConfigError, match=rf"^data\.{key}: unknown key"):
            parse_config(of_an_older_run({"data": DIGITS | {key: value}, "network": SMALL}))


def test_another_source_leaves_out_what_belonged_to_the_first(tmp_path):
    overrides = ["data.root=photos", "data.source=image_folder", "network.num_classes=null"]
    config = load_config("miniature", overrides)
    assert config.data == data_sections.ImageFolder(root="photos", image_size=16, channels=1, flip=False)
    assert config.sample == load_config("miniature").sample
    assert load_config("cifar10", ["data={source: image_folder, root: photos}"]).data.root == "photos"
    # The same source keeps what the file says.
    assert load_config("cifar10", ["data.source=tfds"]) == load_config("cifar10")
    labelled = load_config("digits_labels", ["data.root=photos", "data.source=image_folder"])
    assert (labelled.network.num_classes, labelled.model.label_dropout) == (None, 0.0)
    labelled = load_config("digits_labels", ["network.num_classes=4", "data={source: image_folder, root: photos}"])
    assert (labelled.network.num_classes, labelled.model.label_dropout) == (4, 0.0)
    with pytest.raises(ConfigError, match=r"^data\.root: missing, expected the folder of images"):
        load_config("cifar10", ["data.source=image_folder"])
    with pytest.raises(ConfigError, match=r"^data\.channels: got 3, expected 1"):
        load_config("cifar10", ["data.source=digits"])
    path = tmp_path / "full.yaml"
    path.write_text(FULL.replace("channels: 1}", "channels: 1, root: '${data.split}', split: '???'}", 1))
    assert load_config(path, ["data.source=tfds", "data.name=x"]).data.name == "x"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """48 and 70 pixels high pictures in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        path = folder / ("shoes" if number % 3 else "boots") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (90, 48 if number % 3 else 70), 40 * number).save(path)
    return folder


def chosen(photos, *overrides, begun_with=None):
    config = with_pictures(load_config("folder", [f"data.root={photos}", *overrides]), begun_with)
    return config.data.image_size, config.data.labels, config.network.num_classes


def test_sizes_and_classes_follow_from_the_pictures(photos):
    # The median of the shorter sides is 48.
    assert chosen(photos) == (32, None, None)
    assert chosen(photos, "data.labels=folders") == (32, ("boots", "shoes"), 2)
    assert chosen(photos, "data.labels=[shoes,boots]", "data.image_size=[32,64]") == ((32, 64), ("shoes", "boots"), 2)
    with pytest.raises(ConfigError, match=r"network.num_classes: got 7, expected 2 or null for this data set"):
        build_images(load_config("folder", [f"data.root={photos}", "data.labels=folders", "network.num_classes=7"]))
    with pytest.raises(ConfigError, match=r"^network.attention_resolutions: got \[5\], .*; \[4\] would do"):
        chosen(photos, "network.attention_resolutions=[5]")
    assert with_pictures(load_config("digits")) == load_config("digits")


def test_what_the_library_says_of_the_data_names_the_configs_key(photos):
    for config, overrides, message in (
        ("folder", ["data.root=/no/such"], r"^data\.root: got '/no/such', which is not a folder"),
        ("folder", ["data.root=/no/such", "data.image_size=16"], r"^data\.root: got '/no/such', which is not a folder"),
        ("folder", [f"data.root={photos}", "data.labels=[shoes,hats]"], r"^data\.labels: got 'hats', which is no sub-"),
        ("digits", ["data.split=test"], r"^data\.split: got 'test', expected train"),
    ):
        with pytest.raises(DataError, match=message):
            build_images(load_config(config, overrides))


def test_a_run_keeps_its_size_and_classes(photos):
    begun_with = load_config("folder", ["data.image_size=64", "data.labels=[shoes,boots]", "network.num_classes=2"])
    assert chosen(photos, "data.labels=folders", begun_with=begun_with) == (64, ("shoes", "boots"), 2)
    # What it was not begun with is another config, and left to be refused.
    assert chosen(photos, begun_with=begun_with) == (64, None, None)
    assert chosen(photos, "data.image_size=16", begun_with=begun_with)[0] == 16


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
    assert config.model == schema.Model(label_dropout=0.2)
    assert config.sample == schema.Sample(num_images=4)
    # The file has no process: it is the default one, blurring.
    assert load_config(path, ["process.preset=blurring"]) == load_config(path)
    path.write_text(FULL.replace("prediction: v", "prediction: preconditioned, loss_exponent: 0.25"))
    assert load_config(path, ["process.preset=gaussian"]).model == schema.Model(label_dropout=0.2)


@pytest.mark.parametrize("preset", ["process.preset=cold", "process={preset: cold}"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_other_overrides_stand_before_and_after_another_preset(preset, place, tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    overrides = ["sample.num_steps=7", "model.loss_type=squared_error"]
    config = load_config(path, [*overrides[:place], preset, *overrides[place:]])
    assert config.process == process_sections.Cold()
    assert (config.sample.num_steps, config.sample.sampler, config.model.loss_type) == (7, None, "squared_error")
    with pytest.raises(ConfigError, match=r"^sample\.sampler: sampler 'ddim' needs .* must be one of heat, cold"):
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
        ("train.steps=", "train.steps: got null, expected a valid integer"),
        ("train.steps=1e-4", "train.steps: got 0.0001, expected a valid integer"),
        ("train.lr=2e-4", "train.lr: unknown key (value 0.0002); allowed: steps"),
        ("train=3", "train: got 3, expected a mapping with the keys"),
        ("process=3", "process: got 3, expected a mapping with a preset"),
        ("data.source=${x}", "'data.source=${x}': cannot be applied: "),
        ("data.source=nowhere", "data.source: got 'nowhere', expected one of digits, tfds, image_folder"),
        ("process=${x}", "'process=${x}': cannot be applied: "),
        ("process.preset=warm", "process.preset: got 'warm', expected one of gaussian, blurring"),
        ("data.image_size=[1", "'data.image_size=[1': cannot be applied: "),
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
        (b"hello", "data: missing, expected the images\nhello: unknown key (value null); allowed: data"),
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
    config = load_config(name, ["train.learning_rate=1e-5", "data.split='1e-3'", "train.clip_norm=null"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert "num_images" in (tmp_path / "config.yaml").read_text()


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
    model = build_model(parse_config(mapping))
    assert model.image_shape == (8, 12, 1) and model.network.num_classes == 10
    assert model.network.multipliers == (1, 2) and model.network.dtype_policy.name == "mixed_bfloat16"
    assert (model.prediction, model.ema_decay, model.clip_norm, model.seed) == ("v", 0.5, None, 3)
    assert (model.loss_type, model.label_dropout) == ("absolute_error", 0.25)
    assert (model.sampler, model.num_steps, model.grid) == ("multistep3", 7, "logsnr")
    mapping["model"] = {"prediction": "preconditioned", "loss_exponent": 0.25}
    model = build_model(parse_config(mapping))
    assert (model.prediction, model.loss_exponent) == ("preconditioned", 0.25)
    assert build_model(parse_config(mapping | {"model": {"prediction": "preconditioned"}})).loss_exponent == 0.5


@pytest.mark.filterwarnings("ignore:the blur's standard deviation reaches")
@pytest.mark.parametrize(
    "preset, prediction, loss_type, sampler, num_steps",
    [
        ("gaussian", "preconditioned", "squared_error", "ancestral2", 20),
        ("heat_dissipation", "less_blurred", "squared_error", "heat", 200),
        ("cold", "x0", "absolute_error", "cold", 50),
    ],
)
def test_a_preset_alone_makes_a_model(preset, prediction, loss_type, sampler, num_steps):
    small = [f"network.{key}={value}" for key, value in SMALL.items()]
    model = build_model(load_config("digits", [f"process.preset={preset}", *small]))
    assert (model.prediction, model.loss_type) == (prediction, loss_type)
    assert (model.sampler, model.num_steps, model.process.num_levels) == (
        sampler,
        num_steps,
        {"heat_dissipation": 200, "cold": 300}.get(preset),
    )


@pytest.mark.parametrize("channels, heads", [(2, 1), (130, 2), (194, 2), (200, 2), (202, 2), (222, 3)])
def test_attention_has_heads_for_every_width(channels, heads):
    mapping = {"data": DIGITS, "network": SMALL | {"channels": channels, "multipliers": [1, 1]}}
    network = build_network(parse_config(mapping))
    attentions = [layer for layer in network._flatten_layers() if isinstance(layer, SelfAttention)]
    assert attentions and {layer.heads for layer in attentions} == {heads}


def test_build_images(monkeypatch):
    images = build_images(parse_config({"data": DIGITS, "network": SMALL | {"num_classes": 10}}))
    assert (images.num_images, images.image_shape, images.num_classes) == (1797, (8, 8, 1), 10)
    monkeypatch.setattr(loading, "open_images", lambda **_: images)
    for num_classes, images.num_classes, allowed in [(7, 10, "10 or null"), (10, None, "null")]:
        mapping = {"data": FOLDER, "network": {"num_classes": num_classes}}
        line = f"^network.num_classes: got {num_classes}, expected {allowed} for this data set$"
        with pytest.raises(ConfigError, match=line):
            build_images(parse_config(mapping))
