"""What a config's keys can be: types with their checks, each of which says in its message what is allowed."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tf_blurdiff.data import FOLDERS, checked_colour
from tf_blurdiff.diffusion.process import BLUR_UNITS
from tf_blurdiff.diffusion.schedules import LOGSNR_MAX, LOGSNR_MIN
from tf_blurdiff.errors import UserError

AUGMENTATIONS = "flip", "crop"
_FOLDERS = {"folders": FOLDERS}


def named(names: Collection[str]) -> BeforeValidator:
    """The check that a value is one of these names."""

    # Names are looked up when they are checked: packages of the user's own may have added some.
    def check(value: Any) -> Any:
        if value not in tuple(names):  # A dictionary would not look up a list.
            raise PydanticCustomError("one_of", "Input should be one of {names}", {"names": ", ".join(names)})
        return value

    return BeforeValidator(check, json_schema_input_type=Literal[tuple(names)])


def on_or_off(value: Any) -> Any:
    """The words on and off, which YAML reads as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _checked_size(value: Any) -> Any:
    sizes = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sizes) != 2 or any(type(size) is not int or size < 1 for size in sizes):
        raise PydanticCustomError("image_size", "Input should be an integer >= 1, or [height, width]")
    return value if isinstance(value, int) else sizes


def _checked_background(value: Any) -> Any:
    try:
        return checked_colour(value)
    except UserError:
        raise PydanticCustomError("colour", "Input should be a colour such as white, black or '#808080'") from None


def _checked_labels(value: Any) -> Any:
    if value == FOLDERS:
        return value
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        expected = "Input should be {folders}, or a list of names of sub-folders, numbers in quotes"
        raise PydanticCustomError("labels", expected, _FOLDERS)
    return _each_once(names)


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise PydanticCustomError("labels", "Input should be a list with each name once")
    return names


def _checked_class(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"\w+(\.\w+)+", value):
        raise PydanticCustomError("class", "Input should be package.name, of a package in imports")
    return value


PositiveInt = Annotated[int, Field(ge=1)]
# YAML has lists; a frozen config has tuples.
PositiveInts = Annotated[tuple[PositiveInt, ...], Field(strict=False)]
ImageSize = Annotated[int | tuple[int, int], BeforeValidator(_checked_size)]
Background = Annotated[
    str, BeforeValidator(_checked_background), Field(description="the colour behind transparent pictures")
]
Labels = Annotated[str | tuple[str, ...], BeforeValidator(_checked_labels)]
ClassNames = Annotated[tuple[str, ...], Field(strict=False, min_length=1), AfterValidator(_each_once)]
Augmentations = Annotated[tuple[Annotated[str, named(AUGMENTATIONS)], ...], Field(strict=False)]
LogSNR = Annotated[float, Field(ge=LOGSNR_MIN, le=LOGSNR_MAX)]
BlurUnit = Annotated[str, named(BLUR_UNITS), Field(description="unit of the blur: pixels, or the image's width")]


ClassName = Annotated[str, BeforeValidator(_checked_class), Field(alias="class")]


class Section(BaseModel):
    """What all sections are: plain values that cannot be changed, and no keys but those there are."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True)
