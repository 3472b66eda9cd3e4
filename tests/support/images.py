"""Data for tests: images that say which one they are."""

import numpy as np

from tf_blurdiff.data.sources import in_memory


def numbered(count, shape=(2, 3, 1), labels=True):
    """Images whose top left pixel is their own index."""
    pixels = np.zeros((count, *shape), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return in_memory(pixels, np.arange(count) if labels else None, count if labels else None)


def all_of(images):
    """Every image of an `Images`, uint8 `[N, H, W, C]`, in its order."""
    return np.concatenate(list(images.batches(64).as_numpy_iterator()))
