"""Images between seeds: their noise and their starts are weighted sums of those of two seeds."""

from typing import Any, Unpack

import numpy as np

from tf_blurdiff.diffusion.dct import laplacian_eigenvalues
from tf_blurdiff.diffusion.stateless_random import SeededNoise
from tf_blurdiff.errors import UserError, is_number
from tf_blurdiff.model.arguments import checked_seeds
from tf_blurdiff.model.sampling import MixtureArguments, draw_images, start_of


def interpolate(
    model: Any, first_seed: int, last_seed: int, num_images: int, **sampling: Unpack[MixtureArguments]
) -> np.ndarray:
    """`DiffusionModel.interpolate`."""
    ends = checked_seeds([first_seed, last_seed])
    if ends[0] == ends[1] or not isinstance(num_images, (int, np.integer)) or num_images < 2:
        given = f"{first_seed!r}, {last_seed!r}, num_images={num_images!r}"
        raise UserError(f"interpolate goes between two different seeds in at least 2 images. Received: {given}")
    share = np.linspace(0.0, 1.0, num_images, dtype=np.float32)[:, None, None, None]
    arc = np.cos(0.5 * np.pi * share), np.sin(0.5 * np.pi * share)
    start_weights = arc if model.process.ends_in_noise else (1.0 - share, share)
    seeds = [np.repeat(end, num_images) for end in ends]
    return _mixture(model, seeds, start_weights, arc, sampling)


def mix_bands(
    model: Any, coarse_seeds: Any, detail_seeds: Any, cutoff: float, **sampling: Unpack[MixtureArguments]
) -> np.ndarray:
    """`DiffusionModel.mix_bands`."""
    coarse_seeds = checked_seeds(coarse_seeds, "coarse_seeds")
    detail_seeds = checked_seeds(detail_seeds, "detail_seeds", len(coarse_seeds))
    if not is_number(cutoff) or not cutoff > 0:
        raise UserError(f"cutoff must be above 0. Received: {cutoff!r}")
    frequency = np.sqrt(laplacian_eigenvalues(*model.image_shape[:2])) / np.pi
    coarse = (frequency < cutoff).astype(np.float32)[None, :, :, None]
    coarse = np.repeat(coarse, len(coarse_seeds), axis=0)
    weights = coarse, 1.0 - coarse
    return _mixture(model, [coarse_seeds, detail_seeds], weights, weights, sampling)


def _mixture(model, seeds, start_weights, noise_weights, sampling):
    """Images whose start and noise are weighted sums of those of two lists of seeds."""
    wrong = sampling.keys() & {"noise_seeds", "images", "strength"}
    if wrong:
        raise UserError(f"{', '.join(sorted(wrong))} cannot be given here: start and noise come from the two seeds")
    model.check_prior()

    def start(rows, labels, t):
        states = [start_of(model, each)(rows, labels, t) for each in seeds]
        return sum(weight[rows] * state for weight, state in zip(start_weights, states))

    return draw_images(model, start, SeededNoise(*seeds, *noise_weights), **sampling)
