"""How far samples are from the real digits, for the programs of this folder."""

import numpy as np
from sklearn.neural_network import MLPClassifier

from tf_blurdiff.data.sources import open_images, to_uint8, to_unit_range
from tf_blurdiff.evaluation.metrics import frechet_distance


class Scores:
    """Distances to the real digits, over that between two halves of them."""

    def __init__(self):
        singles = open_images("digits", image_size=8, channels=1).single_images(labels=True)
        pixels, labels = (np.stack(column) for column in zip(*singles.as_numpy_iterator()))
        self.real, self.labels = to_unit_range(pixels).numpy(), labels
        self.classifier = MLPClassifier((64,), max_iter=400, random_state=0).fit(self._flat(self.real), labels)
        halves = np.array_split(np.random.default_rng(0).permutation(len(self.real)), 2)
        one, other = (self.real[half] for half in halves)
        self.floors = [frechet_distance(feature(one), feature(other)) for feature in (self._flat, self._hidden)]

    def row(self, samples):
        """Both distances over their floors, and samples in a thousand out of [-1.5, 1.5]."""
        outside = 1000 * (np.abs(samples).max(axis=(1, 2, 3)) > 1.5).mean()
        seen = to_unit_range(to_uint8(samples)).numpy()  # Rounded to 8 bits, as they are seen.
        features = (self._flat, self._hidden)
        distances = [frechet_distance(feature(seen), feature(self.real)) for feature in features]
        return [*(distance / floor for distance, floor in zip(distances, self.floors)), outside]

    def _flat(self, images):
        return images.reshape(len(images), -1)

    def _hidden(self, images):
        return np.maximum(self._flat(images) @ self.classifier.coefs_[0] + self.classifier.intercepts_[0], 0.0)
