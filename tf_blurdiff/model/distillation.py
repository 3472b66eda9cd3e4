"""Progressive distillation: a student learns to do in one step what its teacher does in several.

Reference: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022; here for each
frequency.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from tf_blurdiff.diffusion.predictions import LEAST_STD
from tf_blurdiff.diffusion.samplers import SamplingSettings, first_state, get_sampler, run_steps
from tf_blurdiff.errors import check_count, one_of
from tf_blurdiff.model.averages import learnable
from tf_blurdiff.model.copies import lasting_variables
from tf_blurdiff.model.priors import UNKNOWN_STD
from tf_blurdiff.networks import UNet

# A student's. It is deterministic, as the teacher's have to be: where it goes depends on where it starts alone.
_SAMPLER = "ddim"
# A model's that is no student, where it fits its process: as many steps end much nearer to where many more would.
_OF_SECOND_ORDER = "multistep2"
# Those whose half as many steps are every second time; the first is the default.
DISTILLATION_GRIDS = ("quadratic", "uniform")


class Lesson:
    """What a student of so many steps learns: to land with one step where several of the teacher's do.

    Args:
        teacher: a `DiffusionModel`; its averaged weights teach.
        num_steps: of the student.
        steps_in_one: how many of the teacher's steps are one of the student's.
        guidance_scale: of the teacher, 1 for none; then the student's own labels are guided.
        grid: of both.
        sampler: of the teacher's steps, a deterministic one; each of the student's steps begins anew with it.

    Attributes:
        sampler: its name.
    """

    def __init__(
        self,
        teacher: Any,
        num_steps: int,
        steps_in_one: int = 2,
        guidance_scale: float = 1.0,
        grid: str = DISTILLATION_GRIDS[0],
        sampler: str = _SAMPLER,
    ) -> None:
        self._teacher = teacher
        self._steps_in_one = steps_in_one
        self._guidance_scale = guidance_scale
        self.sampler = sampler
        times = SamplingSettings(sampler, steps_in_one * num_steps, grid).times(teacher.process)[:, 0]
        # [steps_in_one + 1, num_steps]: the teacher's times in each of the student's steps, of which one ends where the
        # next begins.
        self._steps = np.concatenate([times[:-1].reshape(num_steps, -1).T, times[None, steps_in_one::steps_in_one]])

    def time(self, uniform: Any) -> Any:
        """The start of one of the student's steps, for numbers in [0, 1)."""
        starts = self._steps[0]
        number = ops.cast(uniform * len(starts), "int32")
        return tf.gather(starts, ops.minimum(number, len(starts) - 1))

    def landing(self, z_freq: Any, t: Any, label: Any = None) -> Any:
        """Where the teacher's steps end, `[B, H, W, C]`, from states at starts of the student's steps `[B]`."""
        scale = None if self._guidance_scale == 1.0 else ops.full_like(t, self._guidance_scale)
        sampler = get_sampler(self.sampler)
        z_s_freq, *_ = run_steps(
            sampler,
            lambda *state_and_time: self._teacher.denoiser(*state_and_time, label, scale),
            self._teacher.process,
            lambda i: 0.0,
            first_state(z_freq, sampler),
            self._times(t),
            0,
            self._steps_in_one,
        )
        return ops.stop_gradient(z_s_freq)

    def error(self, x0_freq: Any, z_freq: Any, t: Any, label: Any = None) -> Any:
        """How far from there a step with these images lands, as far as it will matter in the image.

        The steps that follow make of an error in the state one in the image. Were the data Gaussian, that would be, in
        units of the data's own std for each frequency, the error over `sqrt(alpha_s^2 std^2 + sigma_s^2)`. Times
        `sqrt(std)` it is half way from units of the data to those of the image.

        Args:
            x0_freq: what the student takes the images for, `[B, H, W, C]`, in the DCT basis.
            z_freq: the states, `[B, H, W, C]`.
            t: the times of the states, starts of the student's steps, `[B]`.
            label: int `[B]`, if the teacher takes labels.

        Returns:
            `[B, H, W, C]`.
        """
        times, size = self._times(t), self._teacher.image_shape[:2]
        at_t, at_s = (self._teacher.process.marginal(time, *size) for time in (times[0], times[-1]))
        # alpha_s x0 + sigma_s (u_t - alpha_t x0) / sigma_t, less the landing.
        of_image = -ops.expm1(0.5 * (at_t.logsnr - at_s.logsnr)) * at_s.alpha
        of_state = ops.exp(at_s.log_sigma - at_t.log_sigma)
        difference = of_image * x0_freq + of_state * z_freq - self.landing(z_freq, t, label)
        std = self._teacher.freq_std
        std = ops.where(std < UNKNOWN_STD, ops.maximum(std, LEAST_STD), 1.0)
        log_deviation = 0.5 * ops.logaddexp(2.0 * (at_s.log_alpha + ops.log(std)), 2.0 * at_s.log_sigma)
        return ops.exp(0.5 * ops.log(std) - log_deviation) * difference

    def _times(self, t):
        """Those of the teacher's steps from t on, of each row: `[steps_in_one + 1, B]`."""
        number = ops.argmin(ops.abs(t[:, None] - self._steps[0]), axis=1)
        return tf.gather(self._steps, number, axis=1)


def student_of(
    teacher: Any,
    num_steps: int,
    steps_in_one: int = 2,
    guidance_scale: float = 1.0,
    grid: str = DISTILLATION_GRIDS[0],
    **arguments: Any,
) -> Any:
    """A model with the teacher's averaged weights that is to learn to sample in so many steps.

    A U-Net learns without dropout, since what it learns is a function of what it is given, and there is no end of it.

    Args:
        teacher: a `DiffusionModel` that samples well in `steps_in_one * num_steps` steps, of multistep2 where that fits
            its process, and of ddim if not, or if it is a student itself.
        num_steps: of the student.
        steps_in_one: how many of the teacher's steps are one of the student's.
        guidance_scale: of the teacher; the student has it built in. 1 for a teacher that is a student itself.
        grid: "quadratic" or "uniform"; a teacher that is a student itself has its own.
        **arguments: of the student's training: ema_decay, clip_norm, seed.

    Returns:
        A `DiffusionModel` whose `lesson` its training follows.

    Raises:
        UserError: for steps_in_one below 2, another grid, a guidance scale that the teacher cannot have, and one for a
            teacher that is a student itself.
    """
    check_count("steps_in_one", steps_in_one, 2)
    one_of("grid", grid, DISTILLATION_GRIDS)
    if guidance_scale != 1.0:  # Refuses what cannot be.
        teacher.conditions([0] if teacher.num_classes else None, guidance_scale, 1)
    known, sampler = guidance_scale, _SAMPLER
    if get_sampler(_OF_SECOND_ORDER).allowed(teacher.process, teacher.prediction):
        sampler = _OF_SECOND_ORDER
    if teacher.distilled_guidance is not None:  # It knows its own times alone.
        known, grid, sampler = teacher.distilled_guidance, teacher.grid, _SAMPLER
    own = {"sampler": _SAMPLER, "num_steps": num_steps, "grid": grid, "distilled_guidance": known}
    settings = teacher.get_config()
    if isinstance(teacher.network, UNet):
        settings["network"]["config"]["dropout"] = 0.0
    student = type(teacher).from_config({**settings, **own, **arguments})
    for variable, value in zip(lasting_variables(student), lasting_variables(teacher), strict=True):
        variable.assign(value)
    for weight, average in zip(learnable(student.network), student.averages, strict=True):
        weight.assign(average)
    student.lesson = Lesson(teacher, num_steps, steps_in_one, guidance_scale, grid, sampler)
    return student
