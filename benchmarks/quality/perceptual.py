"""How far images look from their originals: a distance between features, against that of strangers."""

import numpy as np
from scipy.spatial.distance import pdist

from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError

_AT_ONCE = 64


class PerceptualDistance:
    """The mean Euclidean distance between the features of images and of their originals, over that of strangers.

    0 is the same features, 1 as far apart as two different originals are on average. Between two networks the figures
    do not compare, nor between two sets of originals.

    Args:
        network: a `features.FeatureNetwork`.
        originals: floats `[N, H, W, C]` in [-1, 1], 2 or more.

    Raises:
        UserError: if the originals have no two different features.

    Example:
        >>> from tf_blurdiff.evaluation.features import open_features
        >>> originals = np.random.default_rng(0).uniform(-1, 1, (9, 8, 8, 1))
        >>> distance = PerceptualDistance(open_features("pixels", (8, 8, 1)), originals)
        >>> distance(originals)
        0.0
    """

    def __init__(self, network, originals):
        self._network = network
        self._features = self._of(originals)
        self._of_strangers = pdist(self._features).mean() if len(originals) > 1 else 0.0
        if not self._of_strangers > 0:
            raise UserError(
                f"{network.name}: two originals whose features differ are needed. Received: {len(originals)} image(s)"
            )

    def __call__(self, images):
        """The figure of images `[N, H, W, C]` in [-1, 1], in the originals' order; they are rounded to 8 bits."""
        distances = np.linalg.norm(self._of(images) - self._features, axis=1)
        return float(distances.mean() / self._of_strangers)

    def _of(self, images):
        pixels = to_uint8(images).numpy()
        parts = [self._network.features(pixels[first : first + _AT_ONCE]) for first in range(0, len(pixels), _AT_ONCE)]
        return np.concatenate(parts)
