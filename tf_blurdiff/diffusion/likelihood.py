"""The variational bound on the negative log-likelihood of images, in bits per dimension.

The bound has three parts, and in the DCT basis the first two are sums over coefficients:

- prior: `KL(q(u_1 | x) || N(0, I))`, what is left of the image at t = 1;
- diffusion: the sum over the steps of a grid of `KL(q(u_s | u_t, x) || p(u_s | u_t))`, what the network gets wrong;
- reconstruction: `-log p(x | z_0)`, from the last noise to one of the 256 levels of a pixel.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import numpy as np
import tensorflow as tf
from keras import ops
from tqdm import tqdm

from tf_blurdiff.diffusion.bound_terms import LEVELS_PER_UNIT, diffusion_terms, prior_terms, reconstruction_terms
from tf_blurdiff.diffusion.dct import dct2, laplacian_eigenvalues
from tf_blurdiff.diffusion.grids import get_grid
from tf_blurdiff.diffusion.predictions import Estimate
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.diffusion.stateless_random import fold, normal_by_seed
from tf_blurdiff.errors import UserError, check_count

# How far from a level a pixel may be, in levels: float32 is 30 times more exact, float16 is not.
_LEVEL_TOLERANCE = 1e-3
# How often a progress bar moves in one batch.
_PROGRESS_BLOCKS = 20
# What an image draws, each from a sequence of its own.
_STEPS, _NOISE, _NOISE_AT_0 = range(3)


class Bound(NamedTuple):
    """The variational bound of N images, float64 arrays in bits per dimension (that is, per pixel and channel)."""

    total: np.ndarray  # [N], the sum of the next three
    prior: np.ndarray  # [N]
    diffusion: np.ndarray  # [N]
    reconstruction: np.ndarray  # [N]
    bands: np.ndarray  # [num_bands + 1], edges of radial frequency, where 1 is the highest along an axis
    spectrum: np.ndarray  # [N, num_bands]: how prior + diffusion is divided among the bands; a row sums to it


class BoundArguments(TypedDict, total=False):
    """Arguments of `bits_per_dimension` that are not of the images or of the model."""

    num_steps: int
    num_times: int | None
    grid: str
    seed: int
    batch_size: int
    num_bands: int
    verbose: bool


class _Times(NamedTuple):
    """A grid, how many of its steps are looked at for each image, and the seed that chooses them and the noise."""

    num_steps: int
    num_times: int
    seed: int
    edges: np.ndarray  # the grid, float32 [num_steps + 1], from 0 up

    @property
    def part(self) -> int:
        """Steps in one of the num_times equal parts of the grid, of which one is looked at."""
        return self.num_steps // self.num_times


def bits_per_dimension(
    images: Any,
    process: Process,
    denoiser: Callable[..., Estimate],
    num_steps: int = 1000,
    num_times: int | None = None,
    grid: str = "logsnr",
    seed: int = 0,
    batch_size: int = 64,
    num_bands: int = 8,
    conditions: tuple = (),
    verbose: bool = False,
) -> Bound:
    """The variational bound on the negative log-likelihood of 8-bit images, an estimate from random noise.

    What is drawn for an image is a function of `seed` and of the image's number in `images` alone.

    Args:
        images: float array `[N, H, W, C]` of 8-bit pixels, scaled to [-1, 1].
        process: a `Process` that ends in noise.
        denoiser: `(z_freq, t, at_t, at_s, *conditions) -> predictions.Estimate`, of which `x0_freq` is used. It is
            traced. z_freq is float32 `[B, H, W, C]` in the DCT basis and t float32 `[B]` in (0, 1]; at_t and at_s are
            the process's `Marginal` at t and at the grid's next time s < t.
        num_steps: steps of the grid. The bound is that of ancestral sampling in these steps, and with an exact denoiser
            it falls towards the likelihood as they grow: bounds are compared at one num_steps and grid.
        num_times: at how many of these steps the denoiser is called, a divisor of num_steps: one at random in each of
            num_times equal parts of the grid, for each image its own. Fewer are faster and vary more; the expectation
            is the same. None is all.
        grid: the steps' times, "logsnr", "quadratic" or "uniform"; see `grids`. In 1,000 steps and with an exact
            denoiser, "logsnr" comes closest to the likelihood.
        seed: integer of 64 bits.
        batch_size: images in memory at once.
        num_bands: of the spectrum, equally wide in radial frequency.
        conditions: arrays `[N, ...]`, such as labels, whose rows go to denoiser.
        verbose: whether to show a progress bar.

    Returns:
        A `Bound`.

    Raises:
        UserError: for a process that does not end in noise, for images that are not 8-bit, and for other arguments that
            are not allowed.

    Example:
        >>> import tf_blurdiff as bd
        >>> from tf_blurdiff.diffusion.predictions import Estimate
        >>> def guess_grey(z_freq, t, at_t, at_s):
        ...     return Estimate(x0_freq=0.0 * z_freq, eps_freq=None, mean_freq=None)
        >>> images = np.random.default_rng(0).integers(0, 256, size=(2, 8, 8, 1)) / 127.5 - 1.0
        >>> bound = bits_per_dimension(images, bd.process.blurring(sigma_blur_max=4.0), guess_grey, num_steps=20)
        >>> bound.total.shape, bound.spectrum.shape
        ((2,), (2, 8))
        >>> bool(np.allclose(bound.spectrum.sum(axis=1), bound.prior + bound.diffusion))
        True

    Reference: Kingma et al., Variational Diffusion Models, 2021, section 4 and appendix E, for each frequency;
    Ho et al., Denoising Diffusion Probabilistic Models, 2020, section 3.3, for the discretised Gaussian.
    """
    _check_process(process)
    times = _checked_times(num_steps, num_times, seed, grid, process)
    check_count("batch_size", batch_size)
    check_count("num_bands", num_bands)
    images = _checked_images(images)
    conditions = _checked_conditions(conditions, len(images))
    with tqdm(total=len(images) * times.num_times, disable=not verbose, desc="likelihood", unit="step") as progress:
        nats = _terms(images, process, denoiser, times, batch_size, conditions, progress)
    # From here on in float64, and in bits per dimension.
    prior, diffusion, reconstruction = (each / (math.log(2.0) * math.prod(images.shape[1:])) for each in nats)
    height, width = images.shape[1:3]
    bands, number_of_band = _bands(height, width, num_bands)
    of_band = np.arange(num_bands) == number_of_band[:, :, None]
    spectrum = np.einsum("bhw,hwk->bk", prior + diffusion, of_band.astype(np.float64))
    prior, diffusion, reconstruction = (each.sum(axis=(1, 2)) for each in (prior, diffusion, reconstruction))
    return Bound(prior + diffusion + reconstruction, prior, diffusion, reconstruction, bands, spectrum)


def _terms(images, process, denoiser, times, batch_size, conditions, progress):
    """Prior, diffusion and reconstruction in nats, summed over channels: three of float64 `[N, H, W]`."""
    add_diffusion, other_terms = _traced(images, process, denoiser, times, conditions)
    block = times.num_times if progress.disable else -(-times.num_times // _PROGRESS_BLOCKS)
    results = []
    for first_row in range(0, len(images), batch_size):
        batch = images[first_row : first_row + batch_size]
        rows = np.arange(first_row, first_row + len(batch))
        of_rows = tuple(each[rows] for each in conditions)
        diffusion = np.zeros_like(batch)
        for first in range(0, times.num_times, block):
            last = min(first + block, times.num_times)
            diffusion = add_diffusion(diffusion, batch, rows, of_rows, np.int32(first), np.int32(last))
            progress.update(len(batch) * (last - first))
        prior, reconstruction = other_terms(batch, rows)
        terms = prior, times.part * diffusion, reconstruction
        results.append([np.asarray(each, np.float64).sum(axis=-1) for each in terms])
    return [np.concatenate(batches) for batches in zip(*results)]


def _traced(images, process, denoiser, times, conditions):
    """The two functions that work on a batch, traced once for batches of all sizes."""
    batch = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    rows, number = tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.int32)
    of_rows = tuple(tf.TensorSpec((None, *each.shape[1:]), each.dtype) for each in conditions)

    def add_diffusion(total, images, rows, conditions, first, last):
        return _add_diffusion(total, images, rows, conditions, first, last, process, denoiser, times)

    def other_terms(images, rows):
        return _other_terms(images, rows, process, times.seed)

    # Concrete functions, because TensorFlow warns of tracing where a tf.function is made in each of several calls.
    trace = lambda function, *specs: tf.function(function, autograph=False).get_concrete_function(*specs)
    return trace(add_diffusion, batch, batch, rows, of_rows, number, number), trace(other_terms, batch, rows)


def _add_diffusion(total, images, rows, conditions, first, last, process, denoiser, times):
    """`total` and the diffusion terms at the images' times number `first` to `last - 1`, `[B, H, W, C]`."""
    shape = images.shape[1:]
    x0_freq, steps = dct2(images), _chosen_steps(rows, times)

    def body(i, total):
        step = ops.take(steps, i, axis=1)
        t, s = ops.take(times.edges, step + 1), ops.take(times.edges, step)
        at_t, at_s = (process.marginal(time, *shape[:2]) for time in (t, s))
        eps_freq = normal_by_seed(rows, _stream(times.seed, _NOISE, i), shape)
        x0_hat_freq = denoiser(at_t.alpha * x0_freq + at_t.sigma * eps_freq, t, at_t, at_s, *conditions).x0_freq
        if x0_hat_freq is None:
            raise UserError("bits per dimension need an estimate of the image; this prediction has none")
        return i + 1, total + diffusion_terms(x0_freq, x0_hat_freq, at_t, at_s)

    return ops.while_loop(lambda i, _: i < last, body, (first, total))[1]


def _chosen_steps(rows, times):
    """Numbers of the steps to look at, one in each part of the grid, int32 `[B, num_times]`."""
    seed = fold(_pair(times.seed), _STEPS)
    spec = tf.TensorSpec((times.num_times,), tf.int32)

    def offsets(row):
        return tf.random.stateless_uniform(spec.shape, fold(seed, row), 0, times.part, tf.int32, alg="philox")

    return times.part * np.arange(times.num_times, dtype=np.int32) + tf.map_fn(offsets, rows, fn_output_signature=spec)


def _other_terms(images, rows, process, seed):
    """Prior terms, per coefficient, and reconstruction terms, per pixel, `[B, H, W, C]` each."""
    shape = images.shape[1:]
    at_1, at_0 = (process.marginal([time], *shape[:2]) for time in (1.0, 0.0))
    eps = normal_by_seed(rows, _stream(seed, _NOISE_AT_0), shape)
    return prior_terms(dct2(images), at_1), reconstruction_terms(images, eps, at_0)


def _stream(seed, *numbers):
    """The number of a sequence of random numbers, each row of which has its row's number as its seed."""
    # What is folded in last is in the second of the two integers only: one more brings it into the first.
    return fold(_pair(seed), *numbers, 0)[0]


def _pair(seed):
    return np.array([0, seed], np.int64)


def _bands(height, width, num_bands):
    """Edges `[num_bands + 1]` from 0 to the highest radial frequency, and the band of each coefficient, `[H, W]`."""
    frequency = np.sqrt(laplacian_eigenvalues(height, width).astype(np.float64)) / np.pi
    edges = np.linspace(0.0, max(frequency.max(), np.finfo(np.float32).eps), num_bands + 1)
    # The highest frequency belongs to the last band.
    return edges, np.minimum(np.searchsorted(edges, frequency, side="right") - 1, num_bands - 1)


def _check_process(process):
    if not process.ends_in_noise:
        raise UserError(
            "bits per dimension need a process that ends in noise (gaussian, blurring): what others leave of an "
            "image at t = 1 has no known density"
        )


def _checked_times(num_steps, num_times, seed, grid, process):
    check_count("num_steps", num_steps)
    num_times = num_steps if num_times is None else num_times
    check_count("num_times", num_times)
    if num_steps % num_times:
        raise UserError(f"num_times must divide num_steps, {num_steps}. Received: {num_times}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not -(2**63) <= seed < 2**63:
        raise UserError(f"seed must be an integer of 64 bits. Received: {seed!r}")
    edges = get_grid(grid)(int(num_steps), process)[::-1]
    return _Times(int(num_steps), int(num_times), int(seed), edges)


def _checked_images(images):
    """Images as float32 `[N, H, W, C]`, or a UserError."""
    images = np.asarray(images)
    if images.ndim != 4 or not images.size or images.dtype.kind != "f":
        given = f"{images.dtype} of shape {images.shape}"
        raise UserError(f"images must be floats [N, H, W, C] in [-1, 1]. Received: {given}")
    images = images.astype(np.float32)
    levels = (images + 1.0) * LEVELS_PER_UNIT
    distance = np.abs(levels - np.clip(np.round(levels), 0.0, 255.0)).max()
    # Not a number is no level either.
    if not distance <= _LEVEL_TOLERANCE:
        raise UserError(
            "images must be 8-bit pixels scaled to [-1, 1], pixel / 127.5 - 1. Received: pixels up to "
            f"{distance:.3g} of a level away from one, in [{images.min():.3g}, {images.max():.3g}]"
        )
    return images


def _checked_conditions(conditions, count):
    conditions = tuple(np.asarray(each) for each in conditions)
    for each in conditions:
        if each.ndim == 0 or len(each) != count:
            raise UserError(f"conditions must have {count} rows, one for each image. Received: shape {each.shape}")
    return conditions
