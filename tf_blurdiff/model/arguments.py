"""What sampling is given: defaults, and errors that say what is allowed."""

import math

import keras
import numpy as np

from tf_blurdiff.diffusion.grids import get_grid
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.diffusion.samplers import Sampling, get_sampler
from tf_blurdiff.errors import UserError

# Rissanen et al., 2023: what sampling adds is best a little above what training did.
_DELTA_OVER_SIGMA = 1.25
# Resizing and rounding may go a little further than 1.
_NEARLY_ONE = 1.01


def check_sampling(process, prediction, sampler, num_steps, grid, eta=0.0, delta=0.0):
    """Returns a `Sampling`, or raises a UserError that says what is allowed."""
    get_sampler(sampler, process, prediction)
    check_count("num_steps", num_steps)
    get_grid(grid)
    if not is_number(eta) or not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must be in [0, 1]. Received: {eta!r}")
    if not is_number(delta) or not 0.0 <= delta < math.inf:
        raise UserError(f"delta must be a number of 0 or more. Received: {delta!r}")
    if get_prediction(prediction).by_level and (num_steps, grid) != (process.num_levels, "uniform"):
        raise UserError(
            f"prediction {prediction!r} goes from level to level: num_steps must be {process.num_levels} and grid "
            f"uniform. Received: {num_steps}, {grid}"
        )
    for name, value, owner in (("eta", eta, "ddim"), ("delta", delta, "heat")):
        if value and sampler != owner:
            raise UserError(f"{name} is for the sampler {owner}; with {sampler} it must be 0. Received: {value!r}")
    return Sampling(sampler, int(num_steps), grid, float(eta), float(delta))


def default_delta(process, sampler):
    """The standard deviation of what "heat" draws, 1.25 times the process's sigma; 0 for other samplers."""
    return _DELTA_OVER_SIGMA * process.noise.sigma if sampler == "heat" and not process.ends_in_noise else 0.0


def checked_strength(strength):
    """A strength in (0, 1] as it is, or a UserError."""
    if not is_number(strength) or not 0.0 < strength <= 1.0:
        raise UserError(f"strength must be in (0, 1]. Received: {strength!r}")
    return strength


def default_sampler(process, prediction):
    """The sampler of a model that names none."""
    if get_prediction(prediction).by_level:
        return "heat"
    if get_sampler("ancestral2").allowed(process, prediction):
        return "ancestral2"
    return "ddim" if process.has_noise else "cold"


def default_num_steps(process, prediction):
    """Calls of the network of a model that names no number."""
    if get_prediction(prediction).by_level:
        return process.num_levels
    return 20 if process.ends_in_noise else 50


def check_count(name, value):
    """Raises a UserError unless the value is an integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value < 2**31:
        raise UserError(f"{name} must be an integer of 1 or more, below 2^31. Received: {value!r}")


def checked_seeds(seeds, name="seeds", count=None):
    """Seeds as int64 `[B]`, or a UserError: B is at least 1 (or `count`), and no seed is rounded or wrapped."""
    given, seeds = seeds, np.asarray(seeds)
    fits = seeds.dtype.kind in "iu" and seeds.ndim == 1 and len(seeds) and seeds.max() < 2**63
    if not fits or count not in (None, len(seeds)):
        wanted = "at least one integer" if count is None else f"{count} integers"
        raise UserError(f"{name} must be a list of {wanted} of 64 bits. Received: {given!r}")
    return seeds.astype(np.int64)


def is_number(value):
    """Whether it is an integer or a float, of Python or NumPy."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def checked_labels(labels, num_classes, label_dropout, count):
    """Labels as int64 `[count]`, num_classes for none, zeros for a model without; or a UserError."""
    if num_classes is None:
        if labels is not None:
            raise UserError("This model has no labels (its network's num_classes is None). Received: labels")
        return np.zeros(count, np.int64)
    if labels is None and label_dropout:
        return np.full(count, num_classes, np.int64)
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise UserError(f"labels must be {count} integers, one for each seed. Received: {labels!r}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels must be in [0, {num_classes}). Received: {labels!r}")
    return labels.astype(np.int64)


def checked_guidance_scale(guidance_scale, label_dropout, count):
    """Guidance scales as float32 `[count]`, or a UserError."""
    scale = np.asarray(guidance_scale)
    is_number = scale.dtype.kind in "iuf" and scale.shape in ((), (count,))
    if not is_number or not (np.isfinite(scale) & (scale >= 0)).all():
        raise UserError(f"guidance_scale must be 0 or more, one number or one a seed. Received: {guidance_scale!r}")
    if (scale != 1).any() and not label_dropout:
        raise UserError(
            f"guidance_scale {guidance_scale!r} needs a model that was trained with labels and label_dropout > 0"
        )
    return np.broadcast_to(scale, (count,)).astype(np.float32)


def checked_images(images, image_shape, count):
    """Images as float32 `[count, H, W, C]`, or a UserError."""
    images = np.asarray(images)
    if images.shape != (count, *image_shape) or images.dtype.kind != "f" or not (np.abs(images) <= 1.0).all():
        expected = f"floats in [-1, 1] of shape {(count, *image_shape)}"
        raise UserError(f"images must be {expected}. Received: {images.dtype} of shape {images.shape}")
    return images.astype(np.float32)


def checked_batch(batch, image_shape):
    """A training batch as it is, or a UserError: images `[B, H, W, C]` in [-1, 1], alone or before their labels."""
    images = np.asarray(keras.utils.unpack_x_y_sample_weight(batch)[0])
    if images.shape[1:] != tuple(image_shape) or images.dtype.kind != "f" or not (np.abs(images) <= _NEARLY_ONE).all():
        given = f"{images.dtype} of shape {images.shape}"
        given += f" in [{images.min():g}, {images.max():g}]" if images.size else ""
        raise UserError(
            f"images must be floats in [-1, 1] of shape (B, {str(tuple(image_shape))[1:]}. Received: {given}"
        )
    return batch
