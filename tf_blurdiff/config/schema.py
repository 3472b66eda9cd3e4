"""A config: its sections, and what they have to do with each other.

What the library has tables or checks for is asked of the library; the rules here are those that only a config has.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from tf_blurdiff.compilation import CHOICES as COMPILE_CHOICES
from tf_blurdiff.config.data_sections import Digits, ImageFolder, OwnData, Tfds
from tf_blurdiff.config.fields import ClassName, PositiveInt, PositiveInts, Section, named, on_or_off
from tf_blurdiff.config.messages import problem, show
from tf_blurdiff.config.process_sections import Blurring, Cold, Gaussian, HeatDissipation, OwnProcess
from tf_blurdiff.devices import STRATEGIES
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.predictions import (
    LOSSES,
    PREDICTIONS,
    checked_loss_exponent,
    default_prediction,
    get_prediction,
)
from tf_blurdiff.diffusion.samplers import (
    SAMPLERS,
    SamplingSettings,
    checked_settings,
    default_num_steps,
    default_sampler,
)
from tf_blurdiff.errors import UserError
from tf_blurdiff.networks import PRECISIONS
from tf_blurdiff.own_code import check_named

AUTO = "auto"


def _without(problems: Iterable[str], section: Any) -> Any:
    lines = "\n".join(problems)
    if lines:
        raise ValueError(lines)
    return section


def _refusals(key: str, check: Callable[..., object], *args: Any) -> Iterator[str]:
    """What one of the library's checks says against a key's value, if anything."""
    try:
        check(*args)
    except UserError as error:
        yield f"{key}: {error}"


class Network(Section):
    """The U-Net; see `tf_blurdiff.UNet`."""

    channels: int = Field(128, ge=2, multiple_of=2, description="width of the first level")
    multipliers: PositiveInts = Field(
        (1, 2, 2, 2), min_length=1, description="each level's width as a multiple of channels; a level halves the image"
    )
    num_res_blocks: PositiveInt = Field(2, description="residual blocks a level")
    attention_resolutions: PositiveInts = Field((16,), description="heights of the levels with self-attention")
    dropout: float = Field(0.1, ge=0, lt=1, description="rate inside the residual blocks")
    num_classes: PositiveInt | None = Field(None, description="number of labels; null for a model without")
    rematerialize: bool = Field(False, description="train with less memory and more time: blocks are computed twice")


class OwnNetwork(Section):
    """A network of your own: a class, or a function, of `image_shape`, `num_classes` and the section's other keys."""

    model_config = ConfigDict(extra="allow")

    class_name: ClassName = Field(description="package.name of the class, of a package in imports")
    num_classes: PositiveInt | None = Field(None, description="number of labels; null for a model without")


def _kind_of_network(section: Any) -> str:
    is_own = "class" in section if isinstance(section, dict) else isinstance(section, OwnNetwork)
    return "own" if is_own else "unet"


class Model(Section):
    """What the network predicts."""

    prediction: Annotated[str, named(PREDICTIONS)] | None = Field(
        None, description="what it predicts; null: preconditioned, for heat_dissipation less_blurred, for cold x0"
    )
    loss_type: Annotated[str, named(LOSSES)] | None = Field(
        None, description="of the prediction; null: squared_error, for cold absolute_error"
    )
    loss_exponent: Annotated[float, Field(ge=0)] | None = Field(
        None, description="of the weights in preconditioned's loss: 0 for none, 1 for the loss of eps; null: 0.5"
    )
    label_dropout: float = Field(0.0, ge=0, lt=1, description="share of labels left out, for guidance")


class Train(Section):
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
    precision: Annotated[str, named((AUTO, *PRECISIONS))] = Field(
        "float32", description="of the network's arithmetic; auto: mixed_bfloat16 where the device has it, else float32"
    )
    compile: Annotated[str, named(COMPILE_CHOICES), BeforeValidator(on_or_off)] = Field(
        "auto", description="loss, gradient and sampling through XLA; auto: if there is a GPU, sampling if it is long"
    )
    strategy: Annotated[str, named(STRATEGIES)] = Field(
        "auto", description="the devices; auto: TF_CONFIG's workers, else all GPUs, else one device"
    )
    replicas: PositiveInt | None = Field(None, description="devices of the strategy mirrored; null: all GPUs")
    keep_checkpoints: PositiveInt = Field(3, description="checkpoints that stay, beside the best one")
    checkpoint_every: PositiveInt = Field(5000, description="steps between checkpoints")
    sample_every: PositiveInt = Field(5000, description="steps between sheets of samples")
    log_every: PositiveInt = Field(100, description="steps between lines of metrics")

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        return _without(self._problems(), self)

    def _problems(self) -> Iterator[str]:
        if self.replicas is not None and self.strategy not in ("auto", "mirrored"):
            yield problem("train.replicas", self.replicas, f"null, since train.strategy is {self.strategy}")
        elif self.batch_size % (self.replicas or 1):
            expected = f"a multiple of train.replicas, which is {self.replicas}"
            yield problem("train.batch_size", self.batch_size, expected)
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            expected = f"an integer > train.warmup_steps, which is {self.warmup_steps}"
            yield problem("train.decay_steps", self.decay_steps, expected)


class Sample(Section):
    """How images are sampled, in training and by default afterwards."""

    sampler: Annotated[str, named(SAMPLERS)] | None = Field(
        None, description="the reverse process's step; null: the one that goes with the process"
    )
    num_steps: PositiveInt | None = Field(
        None, description="steps of the reverse process; null: 20 if it ends in noise, 50 if not, or its levels"
    )
    grid: Annotated[str, named(GRIDS)] | None = Field(None, description="its times; null: the sampler's own")
    num_images: PositiveInt = Field(64, description="images on a sheet of samples")


class Config(Section):
    """A whole experiment.

    Example:
        >>> config = Config(data={"source": "image_folder", "root": "photos", "image_size": [64, 96]})
        >>> config.image_shape, config.process.sigma_blur_max
        ((64, 96, 3), 20.0)
    """

    data: Digits | Tfds | ImageFolder | OwnData = Field(
        discriminator="source", description="the images: a mapping with a source"
    )
    process: Gaussian | Blurring | HeatDissipation | Cold | OwnProcess = Field(
        Blurring(), discriminator="preset", description="the diffusion process: a mapping with a preset"
    )
    network: Annotated[Network, Tag("unet")] | Annotated[OwnNetwork, Tag("own")] = Field(
        Network(), discriminator=Discriminator(_kind_of_network), description="the U-Net"
    )
    model: Model = Field(Model(), description="what the network predicts")
    train: Train = Field(Train(), description="the training run")
    sample: Sample = Field(Sample(), description="how images are sampled")
    imports: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="packages of your own that the config names; the command must name them too: --imports"
    )

    @model_validator(mode="before")
    @classmethod
    def _tell_what_is_own(cls, values: Any) -> Any:
        """Beside a class, source and preset need not be told; what is imported has to be there before it is used."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for section, key in {"data": "source", "process": "preset"}.items():
            given = values.get(section)
            if isinstance(given, dict) and "class" in given:
                values[section] = {key: "own", **given}
        imports = values.get("imports") or ()
        if isinstance(imports, list | tuple):
            check_named("imports", map(str, imports))
        return values

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C); a UserError while data.image_size is to be chosen from the pictures."""
        size = self.data.image_size
        if size is None:
            raise UserError(
                "data.image_size: got null, expected a size: it is chosen from the pictures when they are read"
            )
        return (*((size, size) if isinstance(size, int) else size), self.data.channels)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        return _without([*self._network_problems(), *self._prediction_problems()], self)

    def _network_problems(self) -> Iterator[str]:
        if self.data.image_size is not None and isinstance(self.network, Network):
            yield from self._size_problems(self.network)
        network, labels = self.network, getattr(self.data, "labels", None)
        if self.model.label_dropout and network.num_classes is None and labels is None:
            yield problem("model.label_dropout", self.model.label_dropout, "0, since network.num_classes is null")

    def _size_problems(self, network: Network) -> Iterator[str]:
        height, width, _ = self.image_shape
        attention = network.attention_resolutions
        halvings = len(network.multipliers) - 1
        given = f"network.multipliers {list(network.multipliers)}"
        heights = [height // 2**level for level in range(halvings + 1)]
        if height % 2**halvings or width % 2**halvings:
            fitting = _size_that_fits(height, width, halvings, attention)
            proposed = show(fitting if isinstance(self.data.image_size, tuple) else fitting[0])
            expected = f"a multiple of {2**halvings}, since {given} has {halvings + 1} levels; {proposed} would do"
            yield problem("data.image_size", self.data.image_size, expected)
        elif not set(attention) <= set(heights):
            nearest = {min(heights, key=lambda own: abs(math.log(own / height))) for height in attention}
            expected = f"some of {heights}, the levels' heights with data.image_size {show(self.data.image_size)} and "
            proposed = f"; {sorted(nearest, reverse=True)} would do"
            yield problem("network.attention_resolutions", attention, expected + given + proposed)

    def _ambiguous_defaults(self) -> Iterator[str]:
        """What goes with a process is read off the process, and this preset is cold diffusion where it has no noise."""
        if isinstance(self.process, HeatDissipation) and self.process.sigma == 0:
            for key, choices in {"prediction": ("less_blurred", "x0"), "loss_type": tuple(LOSSES)}.items():
                if getattr(self.model, key) is None:
                    expected = f"{' or '.join(choices)}, since process.sigma is 0: that is cold diffusion"
                    yield problem(f"model.{key}", None, expected)

    def _prediction_problems(self) -> Iterator[str]:
        """Prediction and sampling against the process, in the library's words."""
        yield from self._ambiguous_defaults()
        process = self.process.build()
        prediction = self.model.prediction or default_prediction(process)
        refusals = list(_refusals("model.prediction", get_prediction, prediction, process))
        if refusals:
            yield from refusals
            return  # The others depend on it: one thing at a time.
        yield from _refusals("model.loss_exponent", checked_loss_exponent, self.model.loss_exponent, prediction)
        sampler, num_steps = default_sampler(process, prediction), default_num_steps(process, prediction)
        fitting = SamplingSettings(sampler, num_steps, grid="uniform")
        for key in ("sampler", "num_steps", "grid"):
            given = getattr(self.sample, key)
            if given is not None:
                settings = fitting._replace(**{key: given})
                yield from _refusals(f"sample.{key}", checked_settings, settings, process, prediction)


def _size_that_fits(height: int, width: int, halvings: int, attention: Iterable[int]) -> tuple[int, int]:
    """The nearest (height, width) that can be halved so often and have levels of the heights with attention, if any."""
    factor = 2**halvings
    multiples = range(factor, 4 * max(height, width, factor) + 1, factor)
    fitting = [each for each in multiples if set(attention) <= {each >> level for level in range(halvings + 1)}]
    nearest = lambda sizes, side: min(sizes, key=lambda size: abs(size - side))
    if height == width:
        return (nearest(fitting or multiples, height),) * 2
    return nearest(fitting or multiples, height), nearest(multiples, width)
