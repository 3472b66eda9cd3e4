"""A config's section `data`, one class a source; see `tf_blurdiff.data.sources`."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from tf_blurdiff.config.fields import Augmentations, Background, ClassName, ClassNames, ImageSize, Labels, Section
from tf_blurdiff.data import WHITE
from tf_blurdiff.own_code import call_object

# The config.yaml of older runs has these keys for every source, at these values where the source has no use for them.
_UNUSED_BY_SOURCE = {
    "name": None, "split": "train", "root": None, "cache_gb": 2.0, "cache_dir": None, "max_corrupt": 100,
}  # fmt: skip


class Data(Section):
    """The images; see `tf_blurdiff.data.sources.open_images`. The keys that every source has."""

    source: str = Field(description="where the images come from")
    image_size: ImageSize = Field(description="height and width in pixels, or [height, width]")
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for colour")
    flip: bool = Field(True, description="mirror training images left to right at random; augment goes before it")
    augment: Augmentations | None = Field(
        None, description="a list of flip and crop (at random, from pictures an eighth larger); null: as flip says"
    )
    held_out: float = Field(0.0, ge=0, lt=1, description="share of the images that is kept aside, to be judged by")

    @property
    def crop(self) -> bool:
        """Whether training images are cut at random from larger ones."""
        return "crop" in (self.augment or ())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_unused(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = _UNUSED_BY_SOURCE if cls.model_config["extra"] == "allow" else cls.model_fields  # Its arguments.
        unused = {key: value for key, value in _UNUSED_BY_SOURCE.items() if key not in known}
        values = {key: value for key, value in values.items() if key not in unused or value != unused[key]}
        if isinstance(values.get("augment"), list | tuple):
            values["flip"] = "flip" in values["augment"]
        return values


_CACHE_GB = "GB of decoded images that may be kept in memory"


class Digits(Data):
    """The 1,797 8x8 digits that come with scikit-learn."""

    source: Literal["digits"] = Field("digits", description="where the images come from")
    channels: Literal[1] = Field(1, description="1: the digits are grey")
    split: str = Field("train", description="train or a part of it, such as train[:90%]")


class Tfds(Data):
    """A data set of TensorFlow Datasets."""

    source: Literal["tfds"] = Field("tfds", description="where the images come from")
    name: str = Field(min_length=1, description="the name of a TFDS data set, such as cifar10")
    split: str = Field("train", description="such as train, test or train[:90%]")
    root: str | None = Field(None, description="TFDS's data_dir; null for its default")
    cache_gb: float = Field(2.0, ge=0, description=_CACHE_GB)
    cache_dir: str | None = Field(None, description="where images over cache_gb are kept; null: ~/.cache/tf_blurdiff")
    background: Background = WHITE


class ImageFolder(Data):
    """A folder of image files."""

    source: Literal["image_folder"] = Field("image_folder", description="where the images come from")
    image_size: ImageSize | None = Field(  # type: ignore[assignment]  # Here there are pictures to choose it from.
        None, description="height and width in pixels, or [height, width]; null: 16, 32 or 64, chosen from the pictures"
    )
    root: str = Field(min_length=1, description="the folder of images")
    cache_gb: float = Field(2.0, ge=0, description=_CACHE_GB)
    max_corrupt: int = Field(100, ge=0, description="files that may be unreadable; they are skipped")
    background: Background = WHITE
    labels: Labels | None = Field(
        None, description="folders: the root's sub-folders are classes; or the names of those that are; null for none"
    )


class OwnData(Data):
    """Pictures of your own: a function of `image_shape`, and of the section's other keys, that returns arrays."""

    model_config = ConfigDict(extra="allow")

    source: Literal["own"] = Field("own", description="where the images come from; may be left out beside class")
    class_name: ClassName = Field(description="package.name of the function, of a package in imports")
    labels: ClassNames | None = Field(
        None, description="names of the labels that the function returns; null where they have none, or there are none"
    )

    def arrays(self, image_shape: tuple[int, int, int]) -> Any:
        """What the function returns."""
        return call_object("data.class", self.class_name, **{"image_shape": image_shape, **(self.model_extra or {})})
