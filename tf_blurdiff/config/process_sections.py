"""A config's section `process`, one class a preset; see `tf_blurdiff.diffusion.process`."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tf_blurdiff.config.fields import BlurUnit, ClassName, LogSNR, Section, named
from tf_blurdiff.diffusion.process import BLUR_SCHEDULES, NOISE_SCHEDULES, PRESETS, Process
from tf_blurdiff.errors import UserError
from tf_blurdiff.own_code import call_object


class ProcessSection(Section):
    """The diffusion process: a preset of `tf_blurdiff.process` and its arguments."""

    preset: str = Field(description="the process")

    def build(self) -> Process:
        """The `Process`."""
        return PRESETS[self.preset](**self.model_dump(exclude={"preset"}))

    @model_validator(mode="after")
    def _check_it_can_be_built(self) -> Self:
        try:
            self.build()
        except ValueError as error:  # Its message begins with an argument's name.
            raise ValueError(f"process.{error}") from None
        return self


_AT_END, _AT_START = "log signal-to-noise ratio at t = 1", "log signal-to-noise ratio at t = 0"
_BLUR_MIN, _BLUR_MAX = "blur's standard deviation at the first level", "blur's standard deviation at t = 1"
_LEVELS = "number of levels between the image and t = 1"


class Gaussian(ProcessSection):
    """Standard Gaussian diffusion."""

    preset: Literal["gaussian"] = Field("gaussian", description="the process")
    noise_schedule: Annotated[str, named(NOISE_SCHEDULES)] = Field("cosine", description="linear_betas are DDPM's")
    logsnr_min: LogSNR = Field(-10.0, description=_AT_END)
    logsnr_max: LogSNR = Field(10.0, description=_AT_START)


class Blurring(ProcessSection):
    """Blurring diffusion."""

    preset: Literal["blurring"] = Field("blurring", description="the process")
    sigma_blur_max: float = Field(20.0, ge=0, description=_BLUR_MAX)
    blur_unit: BlurUnit = "pixels"
    blur_schedule: Annotated[str, named(BLUR_SCHEDULES)] = Field("sin_squared", description="how the blur grows")
    min_gain: float = Field(0.001, ge=0, lt=1, description="what blurring leaves of every frequency")
    logsnr_min: LogSNR = Field(-10.0, description=_AT_END)
    logsnr_max: LogSNR = Field(10.0, description=_AT_START)


class HeatDissipation(ProcessSection):
    """Inverse heat dissipation."""

    preset: Literal["heat_dissipation"] = Field("heat_dissipation", description="the process")
    sigma_blur_min: float = Field(0.5, gt=0, description=_BLUR_MIN)
    sigma_blur_max: float = Field(24.0, gt=0, description=_BLUR_MAX)
    blur_unit: BlurUnit = "pixels"
    sigma: float = Field(0.02, ge=0, description="the noise's standard deviation, for pixels in [-1, 1]")
    num_levels: int = Field(200, ge=2, description=_LEVELS)


class Cold(ProcessSection):
    """Cold diffusion."""

    preset: Literal["cold"] = Field("cold", description="the process")
    sigma_blur_min: float = Field(0.01, gt=0, description=_BLUR_MIN)
    sigma_blur_max: float = Field(1.0, gt=0, description=_BLUR_MAX)
    blur_unit: BlurUnit = "width"
    num_levels: int = Field(300, ge=2, description=_LEVELS)


class OwnProcess(ProcessSection):
    """A process of your own: a function of the section's other keys that returns a `bd.process.Process`."""

    model_config = ConfigDict(extra="allow")

    preset: Literal["own"] = Field("own", description="the process; may be left out beside class")
    class_name: ClassName = Field(description="package.name of the function, of a package in imports")

    def build(self) -> Process:
        """The `Process`."""
        process = call_object("class", self.class_name, **(self.model_extra or {}))
        if not isinstance(process, Process):
            raise UserError(f"class: {self.class_name} must return a Process. Received: a {type(process).__name__}")
        return process
