"""Checks of a model's arguments: arrays of the types that it works with, or an error that says what is allowed."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_blurdiff.errors import UserError, check_count, is_number, one_of

# Resizing and rounding may go a little further than 1, and a small blur at an edge further than these.
NEARLY_ONE, NEARLY_ONE_BLURRED = 1.01, 1.1
# Of guidance scales, blurs and noise: of much more there are no squares in float32.
LARGEST = 1e6
# Of images that come as one array, so many are looked at together.
_ROWS_AT_ONCE = 256


def check_not_traced() -> None:
    """Raises a UserError inside of a tf.function, where there are no values to give out."""
    if tf.inside_function():
        raise UserError(
            "images are drawn as NumPy arrays, which a tf.function cannot do: call this outside of it; "
            "tf_blurdiff.export_savedmodel makes a graph of the whole sampling loop"
        )


def checked_num_classes(num_classes: int | None, network: Any) -> int | None:
    """The number of labels of a model, the network's own if None; a UserError if they differ.

    A plain Keras network has none of its own, and forgets one that it was given when it is saved.
    """
    own = getattr(network, "num_classes", num_classes)
    if own is not None:
        check_count("the network's num_classes", own)
        own = int(own)
    if num_classes is None:
        return own
    check_count("num_classes", num_classes)
    if own != num_classes:
        raise UserError(f"num_classes must be the network's own, {own}, or None. Received: {num_classes}")
    return own


def cannot_be_called(image_shape: tuple[int, ...], num_classes: int | None, error: Exception) -> str:
    """What is wrong with a network that fails: one line, with the last that Keras does not add itself."""
    names = "[z, t]" if num_classes is None else "[z, t, label]"
    text = re.sub(r"\x1b\[\d*m", "", str(error)).split("Arguments received by")[0]
    reason = " ".join(text.split("Error encountered:")[-1].split())
    return f"the network cannot be called with {names} for images of shape {tuple(image_shape)}: {reason}"


def check_output(output: Any, image_shape: tuple[int, ...]) -> None:
    """Raises a UserError if a network's output for images of a shape is not of that shape."""
    if tuple(output.shape[1:]) != tuple(image_shape):
        raise UserError(
            f"the network's output must be of the images' shape {tuple(image_shape)}. Received: a network whose output "
            f"has {tuple(output.shape[1:])}"
        )


def check_weights(weights: Iterable[keras.Variable]) -> None:
    """Raises a UserError for weights that are not float32, as those of Keras's mixed precisions are."""
    for weight in weights:
        if weight.dtype != "float32":
            raise UserError(
                "the network's weights must be float32; to compute in less, make it with the dtype mixed_bfloat16 or "
                f"mixed_float16. Received: {weight.path} in {weight.dtype}"
            )


def checked_image_shape(shape: Any) -> tuple[int, int, int]:
    """(H, W, C) as integers of Python, or a UserError."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise UserError(f"image_shape must be (H, W, C). Received: {shape!r}")
    for side in shape:
        check_count("image_shape's sides", side)
    height, width, channels = map(int, shape)
    return height, width, channels


def check_call(inputs: Any, num_classes: int | None) -> None:
    """Raises a UserError unless a model is called with what its network takes."""
    names = ["z", "t"] if num_classes is None else ["z", "t", "label"]
    given = f"a {type(inputs).__name__}"
    if hasattr(inputs, "shape"):
        given = f"one tensor of shape {inputs.shape}"
    elif isinstance(inputs, (list, tuple)):
        shapes = [each.shape if hasattr(each, "shape") else np.shape(each) for each in inputs]
        fits = [len(shape) for shape in shapes] == [4, 1, 1][: len(names)]
        if fits and not _is_integer(inputs[1]):
            return
        given += f" of {len(inputs)}, of shapes {', '.join(str(tuple(shape)) for shape in shapes)}"
        given += " and integers for times" if fits else ""
    raise UserError(
        f"a DiffusionModel is called with [{', '.join(names)}]: noisy images, their times"
        f"{' and labels' if num_classes else ''}. To draw images call sample(seeds). Received: {given}"
    )


def _is_integer(values):
    dtype = values.dtype if hasattr(values, "dtype") else np.asarray(values).dtype
    return "int" in keras.backend.standardize_dtype(dtype)


def as_array(name: str, values: Any) -> np.ndarray:
    """An array of what was given; a UserError for rows of different lengths."""
    try:
        return np.asarray(values)
    except ValueError:
        raise UserError(
            f"{name} must be one array, all of whose rows are of one length. Received: {values!r}"
        ) from None


def checked_seeds(seeds: Any, name: str = "seeds", count: int | None = None) -> np.ndarray:
    """Seeds as int64 `[B]`, or a UserError: B is at least 1 (or `count`), and no seed is rounded or wrapped."""
    check_not_traced()
    given, seeds = seeds, as_array(name, seeds)
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


def numbers_of(labels: Any, class_names: Sequence[str] | None, count: int) -> Any:
    """Labels as they are, but numbers in place of the classes' names, and one label `count` times; or a UserError."""
    if isinstance(labels, (str, int)) and not isinstance(labels, bool):
        labels = [labels] * count
    if class_names is None or not isinstance(labels, (list, tuple)):
        return labels
    for name in labels:
        if isinstance(name, str):
            one_of("labels", name, class_names)
    return [class_names.index(each) if isinstance(each, str) else each for each in labels]


def checked_labels(labels: Any, num_classes: int | None, label_dropout: float, count: int) -> np.ndarray:
    """Labels as int64 `[count]`, num_classes for none, zeros for a model without; or a UserError."""
    if num_classes is None:
        if labels is not None:
            raise UserError("This model has no labels (its network's num_classes is None). Received: labels")
        return np.zeros(count, np.int64)
    if labels is None and label_dropout:
        return np.full(count, num_classes, np.int64)
    labels = as_array("labels", labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise UserError(f"labels must be {count} integers, one for each seed. Received: {labels!r}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels must be in [0, {num_classes}). Received: {labels!r}")
    return labels.astype(np.int64)


def checked_class_names(names: Any, num_classes: int | None) -> tuple[str, ...] | None:
    """Names of the labels as a tuple, or None for None; or a UserError."""
    if names is None:
        return None
    given, names = names, () if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    are_texts = all(isinstance(name, str) for name in names)
    if not are_texts or len(set(names)) < len(names) or len(names) != num_classes:
        raise UserError(
            f"class_names must be as many different texts as num_classes, which is {num_classes}. Received: {given!r}"
        )
    return names


def checked_guidance_scale(guidance_scale: Any, label_dropout: float, count: int) -> np.ndarray:
    """Guidance scales as float32 `[count]`, or a UserError."""
    scale = as_array("guidance_scale", guidance_scale)
    is_numbers = scale.dtype.kind in "iuf" and scale.shape in ((), (count,))
    if not is_numbers or not ((scale >= 0) & (scale <= LARGEST)).all():
        raise UserError(
            f"guidance_scale must be 0 or more, at most {LARGEST:,.0f}, one number or one a seed. "
            f"Received: {guidance_scale!r}"
        )
    if (scale != 1).any() and not label_dropout:
        raise UserError(
            f"guidance_scale {guidance_scale!r} needs a model that was trained with labels and label_dropout > 0"
        )
    return np.broadcast_to(scale, (count,)).astype(np.float32)


def checked_images(
    images: Any, image_shape: tuple[int, ...], count: int | None = None, limit: float = NEARLY_ONE
) -> np.ndarray:
    """Images as float32 `[count, H, W, C]`, at least one if count is None, or a UserError; values as `fit` takes them.

    Args:
        images: the images.
        image_shape: (H, W, C).
        count: how many there must be.
        limit: how far from 0 a pixel may be.
    """
    check_not_traced()
    images = as_array("images", images)
    there = images.shape[:1] if count is None else (count,)
    fits = images.ndim == 4 and len(images) and images.shape == (*there, *image_shape)
    if not fits or images.dtype.kind != "f" or not (np.abs(images) <= limit).all():
        raise UserError(f"{wanted_images(image_shape, count or 'B')}. Received: {_described(images)}")
    return images.astype(np.float32)


def wanted_images(image_shape: tuple[int, ...], count: int | str = "B") -> str:
    """What images must be, in words."""
    return f"images must be floats in [-1, 1] of shape ({count}, {str(tuple(image_shape))[1:]}"


def wanted_labels(num_classes: int | None) -> str:
    """What training labels must be, in words."""
    return f"labels must be integers in [0, {num_classes}) of shape (B,)"


def check_label_presence(labels: Any, num_classes: int | None, are_needed: bool = True) -> None:
    """Raises a UserError for labels of a model without, and where they are needed and missing."""
    if num_classes is None and labels is not None:
        raise UserError("this model has no labels (its num_classes is None): give images alone. Received: labels too")
    if num_classes is not None and labels is None and are_needed:
        raise UserError(f"a model with num_classes {num_classes} trains on (images, labels). Received: images alone")


def checked_batch(batch: Any, image_shape: tuple[int, ...], num_classes: int | None) -> Any:
    """A batch for `adapt` as it is, or a UserError: images `[B, H, W, C]` in [-1, 1], alone or before their labels."""
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if isinstance(images, dict):
        raise UserError(f"a batch must be images or a pair (images, labels). Received: a dict of {', '.join(images)}")
    images = np.asarray(images)
    if images.shape[1:] != tuple(image_shape) or images.dtype.kind != "f" or not (np.abs(images) <= NEARLY_ONE).all():
        raise UserError(f"{wanted_images(image_shape)}. Received: {_described(images)}")
    check_label_presence(labels, num_classes, are_needed=False)
    if labels is not None:
        labels = np.asarray(labels)
        is_right = labels.shape == images.shape[:1] and labels.dtype.kind in "iu"
        if not is_right or ((labels < 0) | (labels >= num_classes)).any():
            raise UserError(f"{wanted_labels(num_classes)}. Received: {_described(labels)}")
    return batch


def _described(values):
    text = f"{values.dtype} of shape {values.shape}"
    has_range = values.size and values.dtype.kind in "iuf"
    return f"{text} in [{values.min():g}, {values.max():g}]" if has_range else text


def batches_of(data: Any, labels: Any = None) -> Iterator[Any]:
    """Batches of images, or of `(images, labels)`, from all that `DiffusionModel.adapt` takes."""
    is_pair = isinstance(data, tuple) and len(data) == 2 and _rank(data[0]) == 4 and _rank(data[1]) in (1, 2)
    if is_pair and labels is None:
        data, labels = data
    if _rank(data) in (3, 4):
        yield from _slices(data, labels)
        return
    if labels is not None:
        raise UserError("labels are given beside an array of images; in batches they come as (images, labels)")
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError("adapt takes a data set that ends. Received: one that is repeated for ever; give it take(n)")
    if isinstance(data, keras.utils.PyDataset):
        yield from (data[number] for number in range(data.num_batches))
        return
    if isinstance(data, str | bytes | dict) or not isinstance(data, Iterable):
        raise UserError(f"adapt takes images, or batches of them. Received: a {type(data).__name__}")
    yield from data


def finite_pictures(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches without pictures that have a pixel which is not a number; a step of such is skipped."""
    for batch in batches:
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
        images = np.asarray(images)
        if images.dtype.kind != "f" or not images.ndim:
            yield batch
            continue
        kept = ~np.isnan(images).any(axis=tuple(range(1, images.ndim)))
        if kept.all():
            yield batch
        else:
            yield images[kept] if labels is None else (images[kept], np.asarray(labels)[kept])


def _rank(data):
    return len(data.shape) if hasattr(data, "shape") else None


def _slices(images, labels):
    count = len(images) if labels is None else max(len(images), len(labels))
    for first in range(0, max(1, count), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        yield images[rows] if labels is None else (images[rows], labels[rows])
