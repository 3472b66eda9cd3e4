"""Configs: the only place where strings become objects.

OmegaConf reads YAML and overrides, pydantic checks them, and every problem is one line that names the key, the value
and what is allowed. TensorFlow is imported when something is built, so a mistake is reported at once.
"""

import contextlib
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tf_blurdiff.config.checks import combination_problems, loss_type_of, prediction_of
from tf_blurdiff.config.messages import lines_of, one_line, problem
from tf_blurdiff.errors import UserError


class ConfigError(UserError):
    """A config cannot be used; the message has one line per problem."""


PositiveInt = Annotated[int, Field(ge=1)]
# What belongs to a preset, beside the section process.
_GO_WITH_PRESET = {"model": ("prediction", "loss_type"), "sample": ("sampler", "num_steps", "grid")}
# YAML has lists; a frozen config has tuples.
_AsTuple = Field(strict=False)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(_Section):
    """The images; see `tf_blurdiff.data.sources.open_images`."""

    source: Literal["digits", "tfds", "image_folder"] = Field(description="where the images come from")
    name: str | None = Field(None, description="of the TFDS data set, such as cifar10")
    split: str = Field("train", description="of the TFDS data set or the digits, such as train or train[:90%]")
    root: str | None = Field(None, description="the folder of images; for TFDS its data_dir")
    cache_gb: float = Field(2.0, ge=0, description="GB of decoded images that may be kept in memory")
    cache_dir: str | None = Field(None, description="where TFDS images over cache_gb are kept, decoded")
    max_corrupt: int = Field(100, ge=0, description="files of a folder that may be unreadable; they are skipped")
    image_size: PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], _AsTuple] = Field(
        description="height and width in pixels, or [height, width]"
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for colour")
    flip: bool = Field(True, description="mirror training images left to right at random")


_AT_END, _AT_START = "log signal-to-noise ratio at t = 1", "log signal-to-noise ratio at t = 0"
_BLUR_MIN, _BLUR_MAX = "blur's standard deviation at the first level", "blur's standard deviation at t = 1"
_LEVELS = "number of levels between the image and t = 1"
BlurUnit = Annotated[Literal["pixels", "width"], Field(description="unit of the blur: pixels, or the image's width")]


class Gaussian(_Section):
    """Standard Gaussian diffusion."""

    preset: Literal["gaussian"] = Field("gaussian", description="the process")
    noise_schedule: Literal["cosine", "linear_betas"] = Field("cosine", description="linear_betas are DDPM's")
    logsnr_min: float = Field(-10.0, description=_AT_END)
    logsnr_max: float = Field(10.0, description=_AT_START)


class Blurring(_Section):
    """Blurring diffusion."""

    preset: Literal["blurring"] = Field("blurring", description="the process")
    sigma_blur_max: float = Field(20.0, ge=0, description=_BLUR_MAX)
    blur_unit: BlurUnit = "pixels"
    blur_schedule: Literal["sin_squared", "sin"] = Field("sin_squared", description="how the blur grows")
    min_gain: float = Field(0.001, ge=0, lt=1, description="what blurring leaves of every frequency")
    logsnr_min: float = Field(-10.0, description=_AT_END)
    logsnr_max: float = Field(10.0, description=_AT_START)


class HeatDissipation(_Section):
    """Inverse heat dissipation."""

    preset: Literal["heat_dissipation"] = Field("heat_dissipation", description="the process")
    sigma_blur_min: float = Field(0.5, gt=0, description=_BLUR_MIN)
    sigma_blur_max: float = Field(24.0, gt=0, description=_BLUR_MAX)
    blur_unit: BlurUnit = "pixels"
    sigma: float = Field(0.02, ge=0, description="the noise's standard deviation, for pixels in [-1, 1]")
    num_levels: int = Field(200, ge=2, description=_LEVELS)


class Cold(_Section):
    """Cold diffusion."""

    preset: Literal["cold"] = Field("cold", description="the process")
    sigma_blur_min: float = Field(0.01, gt=0, description=_BLUR_MIN)
    sigma_blur_max: float = Field(1.0, gt=0, description=_BLUR_MAX)
    blur_unit: BlurUnit = "width"
    num_levels: int = Field(300, ge=2, description=_LEVELS)


class Network(_Section):
    """The U-Net; see `tf_blurdiff.UNet`."""

    channels: int = Field(128, ge=2, multiple_of=2, description="width of the first level")
    multipliers: Annotated[tuple[PositiveInt, ...], _AsTuple] = Field(
        (1, 2, 2, 2), min_length=1, description="each level's width as a multiple of channels; a level halves the image"
    )
    num_res_blocks: PositiveInt = Field(2, description="residual blocks a level")
    attention_resolutions: Annotated[tuple[PositiveInt, ...], _AsTuple] = Field(
        (16,), description="heights of the levels with self-attention"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="rate inside the residual blocks")
    num_classes: PositiveInt | None = Field(None, description="number of labels; null for a model without")
    rematerialize: bool = Field(False, description="train with less memory and more time: blocks are computed twice")


class Model(_Section):
    """What the network predicts."""

    prediction: Literal["eps", "v", "x0", "less_blurred"] | None = Field(
        None, description="what the network predicts; null: eps, for heat_dissipation less_blurred, for cold x0"
    )
    loss_type: Literal["squared_error", "absolute_error"] | None = Field(
        None, description="of the prediction; null: squared_error, for cold absolute_error"
    )
    label_dropout: float = Field(0.0, ge=0, lt=1, description="share of labels left out, for guidance")


class Train(_Section):
    """The training run."""

    steps: PositiveInt = Field(800_000, description="optimizer steps")
    batch_size: PositiveInt = Field(128, description="images a step, over all devices")
    learning_rate: float = Field(2e-4, gt=0, description="of Adam, after the warm-up")
    warmup_steps: int = Field(5000, ge=0, description="steps in which the learning rate rises")
    decay_steps: PositiveInt | None = Field(
        None, description="step at which the learning rate has fallen to 0, as a cosine; null to keep it"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        1.0, description="bound on the gradient's norm; null for none"
    )
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="of the averaged weights")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random in training")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="of the network's arithmetic"
    )
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker"] = Field(
        "auto", description="the devices; auto: TF_CONFIG's workers, else all GPUs, else one device"
    )
    replicas: PositiveInt | None = Field(None, description="devices of the strategy mirrored; null: all GPUs")
    keep_checkpoints: PositiveInt = Field(3, description="checkpoints that stay, beside the best one")
    checkpoint_every: PositiveInt = Field(5000, description="steps between checkpoints")
    sample_every: PositiveInt = Field(5000, description="steps between sheets of samples")
    log_every: PositiveInt = Field(100, description="steps between lines of metrics")


class Sample(_Section):
    """How images are sampled, in training and by default afterwards."""

    sampler: (
        Literal["ancestral", "ancestral2", "ddim", "multistep2", "multistep3", "heat", "cold", "cold_naive"] | None
    ) = Field(None, description="the reverse process's step; null: the one that goes with the process")
    num_steps: PositiveInt | None = Field(
        None,
        description="steps of the reverse process; null: 20 if it ends in noise, else 50 or its levels",
    )
    grid: Literal["uniform", "quadratic", "logsnr"] | None = Field(
        None, description="its times; null: the sampler's own"
    )
    num_images: PositiveInt = Field(64, description="images on a sheet of samples")


class Config(_Section):
    """A whole experiment.

    Example:
        >>> config = parse_config({"data": {"source": "image_folder", "root": "photos", "image_size": [64, 96]}})
        >>> config.image_shape, config.process.sigma_blur_max
        ((64, 96, 3), 20.0)
    """

    data: Data = Field(description="the images")
    process: Gaussian | Blurring | HeatDissipation | Cold = Field(
        Blurring(), discriminator="preset", description="the diffusion process"
    )
    network: Network = Field(Network(), description="the U-Net")
    model: Model = Field(Model(), description="what the network predicts")
    train: Train = Field(Train(), description="the training run")
    sample: Sample = Field(Sample(), description="how images are sampled")

    @property
    def image_shape(self):
        """(H, W, C)."""
        size = self.data.image_size
        return (*((size, size) if isinstance(size, int) else size), self.data.channels)

    @model_validator(mode="after")
    def _check_combinations(self):
        problems = list(combination_problems(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def parse_config(mapping):
    """Checks a mapping of plain values, as YAML gives them, and returns a `Config`.

    Raises:
        ConfigError: with one line per problem.
    """
    try:
        return Config.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError("\n".join(lines_of(error, Config.model_json_schema(), mapping))) from None


def load_config(path_or_name, overrides=()):
    """Reads a YAML file, applies overrides and returns a `Config`.

    Args:
        path_or_name: a file's path, or the name of a config that comes with the package, with or without .yaml.
        overrides: strings "section.key=value"; the value is read as YAML. Another process.preset is applied before the
            others and starts from that preset's defaults: what the file says of process, of model.prediction and
            loss_type, and of sample.sampler, num_steps and grid belonged to its own preset, and is left out.

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
    if not OmegaConf.is_dict(merged) or not merged:
        raise ConfigError(f"{path}: expected a mapping with the sections {', '.join(Config.model_fields)}")
    for preset, change, override in sorted(map(_parsed, overrides), key=lambda parsed: parsed[0] is None):
        merged = _apply(merged, preset, change, override)
    try:
        mapping = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except Exception as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    return parse_config(mapping)


def save_config(config, path):
    """Writes a config with every default filled in; `load_config(path)` gives it back."""
    OmegaConf.save(OmegaConf.create(config.model_dump(mode="json")), path)


def changed_keys(before, after):
    """The keys at which two configs differ: `{"train.seed": (value before, value after)}`.

    Example:
        >>> changed_keys(load_config("digits"), load_config("digits", ["train.seed=7"]))
        {'train.seed': (0, 7)}
    """
    before, after = (_flat(config.model_dump(mode="json")) for config in (before, after))
    keys = sorted({*before, *after})
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def shipped_configs():
    """The configs that come with the package: `{name: path}`."""
    here = Path(__file__).parents[1]
    # In a wheel they are inside the package, in a checkout beside it.
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def build_process(config):
    """The config's `Process`."""
    from tf_blurdiff.diffusion import process

    return getattr(process, config.process.preset)(**config.process.model_dump(exclude={"preset"}))


def build_network(config):
    """The config's `UNet`, untrained."""
    from tf_blurdiff.networks.unet import UNet

    try:
        network = UNet(image_shape=config.image_shape, **config.network.model_dump(), dtype=config.train.precision)
        network.build()
    except ValueError as error:
        # Keras puts words of its own in front of a layer's.
        raise ConfigError(f"network: {str(error).splitlines()[-1]}") from error
    return network


def build_model(config):
    """The config's `DiffusionModel`, untrained."""
    from tf_blurdiff.model.diffusion_model import DiffusionModel

    return DiffusionModel(
        build_network(config),
        build_process(config),
        prediction=prediction_of(config),
        image_shape=config.image_shape,
        loss_type=loss_type_of(config),
        ema_decay=config.train.ema_decay,
        clip_norm=config.train.clip_norm,
        label_dropout=config.model.label_dropout,
        sampler=config.sample.sampler,
        num_steps=config.sample.num_steps,
        grid=config.sample.grid,
        seed=config.train.seed,
    )


def build_images(config):
    """The config's data set, `tf_blurdiff.data.sources.Images`; raises `DataError` if it cannot be read."""
    from tf_blurdiff.data.sources import open_images

    images = open_images(**config.data.model_dump(exclude={"flip"}))
    num_classes = config.network.num_classes
    if num_classes is not None and num_classes != images.num_classes:
        expected = "null" if images.num_classes is None else f"{images.num_classes} or null"
        raise ConfigError(problem("network.num_classes", num_classes, f"{expected} for this data set"))
    return images


def _find(path_or_name):
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    shipped = shipped_configs()
    for name in (str(path_or_name), f"{path_or_name}.yaml"):
        if name in shipped:
            return shipped[name]
    if path.is_dir():
        raise ConfigError(f"{path_or_name}: is a folder, expected a YAML file")
    raise ConfigError(f"{path_or_name}: no such file; expected a path or one of {', '.join(shipped)}")


def _parsed(override):
    """`(preset or None, change, override)`."""
    key, equals, _ = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"{override!r}: not an override; expected section.key=value, such as train.steps=200")
    with _naming(override):
        change = OmegaConf.from_dotlist([override])
        return _preset(change), change, override


def _apply(merged, preset, change, override):
    with _naming(override):
        if preset not in (None, _preset(merged, default=Config.model_fields["process"].default.preset)):
            merged = OmegaConf.merge(merged, {"process": None})
            for section, keys in _GO_WITH_PRESET.items():
                for key in keys if OmegaConf.is_dict(merged.get(section)) else ():
                    merged[section].pop(key, None)
        return OmegaConf.merge(merged, change)


@contextlib.contextmanager
def _naming(override):
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{override!r}: cannot be applied: {one_line(error)}") from None


def _flat(sections):
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def _preset(mapping, default=None):
    process = mapping.get("process", {"preset": default})
    return process.get("preset") if isinstance(process, dict) or OmegaConf.is_dict(process) else None
