"""The reverse process of a model: from seeds to images.

`ReverseProcess` is what is traced, and what the export and `generation` trace within their own graphs; `draw_images`
runs it batch by batch, from whatever it starts.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import ArrayLike
from tqdm import tqdm

from tf_blurdiff.compilation import is_wanted
from tf_blurdiff.diffusion.dct import dct2, idct2
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.diffusion.samplers import SamplingSettings, first_state, get_sampler, run_steps
from tf_blurdiff.diffusion.stateless_random import SeededNoise
from tf_blurdiff.errors import UserError, check_count
from tf_blurdiff.model.arguments import checked_images, checked_seeds, checked_strength
from tf_blurdiff.model.denoiser import Denoiser, InverseProblem

# A batch of this many pixels (64 images of 32x32) fits any machine that can train the network.
_PIXELS_PER_BATCH = 64 * 32 * 32
# How often a progress bar moves while one batch is sampled.
_PROGRESS_BLOCKS = 20
# A seed's sequences of noise: step i has number i + 1.
_NOISE_AT_START, _PRIOR, _PRIOR_CHOICE = 0, -1, -2
# Without noise, what breaks the symmetry of a constant image (Bansal et al., 2022).
_SYMMETRY_BREAKING = 0.002


class Conditions(NamedTuple):
    """What images are asked for: labels int64 `[B]` (num_classes for none), guidance scales float32 `[B]`."""

    labels: Any
    guidance_scale: Any


class RestorationArguments(TypedDict, total=False):
    """Arguments of `DiffusionModel.sample` that every method of restoring takes too."""

    num_steps: int | None
    sampler: str | None
    eta: float
    labels: ArrayLike | None
    guidance_scale: ArrayLike
    grid: str | None
    batch_size: int | None
    return_trajectory: bool
    verbose: bool


class MixtureArguments(RestorationArguments, total=False):
    """Arguments of `DiffusionModel.sample` that images between seeds take too."""

    delta: float | None


class ReverseProcess:
    """From noise, or from what blur leaves of the data, to images: traced once for any number of images and steps.

    Args:
        process: a `Process`.
        image_shape: (H, W, C).
        denoiser: a `Denoiser`.
        prior: `(normals [B, H, W, C], choice [B, 1], labels [B]) -> [B, H, W, C]` in the DCT basis, what blur leaves of
            the data, for a process that does not end in noise.
    """

    def __init__(
        self,
        process: Process,
        image_shape: tuple[int, int, int],
        denoiser: Denoiser,
        prior: Callable[[Any, Any, Any], Any] | None,
    ) -> None:
        self.process = process
        self.image_shape = image_shape
        self.denoiser = denoiser
        self.prior = prior

    def start(self, noise: SeededNoise, labels: Any) -> Any:
        """The state at t = 1, `[B, H, W, C]` in the DCT basis, for int64 labels `[B]`."""
        return _traced(self._start, noise, labels)

    def start_from(self, images: Any, t: Any, noise: SeededNoise) -> Any:
        """Images `[B, H, W, C]` in [-1, 1], diffused to times t, `[B]` or `[1]`, in the DCT basis."""
        return _traced(self._start_from, images, t, noise)

    def advance(
        self,
        state: tuple,
        noise: SeededNoise,
        conditions: Conditions,
        times: Any,
        first: Any,
        last: Any,
        settings: SamplingSettings,
        measured: InverseProblem | None = None,
        compile: bool = False,
    ) -> tuple:
        """The state after step `last - 1` of the grid, from that before step `first`.

        Args:
            state: from `samplers.first_state` or from an earlier call.
            noise: of the steps.
            conditions: of the images.
            times: float32 `[num_steps + 1, 1 or B]`, decreasing.
            first, last: int32 scalars.
            settings: of them, the sampler with its eta and delta; steps and grid are in times.
            measured: what every estimate of x0 is made consistent with, or None.
            compile: whether the steps run through XLA.
        """
        how = settings.sampler, settings.eta, settings.delta, compile
        return _traced(self._advance, state, noise, conditions, times, first, last, measured, static=how)

    def draw(
        self,
        seeds: Any,
        noise_seeds: Any,
        conditions: Conditions,
        times: Any,
        settings: SamplingSettings,
        images: Any = None,
        measured: InverseProblem | None = None,
        compile: bool = False,
    ) -> Any:
        """Whole images, for graphs: what `DiffusionModel.sample` draws, without its checks.

        Args:
            seeds, noise_seeds: int64 `[B]`, of the start and of the steps.
            conditions, times, settings, measured, compile: as in `advance`. An export is not compiled.
            images: float32 `[B, H, W, C]` in [-1, 1], to start from at times[0]; None for noise or the prior.

        Returns:
            float32 `[B, H, W, C]` in [-1, 1].
        """
        noise = SeededNoise(seeds)
        start = self.start(noise, conditions.labels) if images is None else self.start_from(images, times[0], noise)
        state = first_state(start, get_sampler(settings.sampler))
        whole = tf.constant(0), tf.shape(times)[0] - 1
        state = self.advance(state, SeededNoise(noise_seeds), conditions, times, *whole, settings, measured, compile)
        return tf.clip_by_value(idct2(state[0]), -1.0, 1.0)

    @tf.function(autograph=False)
    def _start(self, noise, labels):
        normals = noise.draw(_NOISE_AT_START, self.image_shape)
        if self.process.ends_in_noise:
            return normals
        of_prior, choice = noise.draw(_PRIOR, self.image_shape), noise.draw(_PRIOR_CHOICE, (1,))
        sigma = self.process.marginal([1.0], *self.image_shape[:2]).sigma
        assert self.prior is not None
        return self.prior(of_prior, choice, labels) + ops.maximum(sigma, _SYMMETRY_BREAKING) * normals

    @tf.function(autograph=False)
    def _start_from(self, images, t, noise):
        at_t = self.process.marginal(t, *self.image_shape[:2])
        return at_t.alpha * dct2(images) + at_t.sigma * noise.draw(_NOISE_AT_START, self.image_shape)

    @tf.function(autograph=False)
    def _advance(self, state, noise, conditions, times, first, last, measured, sampler, eta, delta, compile):
        labels, guidance_scale = conditions
        return run_steps(
            get_sampler(sampler),
            lambda z_freq, t, at_t, at_s: self.denoiser(z_freq, t, at_t, at_s, labels, guidance_scale, measured),
            self.process,
            lambda i: noise.draw(i + 1, self.image_shape),
            state,
            times,
            first,
            last,
            eta,
            delta,
            compile,
        )


def _traced(function, *arguments, static=()):
    """Calls a tf.function, which is traced for tensors with any number of rows before it sees the first.

    Of its own accord TensorFlow would trace for the very shapes that come, and again when others do.
    """
    arguments = tf.nest.map_structure(lambda each: None if each is None else tf.convert_to_tensor(each), arguments)
    if not tf.config.functions_run_eagerly():
        function.get_concrete_function(*tf.nest.map_structure(_any_rows, arguments), *static)
    return function(*arguments, *static)


def _any_rows(tensor):
    if tensor is None:
        return None
    # Of two dimensions there are only times, [num_steps + 1, 1 or B].
    rows = tensor.shape.rank if tensor.shape.rank < 3 else 1
    return tf.TensorSpec([None] * rows + tensor.shape[rows:].as_list(), tensor.dtype)


def draw_images(
    model: Any,
    start: Callable,
    noise: SeededNoise,
    *,
    num_steps: int | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    labels: Any = None,
    guidance_scale: Any = 1.0,
    grid: str | None = None,
    delta: float | None = None,
    strength: float = 1.0,
    measured: InverseProblem | None = None,
    batch_size: int | None = None,
    return_trajectory: bool = False,
    verbose: bool = False,
) -> np.ndarray:
    """What sampling and restoring come to: one image for each row of `noise`, from a start of any kind.

    Args:
        model: a `DiffusionModel`.
        start: `(rows, labels, first time [1]) -> state [B, H, W, C]` in the DCT basis, for a slice of the rows.
        noise: of the steps.
        measured: what every estimate of x0 is made consistent with, or None.
        num_steps, sampler, eta, labels, guidance_scale, grid, delta, strength, batch_size, return_trajectory, verbose:
            as in `DiffusionModel.sample`.

    Returns:
        As `DiffusionModel.sample`.
    """
    count = len(noise.seeds)
    settings = model.sampling_settings(sampler=sampler, num_steps=num_steps, grid=grid, eta=eta, delta=delta)
    times = times_from(model, settings, checked_strength(strength))
    conditions = model.conditions(labels, guidance_scale, count)
    block = 1 if return_trajectory else -(-(len(times) - 1) // _PROGRESS_BLOCKS) if verbose else len(times) - 1
    batch_size = images_at_once(model, batch_size)
    compile = is_wanted(model.compiling, calls=math.ceil(count / batch_size) * (len(times) - 1))
    advance = functools.partial(model.reverse_process.advance, compile=compile)
    batches = []
    with tqdm(total=count * (len(times) - 1), disable=not verbose, desc="sampling", unit="step") as progress:
        for first_row in range(0, count, batch_size):
            rows = slice(first_row, first_row + batch_size)
            z_freq = start(rows, conditions.labels[rows], times[0])
            own_noise, own_conditions, own_measured = (_rows_of(each, rows) for each in (noise, conditions, measured))
            steps_from = functools.partial(advance, noise=own_noise, conditions=own_conditions, measured=own_measured)
            states = _states(steps_from, z_freq, times, settings, block)
            images = [idct2(z_freq).numpy()] if return_trajectory else []
            for steps, state in states:
                progress.update(len(z_freq) * steps)
                if return_trajectory:
                    images.append(idct2(state[0]).numpy())
            batches.append(images if return_trajectory else [idct2(state[0]).numpy()])
    images = [np.concatenate(parts) for parts in zip(*batches)]
    return np.stack(images) if return_trajectory else np.clip(images[0], -1.0, 1.0)


def _states(steps_from, z_freq, times, settings, block):
    """The steps taken and the state, after each block of steps."""
    state, num_steps = first_state(z_freq, get_sampler(settings.sampler)), len(times) - 1
    for first in range(0, num_steps, block):
        last = min(first + block, num_steps)
        state = steps_from(state, times=times, first=first, last=last, settings=settings)
        yield last - first, state


def _rows_of(tensors, rows):
    return tf.nest.map_structure(lambda each: None if each is None else each[rows], tensors)


def times_from(model: Any, settings: SamplingSettings, strength: float) -> np.ndarray:
    """The times from t = strength to 0, float32 `[num_steps + 1, 1]`; of the model's levels or steps if it has such."""
    if not get_prediction(model.prediction).by_level and model.distilled_guidance is None:
        return settings.times(model.process, strength)
    times = settings.times(model.process)
    return times[np.argmin(np.abs(times[:-1] - strength)) :]


def images_at_once(model: Any, batch_size: int | None = None) -> int:
    """The batch size as it is given, or else one that fits; or a UserError."""
    if batch_size is None:
        return max(1, _PIXELS_PER_BATCH // math.prod(model.image_shape[:2]))
    check_count("batch_size", batch_size)
    return batch_size


def sample(
    model: Any,
    seeds: Any,
    noise_seeds: Any = None,
    images: Any = None,
    strength: float = 1.0,
    **sampling: Unpack[MixtureArguments],
) -> np.ndarray:
    """`DiffusionModel.sample`."""
    seeds = checked_seeds(seeds)
    noise_seeds = seeds if noise_seeds is None else checked_seeds(noise_seeds, "noise_seeds", len(seeds))
    if images is None:
        if strength != 1.0:
            raise UserError(f"strength is for images that are given; without, it is 1. Received: {strength!r}")
        model.check_prior()
        return draw_images(model, start_of(model, seeds), SeededNoise(noise_seeds), **sampling)
    images = checked_images(images, model.image_shape, len(seeds))

    def start(rows, labels, t):
        return model.reverse_process.start_from(images[rows], t, SeededNoise(seeds[rows]))

    return draw_images(model, start, SeededNoise(noise_seeds), strength=strength, **sampling)


def start_of(model: Any, seeds: np.ndarray) -> Callable:
    """The `start` of `draw_images` for seeds."""
    return lambda rows, labels, t: model.reverse_process.start(SeededNoise(seeds[rows]), labels)
