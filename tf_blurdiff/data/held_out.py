"""The part of a data set that is kept aside: pseudo-random, and the same on every machine."""

import numpy as np

from tf_blurdiff.data.pictures import DataError


def split_off(share: float, count: int, keys: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the images to learn from and of those that are held out, int64, both rising.

    Args:
        share: how many are held out, in (0, 1); rounded, but one or more.
        count: how many images there are.
        keys: uint64 `[count]`, on which alone it depends whether an image is among them; None for its number. Images
            that are added later then change little of it.

    Raises:
        DataError: if there are fewer than two images.

    Example:
        >>> split_off(0.3, 10)
        (array([0, 1, 2, 4, 6, 8, 9]), array([3, 5, 7]))
    """
    if count < 2:
        raise DataError(f"held_out: got {share}, expected 0, since there is 1 image")
    held_out = min(max(1, round(share * count)), count - 1)
    order = np.argsort(_mixed(np.arange(count, dtype=np.uint64) if keys is None else keys), kind="stable")
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _mixed(keys):
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of a key changes half of the bits."""
    mixed = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
