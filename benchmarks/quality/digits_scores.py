"""How far images are from the real digits, over how far one half of the digits is from the other."""

import hashlib

import numpy as np
from sklearn.neural_network import MLPClassifier

import tf_blurdiff as bd
from tf_blurdiff.data.pixels import to_uint8, to_unit_range
from tf_blurdiff.data.sources import open_images
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.features import FeatureNetwork, open_features
from tf_blurdiff.evaluation.metrics import frechet_distance


class Scores:
    """Frechet distances to the real 8x8 digits, by pixels and by the hidden layer of a classifier.

    Attributes:
        pixels: the real digits, uint8 `[1797, 8, 8, 1]`.
        labels: int64 `[1797]`.
        halves: the indices of two halves.
        floors: `{features: the distance between the two halves}`.

    Example:
        >>> scores = Scores()
        >>> [distance < 1e-6 for distance in scores.distances(scores.pixels)]
        [True, True]
    """

    def __init__(self):
        images = open_images("digits", image_size=8, channels=1)
        self.pixels, self.labels = images.read(np.arange(images.num_images)).numpy(), np.asarray(images.labels)
        self.halves = np.array_split(np.random.default_rng(0).permutation(len(self.pixels)), 2)
        self._networks = [open_features("pixels", images.image_shape), hidden_layer(self.pixels, self.labels)]
        one, other = (self.pixels[half] for half in self.halves)
        self.floors = {each.name: frechet_distance(each.features(one), each.features(other)) for each in self._networks}

    def distances(self, images):
        """By each of the features, over its floor; images `[N, 8, 8, 1]` in [-1, 1] are rounded to 8 bits."""
        images = eight_bits(images)
        return [
            frechet_distance(each.features(images), each.features(self.pixels)) / self.floors[each.name]
            for each in self._networks
        ]

    def half(self, number):
        """One half of the digits as vectors in [-1, 1], `[N, 64]`, and their labels."""
        return flat(self.pixels[self.halves[number]]), self.labels[self.halves[number]]


def digits_model(path, flag="--model"):
    """The model of a file, run directory or shipped name; a UserError if its images are not those of the digits."""
    model = bd.load_model(path)
    if model.image_shape != (8, 8, 1):
        raise UserError(f"{flag}: images (8, 8, 1) are expected. Received: {path}, of images {model.image_shape}")
    return model


def hidden_layer(pixels, labels):
    """The hidden layer of a small classifier that is fitted on these digits, as a `FeatureNetwork`."""
    classifier = MLPClassifier((64,), max_iter=400, random_state=0).fit(flat(pixels), labels)
    kernel, bias = classifier.coefs_[0], classifier.intercepts_[0]
    return FeatureNetwork(
        name="hidden layer",
        num_features=len(bias),
        preparation="scaled to [-1, 1]",
        digest=hashlib.sha256(kernel.tobytes() + bias.tobytes()).hexdigest()[:16],
        compute=lambda images: np.maximum(flat(images) @ kernel + bias, 0.0),
    )


def eight_bits(images):
    """As they are seen: uint8, which stays as it is; floats in [-1, 1] are rounded."""
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else to_uint8(images).numpy()


def flat(images):
    """Vectors in [-1, 1], float32 `[N, 64]`, of images as in `eight_bits`."""
    return to_unit_range(eight_bits(images)).numpy().reshape(len(images), -1)
