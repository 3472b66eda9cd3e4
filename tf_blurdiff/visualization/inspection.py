"""What a process or a model does, as numbers: diffused pictures, curves over time, trajectories, solver errors.

`plotting.py` draws them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import ArrayLike
from tqdm import tqdm

from tf_blurdiff.data import to_uint8
from tf_blurdiff.diffusion.dct import dct2, idct2
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.diffusion.process import PRESETS, Process
from tf_blurdiff.diffusion.samplers import SAMPLERS
from tf_blurdiff.errors import UserError, check_count
from tf_blurdiff.model import DiffusionModel

# Large pictures take memory.
_TIMES_AT_ONCE = 8


def families() -> dict[str, Process]:
    """`{name: Process}`: the presets, each with its published defaults."""
    return {name: preset() for name, preset in PRESETS.items()}


def diffused(process: Process, image: np.ndarray, times: ArrayLike) -> np.ndarray:
    """What a process makes of one picture; the noise is the same at all times, so that they can be compared.

    Args:
        process: a `Process`.
        image: float `[H, W, C]` in [-1, 1].
        times: floats `[T]` in [0, 1].

    Returns:
        uint8 `[T, H, W, C]`: z_t, clipped to what a picture can show.

    Example:
        >>> import tf_blurdiff as bd
        >>> diffused(bd.process.cold(), np.zeros((8, 8, 1), "float32"), [0.0, 0.5, 1.0]).shape
        (3, 8, 8, 1)
    """
    eps = np.random.default_rng(0).normal(size=(1, *image.shape)).astype(np.float32)
    x0 = tf.constant(image[None], tf.float32)
    all_times = np.asarray(times, np.float32)
    parts = [all_times[first : first + _TIMES_AT_ONCE] for first in range(0, len(all_times), _TIMES_AT_ONCE)]
    return np.concatenate([to_uint8(process.diffuse(x0, part, eps)).numpy() for part in parts])


class Curves(NamedTuple):
    """A process over time. `frequencies` are numbers of DCT coefficients along one axis; the other's is 0."""

    times: np.ndarray  # [T]
    a_t: np.ndarray  # [T]
    sigma_t: np.ndarray  # [T]
    blur_sigma: np.ndarray  # [T], in pixels
    frequencies: np.ndarray  # [F], from 0 (the mean) to width - 1
    log_alpha_squared: np.ndarray  # [T, F]: log alpha_t^2
    logsnr: np.ndarray  # [T, F]: log(alpha_t^2 / sigma_t^2); infinite without noise


def curves(process: Process, width: int, num_times: int = 201) -> Curves:
    """The `Curves` of a process for images `width` pixels wide, at evenly spaced times.

    Example:
        >>> import tf_blurdiff as bd
        >>> of = curves(bd.process.gaussian(), width=8)
        >>> of.frequencies.tolist(), of.logsnr.shape, round(float(of.logsnr[0, 0]), 3)
        ([0, 1, 2, 4, 7], (201, 5), 10.0)
    """
    times = np.linspace(0.0, 1.0, num_times, dtype=np.float32)
    powers = [2**k for k in range(int(math.log2(width)) + 1)]
    frequencies = np.unique([0, *(power for power in powers if power < width - 1), width - 1])
    marginal = process.marginal(times, 1, width)
    of_frequency = lambda values: ops.convert_to_numpy(values)[:, 0, frequencies, 0]
    return Curves(
        times,
        np.exp(ops.convert_to_numpy(marginal.log_a)[:, 0, 0, 0]),
        ops.convert_to_numpy(marginal.sigma)[:, 0, 0, 0],
        ops.convert_to_numpy(process.blur_sigma(times, width)),
        frequencies,
        of_frequency(2.0 * marginal.log_alpha),
        of_frequency(marginal.logsnr),
    )


class Trajectory(NamedTuple):
    """The reverse process of a model; pictures are uint8."""

    times: np.ndarray  # [T], decreasing from 1 to 0
    z_t: np.ndarray  # [T, B, H, W, C]
    chosen: np.ndarray  # [S]: places in times, the first and the last among them
    # [S - 1, B, H, W, C]: at all chosen times but the last; None if the network says nothing of x0
    x0_hat: np.ndarray | None


def trajectory(
    model: DiffusionModel,
    seeds: Sequence[int],
    num_times: int,
    labels: ArrayLike | None = None,
    verbose: bool = False,
    **sampling: Any,
) -> Trajectory:
    """How a model gets from noise to images.

    Args:
        model: a `DiffusionModel`.
        seeds: integers `[B]`.
        num_times: at how many of the steps' times, evenly chosen, to tell what the model takes the image for; at most
            all of them.
        labels: integers `[B]`, for a model with labels.
        verbose: whether to show a progress bar.
        **sampling: num_steps, sampler and grid of `DiffusionModel.sample`.

    Returns:
        A `Trajectory`. `x0_hat` is the estimate of the image that the step from z_t is made with.

    Raises:
        UserError: for an argument that is not allowed.
    """
    times = model.sampling_settings(**sampling).times(model.process)[:, 0]
    z_t = model.sample(seeds, labels=labels, return_trajectory=True, verbose=verbose, **sampling)
    chosen = np.unique(np.linspace(0, len(times) - 1, num_times).round().astype(int))
    x0_hat = None
    if not get_prediction(model.prediction).by_level:
        checked = model.conditions(labels, 1.0, len(seeds)).labels
        estimate = tf.function(lambda z_t, t: estimated_x0(model, z_t, t, checked), autograph=False)
        x0_hat = to_uint8(np.stack([estimate(z_t[i], tf.constant(times[i])) for i in chosen[:-1]])).numpy()
    return Trajectory(times, to_uint8(z_t).numpy(), chosen, x0_hat)


def estimated_x0(model: DiffusionModel, z_t: Any, t: Any, labels: Any) -> tf.Tensor:
    """What a model takes the image in `z_t` for, float32 `[B, H, W, C]`: within the data's spectrum, as sampling has
    it, and not clipped in pixels.

    Args:
        model: a `DiffusionModel`, whose prediction is not "less_blurred".
        z_t: `[B, H, W, C]`, pixel space.
        t: the time in (0, 1], a scalar.
        labels: int64 `[B]`, as `DiffusionModel.conditions` returns them.
    """
    t = tf.fill([len(labels)], tf.cast(t, tf.float32))
    at_t = model.process.marginal(t, *model.image_shape[:2])
    # Where a step goes does not matter to x0.
    return idct2(model.denoiser(dct2(z_t), t, at_t, at_t, labels).x0_freq)


class SolverError(NamedTuple):
    """The root mean square difference, per pixel on the scale of [-1, 1], to what the reference gives."""

    sampler: str
    grid: str
    num_steps: int
    error: float
    reference: str  # the sampler that was run in reference_steps
    reference_steps: int


def solver_errors(
    model: DiffusionModel,
    seeds: Sequence[int],
    num_steps: Sequence[int],
    reference_steps: int,
    grid: str | None = None,
    labels: ArrayLike | None = None,
    verbose: bool = False,
) -> list[SolverError]:
    """How far each deterministic sampler is from its limit, by its number of steps.

    ddim and the multistep samplers integrate one differential equation; where all of them are allowed, each is compared
    with multistep3 in many steps. Any other is compared with itself in many steps.

    Args:
        model: a `DiffusionModel` that can be sampled in any number of steps (not "less_blurred").
        seeds: integers `[B]`.
        num_steps: integers, each below reference_steps.
        reference_steps: integer.
        grid: of every sampler; None for each its own.
        labels: integers `[B]`, for a model with labels.
        verbose: whether to show a progress bar.

    Returns:
        A list of `SolverError`.

    Raises:
        UserError: for an argument that is not allowed.
    """
    for count in (*num_steps, reference_steps):
        check_count("num_steps", count)
    if max(num_steps) >= reference_steps:
        raise UserError(f"num_steps must be below reference_steps ({reference_steps}). Received: {max(num_steps)}")
    samplers = deterministic_samplers(model)
    references = ["multistep3"] if "multistep3" in samplers else samplers
    runs = [(name, count) for name in samplers for count in num_steps]
    runs += [(name, reference_steps) for name in references]
    for name, count in runs:
        model.sampling_settings(sampler=name, num_steps=count, grid=grid)  # An error comes before the work.
    images = {}
    with tqdm(total=sum(count for _, count in runs), desc="solvers", unit="step", disable=not verbose) as progress:
        for name, count in runs:
            progress.set_postfix_str(f"{name}, {count} steps")
            images[name, count] = model.sample(seeds, count, name, eta=0.0, labels=labels, grid=grid, delta=0.0)
            progress.update(count)
    errors = []
    for name, count in runs:
        reference = name if name in references else references[0]
        if count != reference_steps:
            difference = images[name, count] - images[reference, reference_steps]
            error = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
            errors.append(SolverError(name, grid or SAMPLERS[name].grid, count, error, reference, reference_steps))
    return errors


def deterministic_samplers(model: DiffusionModel) -> list[str]:
    """Names of the samplers that a model allows, draw no noise and can take any number of steps; a UserError if none
    can."""
    if get_prediction(model.prediction).by_level:
        raise UserError(
            f"this model's prediction {model.prediction!r} goes from level to level, in as many steps as there are "
            "levels; expected a model that can be sampled in any number of steps"
        )
    silent = [name for name, sampler in SAMPLERS.items() if not sampler.draws_noise(eta=0.0, delta=0.0)]
    return [name for name in silent if SAMPLERS[name].allowed(model.process, model.prediction)]
