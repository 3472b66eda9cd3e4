"""YAML files and overrides to configs, and configs to objects.

OmegaConf reads YAML and overrides, `schema` checks them. Every mistake is a `ConfigError`: one line with the key, the
value and what is allowed.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from tf_blurdiff.config.data_sections import Data, ImageFolder, OwnData
from tf_blurdiff.config.fields import Section
from tf_blurdiff.config.messages import ConfigError, lines_of, one_line, problem, show
from tf_blurdiff.config.process_sections import ProcessSection
from tf_blurdiff.config.schema import AUTO, Config, OwnNetwork
from tf_blurdiff.data import FOLDERS, FileNames, Images, chosen_size, open_images, own_images
from tf_blurdiff.diffusion.predictions import PREDICTIONS, checked_loss_exponent, default_prediction
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import expanded, shipped_files
from tf_blurdiff.model import DiffusionModel
from tf_blurdiff.networks import UNet, fast_precision
from tf_blurdiff.own_code import call_object


class _Decides(NamedTuple):
    """A key that decides which others there are."""

    key: str
    common: type[Section]  # the section's keys that do not depend on it
    beside: dict[str, set[str]]  # the keys of other sections that do
    default: str | None  # where the section is left out


# Paths may look like numbers or lists: YAML is not asked.
_PATHS = ("data.root", "data.cache_dir")
_DECIDING = {
    "process": _Decides(
        "preset",
        ProcessSection,
        {"model": {"prediction", "loss_type", "loss_exponent"}, "sample": {"sampler", "num_steps", "grid"}},
        Config.model_fields["process"].default.preset,
    ),
    "data": _Decides("source", Data, {"network": {"num_classes"}, "model": {"label_dropout"}}, None),
}


def parse_config(mapping: Any) -> Config:
    """Checks a mapping of plain values, as YAML gives them, and returns a `Config`.

    Raises:
        ConfigError: with one line per problem.

    Example:
        >>> parse_config({"data": {"source": "digits", "image_size": 32}}).image_shape
        (32, 32, 1)
    """
    try:
        return Config.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError("\n".join(lines_of(error, Config))) from None


def load_config(path_or_name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file, applies overrides and returns a `Config`.

    Args:
        path_or_name: a file's path, or the name of a config that comes with the package, with or without .yaml.
        overrides: strings "section.key=value"; the value is read as YAML. Another process.preset or data.source is
            applied before the others. With another preset, what the file says of process, of model.prediction,
            loss_type and loss_exponent, and of sample.sampler, num_steps and grid belonged to its own, and is left out;
            with another source, what it says of data but for image_size, channels, flip, augment and held_out, of
            network.num_classes and of model.label_dropout.

    Raises:
        ConfigError: with one line per problem.

    Example:
        >>> load_config("digits.yaml", ["train.steps=200"]).train.steps
        200
    """
    path = _find(path_or_name)
    try:
        merged = OmegaConf.load(path)
    except Exception as error:  # YAML's, OmegaConf's and the file system's errors have no base in common.
        raise ConfigError(f"{path}: not a readable YAML file: {one_line(error)}") from None
    if not isinstance(merged, DictConfig) or not merged:
        raise ConfigError(f"{path}: expected a mapping with the sections {', '.join(Config.model_fields)}")
    # Those that decide what keys there are come first.
    for change, override in sorted(map(_parsed, overrides), key=lambda parsed: not _decides(*parsed)):
        merged = _apply(merged, change, override)
    try:
        mapping = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except Exception as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    return parse_config(mapping)


def save_config(config: Config, path: str | Path) -> None:
    """Writes a config with every default filled in; `load_config(path)` gives it back."""
    OmegaConf.save(OmegaConf.create(config.model_dump(mode="json")), path)


def changed_keys(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """The keys at which two configs differ, and both values; None for a key that one does not have.

    Example:
        >>> changed_keys(load_config("digits"), load_config("digits", ["train.seed=7"]))
        {'train.seed': (0, 7)}
    """
    old, new = (_flat(config.model_dump(mode="json")) for config in (before, after))
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def changes_in_words(before: Config, after: Config) -> str:
    """The keys at which two configs differ, with the second one's values.

    Example:
        >>> changes_in_words(load_config("digits"), load_config("digits", ["train.seed=7", "network.num_classes=10"]))
        'network.num_classes 10, train.seed 7'
    """
    return ", ".join(f"{key} {show(new)}" for key, (_, new) in changed_keys(before, after).items())


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package: `{name: path}`."""
    return {path.name: path for path in shipped_files("configs", ".yaml")}


def resolved(config: Config, begun_with: Config | None = None) -> Config:
    """The config with what it leaves open decided: size and labels of a folder, the precision, and the prediction.

    Args:
        config: any.
        begun_with: the config.yaml of a run that goes on, which decides; None takes what suits pictures, machine and
            process.

    Raises:
        DataError, ConfigError: as `with_pictures`.

    Example:
        >>> model = resolved(load_config("fashion_mnist")).model
        >>> model.prediction, model.loss_exponent
        ('preconditioned', 0.5)
    """
    config = with_pictures(config, begun_with)
    train, prediction, loss_exponent = config.train, config.model.prediction, config.model.loss_exponent
    if train.precision == AUTO:
        precision = fast_precision() if begun_with is None else begun_with.train.precision
        train = train.model_copy(update={"precision": precision})
    if begun_with is None or begun_with.process != config.process:
        prediction = prediction or default_prediction(build_process(config))
    else:
        prediction = prediction or begun_with.model.prediction or _older_default(build_process(config))
        if prediction == begun_with.model.prediction and loss_exponent is None:
            loss_exponent = begun_with.model.loss_exponent
    loss_exponent = checked_loss_exponent(loss_exponent, prediction)
    model = config.model.model_copy(update={"prediction": prediction, "loss_exponent": loss_exponent})
    return config.model_copy(update={"train": train, "model": model})


def _older_default(process):
    """What null meant in the config.yaml of runs that are older than "preconditioned"."""
    if not process.ends_in_noise:
        return default_prediction(process)
    return "eps" if PREDICTIONS["eps"].allowed(process) else "x0"


def with_pictures(config: Config, begun_with: Config | None = None) -> Config:
    """The config with data.image_size, data.labels and network.num_classes in place of what is left to a folder.

    Args:
        config: the config.
        begun_with: that of the run if it was begun, whose sizes and classes it keeps.

    Raises:
        DataError: if the folder cannot be read.
        ConfigError: if the size does not go with the network.

    Example:
        >>> import sklearn.datasets
        >>> root = f"data.root={sklearn.datasets.__path__[0]}/images"
        >>> with_pictures(load_config("folder", [root])).data.image_size
        64
    """
    data = config.data
    if isinstance(data, OwnData) and data.labels is not None and begun_with is None:
        return _with(config, "network", num_classes=config.network.num_classes or len(data.labels))
    if not isinstance(data, ImageFolder) or (data.image_size is not None and data.labels is None):
        return config
    size, labels = data.image_size, data.labels
    if begun_with is not None and isinstance(begun_with.data, ImageFolder):
        size = size or begun_with.data.image_size
        labels = begun_with.data.labels if labels == FOLDERS and begun_with.data.labels else labels
    if size is None or labels == FOLDERS:
        with _of_section(data):
            names = FileNames(data.root, labels)
            size, labels = size or chosen_size(names), names.class_names
    config = _with(config, "data", image_size=size, labels=labels)
    if labels is not None and config.network.num_classes is None:
        config = _with(config, "network", num_classes=len(labels))
    return config


def _with(config: Config, section: str, **values: Any) -> Config:
    sections = config.model_dump()
    sections[section] |= values
    return parse_config(sections)


def build_process(config: Config) -> Process:
    """The config's `Process`."""
    return config.process.build()


def build_network(config: Config) -> keras.Model:
    """The config's network, untrained: a `UNet`, or one of the user's own."""
    precision = resolved(config).train.precision
    if isinstance(config.network, OwnNetwork):
        return _own_network(config.network, config.image_shape, precision)
    network = UNet(image_shape=config.image_shape, **config.network.model_dump(), dtype=precision)
    network.build()
    return network


def _own_network(section, image_shape, precision):
    arguments = {"image_shape": image_shape, "num_classes": section.num_classes, **(section.model_extra or {})}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)  # Layers that are told no other take this one.
    try:
        network = call_object("network.class", section.class_name, **arguments)
    finally:
        keras.config.set_dtype_policy(before)
    if not isinstance(network, keras.Model):
        expected = f"{section.class_name} to return a Keras model"
        raise ConfigError(problem("network.class", type(network).__name__, expected))
    return network


def build_model(config: Config, class_names: Sequence[str] | None = None) -> DiffusionModel:
    """The config's `DiffusionModel`, untrained; with names of its labels, if there are."""
    return DiffusionModel(
        build_network(config),
        build_process(config),
        **config.model.model_dump(),
        image_shape=config.image_shape,
        num_classes=config.network.num_classes,
        class_names=class_names,
        ema_decay=config.train.ema_decay,
        clip_norm=config.train.clip_norm,
        sampler=config.sample.sampler,
        num_steps=config.sample.num_steps,
        grid=config.sample.grid,
        seed=config.train.seed,
    )


def build_images(config: Config) -> Images:
    """The config's data set; what is held out is its `held_out`.

    Raises:
        DataError: if it cannot be read.
        ConfigError: if its labels are not as many as network.num_classes.
    """
    config = with_pictures(config)
    if isinstance(config.data, OwnData):
        images = own_images(
            config.data.arrays, config.image_shape, config.data.held_out, config.data.crop, config.data.labels
        )
    else:
        with _of_section(config.data):
            images = open_images(**config.data.model_dump(exclude={"flip", "augment"}), crop=config.data.crop)
    num_classes = config.network.num_classes
    if num_classes is not None and num_classes != images.num_classes:
        expected = "null" if images.num_classes is None else f"{images.num_classes} or null"
        raise ConfigError(problem("network.num_classes", num_classes, f"{expected} for this data set"))
    return images


@contextlib.contextmanager
def _of_section(data: Data) -> Iterator[None]:
    """Puts the section's name before an argument's, in what the library says of the data."""
    try:
        yield
    except UserError as error:
        if str(error).partition(": ")[0] in type(data).model_fields:
            raise type(error)(f"data.{error}") from error
        raise


def _find(path_or_name: str | Path) -> Path:
    path = expanded(path_or_name)
    if path.exists() and not path.is_dir():  # A pipe is as good as a file.
        return path
    shipped = shipped_configs()
    for name in (str(path_or_name), f"{path_or_name}.yaml"):
        if name in shipped:
            return shipped[name]
    if path.is_dir():
        raise ConfigError(f"{path_or_name}: is a folder, expected a YAML file")
    raise ConfigError(f"{path_or_name}: no such file; expected a path or one of {', '.join(shipped)}")


def _parsed(override: str) -> tuple[DictConfig, str]:
    key, equals, value = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"{override!r}: not an override; expected section.key=value, such as train.steps=200")
    with _naming(override):
        # YAML would take a colour such as #808080, or the rest of a path, for a comment.
        is_text = value.startswith("#") or (" #" in value and value[0] not in "'\"[{")
        if is_text or (key.strip() in _PATHS and value[:1] not in ("'", '"') and value not in ("", "null")):
            value = "'" + value.replace("'", "''") + "'"
        return OmegaConf.from_dotlist([f"{key}={value}"]), override


def _decides(change: DictConfig, override: str) -> bool:
    with _naming(override):
        return any(_decision(change, section) is not None for section in _DECIDING)


def _apply(merged: Any, change: DictConfig, override: str) -> Any:
    with _naming(override):
        for section, decides in _DECIDING.items():
            before = _decision(merged, section) if section in merged else decides.default
            if _decision(change, section) not in (None, before):
                values = merged.get(section)
                merged[section] = _only(values, decides.common.model_fields) if _is_dict(values) else {}
                for other, keys in decides.beside.items():
                    if _is_dict(merged.get(other)):
                        merged[other] = _only(merged[other], merged[other].keys() - keys)
        merged = OmegaConf.merge(merged, change)
        _let_flip_change_augment(merged, change)
        return merged


def _let_flip_change_augment(merged: Any, change: DictConfig) -> None:
    """Where a file has data.augment, which goes before data.flip, an override of data.flip still counts."""
    flip, augment = (OmegaConf.select(each, f"data.{key}") for each, key in ((change, "flip"), (merged, "augment")))
    if isinstance(flip, bool) and augment is not None:
        merged.data.augment = [*(["flip"] if flip else []), *(each for each in augment if each != "flip")]


def _only(values: DictConfig, keys: Iterable[str]) -> DictConfig:
    return OmegaConf.masked_copy(values, list(keys))


def _decision(sections: DictConfig, section: str) -> Any:
    values = sections.get(section)
    return values.get(_DECIDING[section].key) if _is_dict(values) else None


@contextlib.contextmanager
def _naming(override: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # OmegaConf's and YAML's have no base in common.
        raise ConfigError(f"{override!r}: cannot be applied: {one_line(error)}") from None


def _is_dict(values: object) -> bool:
    return isinstance(values, DictConfig)


def _flat(sections: dict[str, Any]) -> dict[str, Any]:
    return {"imports": sections["imports"]} | {
        f"{name}.{key}": value
        for name, values in sections.items()
        if name != "imports"
        for key, value in values.items()
    }
