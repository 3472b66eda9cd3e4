"""Checks of a model's arguments: arrays of the types that it works with, or an error that says what is allowed."""

from typing import Any

import keras
import numpy as np

from tf_blurdiff.errors import UserError, is_number

# Resizing and rounding may go a little further than 1.
_NEARLY_ONE = 1.01


def checked_seeds(seeds: Any, name: str = "seeds", count: int | None = None) -> np.ndarray:
    """Seeds as int64 `[B]`, or a UserError: B is at least 1 (or `count`), and no seed is rounded or wrapped."""
    given, seeds = seeds, np.asarray(seeds)
    fits = seeds.dtype.kind in "iu" and seeds.ndim == 1 and len(seeds) and seeds.max() < 2**63
    if not fits or count not in (None, len(seeds)):
        wanted = "at least one integer" if count is None else f"{count} integers"
        raise UserError(f"{name} must be a list of {wanted} of 64 bits. Received: {given!r}")
    return seeds.astype(np.int64)


def checked_strength(strength: float) -> float:
    """A strength in (0, 1] as it is, or a UserError."""
    if not is_number(strength) or not 0.0 < strength <= 1.0:
        raise UserError(f"strength must be in (0, 1]. Received: {strength!r}")
    return strength


def checked_labels(labels: Any, num_classes: int | None, label_dropout: float, count: int) -> np.ndarray:
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


def checked_class_names(names: Any, num_classes: int | None) -> tuple[str, ...] | None:
    """Names of the labels as a tuple, or None for None; or a UserError."""
    if names is None:
        return None
    names = tuple(names)
    are_texts = all(isinstance(name, str) for name in names)
    if not are_texts or len(set(names)) < len(names) or len(names) != num_classes:
        raise UserError(
            f"class_names must be as many different texts as num_classes, which is {num_classes}. Received: {names!r}"
        )
    return names


def checked_guidance_scale(guidance_scale: Any, label_dropout: float, count: int) -> np.ndarray:
    """Guidance scales as float32 `[count]`, or a UserError."""
    scale = np.asarray(guidance_scale)
    is_numbers = scale.dtype.kind in "iuf" and scale.shape in ((), (count,))
    if not is_numbers or not (np.isfinite(scale) & (scale >= 0)).all():
        raise UserError(f"guidance_scale must be 0 or more, one number or one a seed. Received: {guidance_scale!r}")
    if (scale != 1).any() and not label_dropout:
        raise UserError(
            f"guidance_scale {guidance_scale!r} needs a model that was trained with labels and label_dropout > 0"
        )
    return np.broadcast_to(scale, (count,)).astype(np.float32)


def checked_images(images: Any, image_shape: tuple[int, ...], count: int) -> np.ndarray:
    """Images as float32 `[count, H, W, C]`, or a UserError."""
    images = np.asarray(images)
    if images.shape != (count, *image_shape) or images.dtype.kind != "f" or not (np.abs(images) <= 1.0).all():
        expected = f"floats in [-1, 1] of shape {(count, *image_shape)}"
        raise UserError(f"images must be {expected}. Received: {images.dtype} of shape {images.shape}")
    return images.astype(np.float32)


def checked_batch(batch: Any, image_shape: tuple[int, ...]) -> Any:
    """A training batch as it is, or a UserError: images `[B, H, W, C]` in [-1, 1], alone or before their labels."""
    images = np.asarray(keras.utils.unpack_x_y_sample_weight(batch)[0])
    if images.shape[1:] != tuple(image_shape) or images.dtype.kind != "f" or not (np.abs(images) <= _NEARLY_ONE).all():
        given = f"{images.dtype} of shape {images.shape}"
        given += f" in [{images.min():g}, {images.max():g}]" if images.size else ""
        raise UserError(
            f"images must be floats in [-1, 1] of shape (B, {str(tuple(image_shape))[1:]}. Received: {given}"
        )
    return batch
