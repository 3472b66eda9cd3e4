"""A small classifier of the data's own images: for small pictures, its features are worth more than ImageNet's."""

import os
from collections.abc import Sequence
from typing import Any, Unpack

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from tf_blurdiff.data import Images
from tf_blurdiff.errors import UserError, check_count
from tf_blurdiff.files import expanded
from tf_blurdiff.networks import LayerArguments

_SMALLEST_SIDE = 4
_MAX_WIDTH = 256
_HELD_OUT = 0.1


@keras.saving.register_keras_serializable("tf_blurdiff")
class ImageClassifier(keras.Model):
    """A convolutional classifier of 8-bit images.

    Stages of two convolutions, each but the first halving the image until a side is 4 pixels or fewer, then a mean over
    the pixels, a layer of features and the logits.

    Args:
        image_shape: (H, W, C).
        num_classes: number of labels.
        channels: of the first stage; each next one has twice as many, up to 256.
        num_features: of the layer before the logits.
        held_out_accuracy: the share of held-out images that it is right for, once that is known.

    Call arguments:
        images: uint8 or float pixels in [0, 255], `[B, H, W, C]`; the result is logits, `[B, num_classes]`.

    Example:
        >>> classifier = ImageClassifier((8, 8, 1), num_classes=10)
        >>> images = np.zeros((2, 8, 8, 1), "uint8")
        >>> classifier(images).shape, classifier.features(images).shape
        (TensorShape([2, 10]), TensorShape([2, 64]))
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        channels: int = 32,
        num_features: int = 64,
        held_out_accuracy: float | None = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.image_shape = tuple(image_shape)
        self.num_classes, self.channels, self.num_features = num_classes, channels, num_features
        self.held_out_accuracy = held_out_accuracy
        stages = 1 + max(0, int(np.ceil(np.log2(min(self.image_shape[:2]) / _SMALLEST_SIDE))))
        body = [keras.layers.Rescaling(1 / 127.5, offset=-1.0)]
        for stage in range(stages):
            width = min(_MAX_WIDTH, channels * 2**stage)
            for strides in (1 if stage == 0 else 2, 1):
                given = {"padding": "same", "data_format": "channels_last", "use_bias": False}
                body.append(keras.layers.Conv2D(width, 3, strides, **given))
                # Few steps must do: Keras's own momentum, 0.99, is for long training.
                body += [keras.layers.BatchNormalization(momentum=0.9), keras.layers.Activation("relu")]
        body += [
            keras.layers.GlobalAveragePooling2D(data_format="channels_last"),
            keras.layers.Dense(num_features, "relu"),
        ]
        self.body = keras.Sequential(body)
        self.dropout = keras.layers.Dropout(0.3)
        self.logits = keras.layers.Dense(num_classes)
        self.body.build((None, *self.image_shape))
        self.logits.build((None, num_features))
        self.built = True

    def call(self, images: Any, training: bool = False) -> Any:
        """The logits."""
        return self.logits(self.dropout(self.features(images, training), training=training))

    def features(self, images: Any, training: bool = False) -> Any:
        """The layer before the logits, float32 `[B, num_features]`, 0 or more."""
        return self.body(ops.cast(images, "float32"), training=training)

    def accuracy_in_words(self) -> str:
        """How often it was right, as reports say it."""
        if self.held_out_accuracy is None:
            return "how often it is right is not known"
        return f"right for {self.held_out_accuracy:.4f} of held-out images"

    def get_config(self) -> dict[str, Any]:
        """All arguments, as Keras saves them."""
        own = ("image_shape", "num_classes", "channels", "num_features", "held_out_accuracy")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def train_classifier(
    images: Images, epochs: int = 20, batch_size: int = 64, seed: int = 0, verbose: bool = False
) -> ImageClassifier:
    """Trains a classifier on nine tenths of a data set and counts how often it is right on the rest.

    Args:
        images: a `data.Images` with labels.
        epochs: passes over the nine tenths.
        batch_size: images a step.
        seed: of the division, the weights and the order; Keras's global seed is set to it.
        verbose: whether to show a progress bar.

    Returns:
        An `ImageClassifier` with its `held_out_accuracy`.

    Raises:
        UserError: for a data set without labels, one that is too small or cannot be read, and arguments that are not
            allowed.

    Example:
        >>> from tf_blurdiff.data.sources import open_images
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> train_classifier(digits, epochs=2).held_out_accuracy > 0.3
        True
    """
    if images.labels is None or images.num_classes is None:
        raise UserError("a classifier needs labels, and the data set has none; expected another data set")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_count(name, value)
    check_count("seed", seed, 0)
    held_out, fitted = np.split(np.random.default_rng(seed).permutation(images.num_images), [_count_held_out(images)])
    keras.utils.set_random_seed(seed)
    model = ImageClassifier(images.image_shape, images.num_classes)
    steps = -(-len(fitted) // batch_size) * epochs
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    progress = tqdm(total=steps, desc="classifier", unit="step", disable=not verbose)
    with progress, images.plain_errors():
        shown = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: progress.update())
        batches = images.batches(batch_size, fitted, labels=True, shuffle_seed=seed)
        model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[shown])
        judged = images.batches(batch_size, held_out, labels=True).as_numpy_iterator()
        right = [np.argmax(model(x), axis=-1) == y for x, y in judged]
    model.held_out_accuracy = float(np.concatenate(right).mean())
    return model


def load_classifier(path: str | os.PathLike) -> ImageClassifier:
    """Loads an `ImageClassifier` from a .keras file; raises a UserError if there is none."""
    path = expanded(path)
    if not path.is_file():
        raise UserError(f"classifier file not found: {path} (a .keras file of train_classifier is expected)")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # A damaged file makes zipfile, h5py, json or Keras fail, each in its own way.
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path} is not a .keras file that can be read: {reason}") from error
    if not isinstance(model, ImageClassifier):
        raise UserError(f"{path} holds a {type(model).__name__}; an ImageClassifier is expected")
    return model


def _count_held_out(images):
    count = int(_HELD_OUT * images.num_images)
    if not count:
        raise UserError(f"a classifier needs 10 images or more. Received: {images.num_images}")
    return count
