"""Progressive distillation: a student learns to do in one step what its teacher does in several.

Reference: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022; here for each
frequency.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from tf_blurdiff.diffusion.process import Marginal
from tf_blurdiff.diffusion.samplers import SamplingSettings, first_state, get_sampler, run_steps
from tf_blurdiff.model.averages import learnable

# Deterministic: where it goes depends on where it starts alone.
_SAMPLER = "ddim"
# Those whose half as many steps are every second time.
DISTILLATION_GRIDS = ("uniform", "quadratic")


def image_of_step(z_t_freq: Any, z_s_freq: Any, at_t: Marginal, at_s: Marginal) -> Any:
    """The image with which a deterministic step from t to s goes from one state to the other, in the DCT basis.

    `x = (u_s - (sigma_s / sigma_t) u_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)`; the divisor, above 0 because the
    signal-to-noise ratio falls with time in every frequency, is `-alpha_s expm1((logsnr_t - logsnr_s) / 2)`.

    Args:
        z_t_freq, z_s_freq: states, `[B, H, W, C]`.
        at_t, at_s: the process's `Marginal` at t and at s < t.

    Returns:
        `[B, H, W, C]`.

    Reference: Salimans and Ho, 2022, appendix G, without blur.
    """
    without_noise = z_s_freq - ops.exp(at_s.log_sigma - at_t.log_sigma) * z_t_freq
    return -without_noise / ops.expm1(0.5 * (at_t.logsnr - at_s.logsnr)) * ops.exp(-at_s.log_alpha)


class Lesson:
    """What a student of so many steps learns: the image with which its one step lands where several of the teacher do.

    Args:
        teacher: a `DiffusionModel`; its averaged weights teach.
        num_steps: of the student.
        steps_in_one: how many of the teacher's steps are one of the student's.
        guidance_scale: of the teacher, 1 for none; then the student's own labels are guided.
        grid: of both.
    """

    def __init__(
        self,
        teacher: Any,
        num_steps: int,
        steps_in_one: int = 2,
        guidance_scale: float = 1.0,
        grid: str = "uniform",
    ) -> None:
        self._teacher = teacher
        self._steps_in_one = steps_in_one
        self._guidance_scale = guidance_scale
        times = SamplingSettings(_SAMPLER, steps_in_one * num_steps, grid).times(teacher.process)[:, 0]
        # [steps_in_one + 1, num_steps]: the teacher's times in each of the student's steps, of which one ends where the
        # next begins.
        self._steps = np.concatenate([times[:-1].reshape(num_steps, -1).T, times[None, steps_in_one::steps_in_one]])

    def time(self, uniform: Any) -> Any:
        """The start of one of the student's steps, for numbers in [0, 1)."""
        starts = self._steps[0]
        number = ops.cast(uniform * len(starts), "int32")
        return tf.gather(starts, ops.minimum(number, len(starts) - 1))

    def image(self, z_freq: Any, t: Any, label: Any = None) -> Any:
        """The image to learn at states `[B, H, W, C]` and starts of steps `[B]`, in the DCT basis."""
        process, size = self._teacher.process, self._teacher.image_shape[:2]
        number = ops.argmin(ops.abs(t[:, None] - self._steps[0]), axis=1)
        times = tf.gather(self._steps, number, axis=1)
        scale = None if self._guidance_scale == 1.0 else ops.full_like(t, self._guidance_scale)
        z_s_freq, *_ = run_steps(
            get_sampler(_SAMPLER),
            lambda *state_and_time: self._teacher.denoiser(*state_and_time, label, scale),
            process,
            lambda i: 0.0,
            first_state(z_freq, get_sampler(_SAMPLER)),
            times,
            0,
            self._steps_in_one,
        )
        at_t, at_s = process.marginal(times[0], *size), process.marginal(times[-1], *size)
        return ops.stop_gradient(image_of_step(z_freq, z_s_freq, at_t, at_s))


def student_of(
    teacher: Any,
    num_steps: int,
    steps_in_one: int = 2,
    guidance_scale: float = 1.0,
    grid: str = "uniform",
    **arguments: Any,
) -> Any:
    """A model with the teacher's averaged weights that is to learn to sample in so many steps.

    Args:
        teacher: a `DiffusionModel` that samples well in `steps_in_one * num_steps` steps of ddim.
        num_steps: of the student.
        steps_in_one: how many of the teacher's steps are one of the student's.
        guidance_scale: of the teacher; the student has it built in. 1 for a teacher that is a student itself.
        grid: "uniform" or "quadratic"; a teacher that is a student itself has its own.
        **arguments: of the student's training: ema_decay, clip_norm, seed.

    Returns:
        A `DiffusionModel` whose `lesson` its training follows.
    """
    known = guidance_scale
    if teacher.distilled_guidance is not None:  # It knows its own times alone.
        known, grid = teacher.distilled_guidance, teacher.grid
    own = {"sampler": _SAMPLER, "num_steps": num_steps, "grid": grid, "distilled_guidance": known}
    student = type(teacher).from_config({**teacher.get_config(), **own, **arguments})
    for variable, value in zip(student.sampling_variables, teacher.sampling_variables, strict=True):
        variable.assign(value)
    for weight, average in zip(learnable(student.network), student.averages, strict=True):
        weight.assign(average)
    student.lesson = Lesson(teacher, num_steps, steps_in_one, guidance_scale, grid)
    return student
