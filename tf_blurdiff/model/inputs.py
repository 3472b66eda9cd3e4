"""Checks of what training is given: what can be told from types and shapes when a step is traced, values in the step.

A step in a graph can only fail with TensorFlow's own error, many lines long; `errors_in_words` makes one line of it. A
step of several replicas does not even fail, for those that wait for one that failed would not recover: it changes no
weight, as any whose loss is not a number, and fails in words once it is done.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_blurdiff.errors import UserError
from tf_blurdiff.model.arguments import NEARLY_ONE, check_label_presence, wanted_images, wanted_labels

# What the step that runs has refused.
_refused: list[str] = []


def checked_inputs(model: Any, data: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
    """A training batch as float32 `[B, H, W, C]` and int64 `[B]`, or None for a model without labels.

    Raises:
        UserError: for what is wrong whatever the values. Wrong values make the step fail, see `errors_in_words`; pixels
            that are not numbers are none of them, for a step of such is skipped.
    """
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise UserError("Sample weights are not supported; give images, or (images, labels)")
    check_label_presence(labels, model.num_classes)
    with errors_in_words():  # Where nothing is traced, values are looked at here.
        images = _tensor(images, wanted_images(model.image_shape), (None, *model.image_shape), "is_floating")
        if labels is not None:
            labels = tf.cast(_tensor(labels, wanted_labels(model.num_classes), (None,), "is_integer"), tf.int64)
        is_allowed = _check_values(model, images, labels)
    # An embedding has an error of its own for a label that it does not know.
    labels = None if labels is None else tf.where(is_allowed, labels, 0)
    return tf.where(is_allowed, tf.cast(images, tf.float32), np.nan), labels


def _tensor(given, wanted, shape, kind):
    if isinstance(given, (dict, list, tuple)):
        raise UserError(f"{wanted}. Received: a {type(given).__name__}")
    tensor = tf.convert_to_tensor(given)
    if not getattr(tensor.dtype, kind) or not tensor.shape.is_compatible_with(shape):
        raise UserError(f"{wanted}. Received: {tensor.dtype.name} of shape {tensor.shape}")
    if tensor.shape[1:].is_fully_defined():
        return tensor
    # Batches of several shapes are traced as one of any: what came is known only when the step runs.
    sizes = tf.shape(tensor)
    fits = tf.cond(tf.rank(tensor) == len(shape), lambda: tf.reduce_all(sizes[1:] == list(shape[1:])), lambda: False)
    received = lambda: tf.strings.format("shape {}", sizes)
    known = lambda: tf.reshape(tensor, (-1, *shape[1:]))
    none = tf.cast(tf.fill((sizes[0], *shape[1:]), -2), tensor.dtype)  # As pixels and as labels refused too.
    return _where_allowed(fits, known, wanted, received, none)


def _check_values(model, images, labels):
    """Both in one condition: it makes the host wait for the device, once a step."""
    wanted, received = wanted_images(model.image_shape), lambda: _range(images)
    is_allowed = ~tf.reduce_any(tf.abs(images) > NEARLY_ONE)
    if labels is not None:
        labels_are = ~tf.reduce_any((labels < 0) | (labels >= model.num_classes))
        wanted = tf.where(labels_are, wanted, wanted_labels(model.num_classes))
        received = lambda: tf.where(labels_are, _range(images), _range(labels))
        is_allowed &= labels_are
    return _where_allowed(is_allowed, lambda: tf.constant(True), wanted, received, tf.constant(False))


def _range(values):
    return tf.strings.format("{} to {}", (tf.reduce_min(values), tf.reduce_max(values)))


def _where_allowed(is_allowed, value, wanted, received, otherwise):
    """A value; or an error of this replica's if it is the only one, and `otherwise`."""

    def refuse():
        text = tf.strings.join([wanted, ". Received: ", received()])
        refused = tf.numpy_function(_note, [text], tf.bool)
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            refused = tf.debugging.Assert(~refused, [text])
        with tf.control_dependencies([refused]):
            return tf.identity(otherwise)

    return tf.cond(is_allowed, value, refuse)


def _note(text):
    _refused.append(np.asarray(text).item().decode())
    return True


@contextlib.contextmanager
def errors_in_words() -> Iterator[None]:
    """Turns the error of a step that was given wrong values into a UserError that says which."""
    _refused.clear()
    try:
        yield
    except tf.errors.OpError:
        if not _refused:
            raise
    if _refused:
        raise UserError(_refused[0])


def with_errors_in_words(step: Callable[..., Any]) -> Callable[..., Any]:
    """A function that `fit` or `evaluate` calls for each step, its errors as of `errors_in_words`."""

    def in_words(*arguments):
        with errors_in_words():
            return step(*arguments)

    return in_words
