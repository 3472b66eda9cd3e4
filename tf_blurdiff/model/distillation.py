"""Progressive distillation: a student learns to do in one step what its teacher does in two.

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

# Deterministic: where it goes depends on where it starts alone. Its grid of half as many steps is every second time.
_SAMPLER, _GRID = "ddim", "uniform"


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
    """What a student of so many steps learns: the image with which its one step lands where two of the teacher do.

    Args:
        teacher: a `DiffusionModel`; its averaged weights teach.
        num_steps: of the student; the teacher takes twice as many.
        guidance_scale: of the teacher, 1 for none; then the student's own labels are guided.
    """

    def __init__(self, teacher: Any, num_steps: int, guidance_scale: float = 1.0) -> None:
        self._teacher = teacher
        self._guidance_scale = guidance_scale
        times = SamplingSettings(_SAMPLER, 2 * num_steps, _GRID).times(teacher.process)[:, 0]
        # [3, num_steps]: start, middle and end of each of the student's steps.
        self._steps = np.stack([times[:-1:2], times[1::2], times[2::2]])

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
            2,
        )
        at_t, at_s = process.marginal(times[0], *size), process.marginal(times[2], *size)
        return ops.stop_gradient(image_of_step(z_freq, z_s_freq, at_t, at_s))


def student_of(teacher: Any, num_steps: int, guidance_scale: float = 1.0, **arguments: Any) -> Any:
    """A model with the teacher's averaged weights that is to learn to sample in so many steps.

    Args:
        teacher: a `DiffusionModel` that samples well in twice as many steps of ddim.
        num_steps: of the student.
        guidance_scale: of the teacher; the student has it built in. 1 for a teacher that is a student itself.
        **arguments: of the student's training: ema_decay, clip_norm, seed.

    Returns:
        A `DiffusionModel` whose `lesson` its training follows.
    """
    own = {"sampler": _SAMPLER, "num_steps": num_steps, "grid": _GRID}
    own["distilled_guidance"] = guidance_scale if teacher.distilled_guidance is None else teacher.distilled_guidance
    student = type(teacher).from_config({**teacher.get_config(), **own, **arguments})
    for variable, value in zip(student.sampling_variables, teacher.sampling_variables, strict=True):
        variable.assign(value)
    for weight, average in zip(learnable(student.network), student.averages, strict=True):
        weight.assign(average)
    student.lesson = Lesson(teacher, num_steps, guidance_scale)
    return student
