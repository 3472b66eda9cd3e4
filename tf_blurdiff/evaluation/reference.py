"""The real images of an evaluation, and their features: computed once, and kept in a cache folder."""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tqdm import tqdm

from tf_blurdiff.data import Images
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.features import FeatureNetwork
from tf_blurdiff.evaluation.metrics import FeatureStatistics
from tf_blurdiff.files import expanded, writable_folder, write_atomically, writing

# Features of so many images of a set stay in memory, for the metrics that need them one by one.
KEPT = 10_000
# Enough for every metric, in each of the two parts of the real images.
MIN_IMAGES = 20
_BATCH_SIZE = 64
_ORDER_SEED = 0
# Part of every key: another one leaves the files of this one alone.
_FORMAT = "tf_blurdiff reference features 2"


class FeatureSet(NamedTuple):
    """Features of a set of images."""

    statistics: FeatureStatistics  # of all of them
    kept: np.ndarray  # of the first ones, float32 [n, D]


class RealFeatures(NamedTuple):
    """Features of the reference in two parts, whose distance is the floor for all others."""

    one: FeatureSet
    rest: FeatureSet

    @property
    def everything(self) -> FeatureSet:
        """Both parts as one `FeatureSet`."""
        statistics = FeatureStatistics(len(self.one.statistics.mean))
        for part in self:
            statistics.merge(part.statistics)
        return FeatureSet(statistics, np.concatenate([part.kept for part in self]))

    def numbers_kept(self) -> np.ndarray:
        """The reference's numbers of the images whose features `everything` has kept."""
        first = self.one.statistics.count
        return np.concatenate([np.arange(len(self.one.kept)), first + np.arange(len(self.rest.kept))])


class Reference:
    """A data set's images, or evenly spaced ones of them, each once and in a random order that is always the same.

    Args:
        images: a `data.Images`.
        num_images: how many of them; None or too many is all.
        verbose: whether to show progress bars.

    Attributes:
        images: the `data.Images`.
        num_images: how many.

    Raises:
        UserError: for too few images; and when they are read, DataError for ones that cannot be.

    Example:
        >>> from tf_blurdiff.data.sources import open_images
        >>> reference = Reference(open_images("digits", image_size=8, channels=1), num_images=100)
        >>> [len(batch) for batch in reference.batches()]
        [64, 36]
    """

    def __init__(self, images: Images, num_images: int | None = None, verbose: bool = False) -> None:
        count = images.num_images if num_images is None else min(num_images, images.num_images)
        if count < 2 * MIN_IMAGES:
            raise UserError(f"the reference must have {2 * MIN_IMAGES} images or more. Received: {count}")
        self.images, self.num_images, self.verbose = images, count, verbose
        self._indices = np.random.default_rng(_ORDER_SEED).permutation(images.evenly_spaced(count))

    def batches(self, first: int = 0, last: int | None = None, what: str = "real images") -> Iterator[np.ndarray]:
        """The images number `first` to `last - 1`, as uint8 arrays `[B, H, W, C]`, with a progress bar."""
        indices = self._indices[first:last]
        progress = tqdm(total=len(indices), desc=what, unit="image", disable=not self.verbose)
        with progress, self.images.plain_errors():
            for batch in self.images.batches(_BATCH_SIZE, indices).as_numpy_iterator():
                yield batch
                progress.update(len(batch))

    def read(self, numbers: ArrayLike) -> np.ndarray:
        """The images of these numbers, uint8 `[B, H, W, C]`."""
        with self.images.plain_errors():
            return self.images.read(tf.constant(self._indices[np.asarray(numbers)])).numpy()

    def labels(self, count: int) -> np.ndarray | None:
        """The labels of the first images, int64 `[count]`, again from the start where there are fewer; or None."""
        if self.images.labels is None:
            return None
        return np.asarray(self.images.labels)[self._indices[np.arange(count) % self.num_images]]

    def digest(self) -> str:
        """Hexadecimal, of every pixel in its place."""
        digest = hashlib.sha256(f"{self.num_images} {self.images.image_shape}".encode())
        for batch in self.batches(what="reading"):
            digest.update(np.ascontiguousarray(batch).data)
        return digest.hexdigest()[:16]

    def nearest(self, queries: np.ndarray, count: int) -> np.ndarray:
        """For uint8 images `[Q, H, W, C]` the numbers `[Q, count]` of the nearest images, by squared pixel differences.

        Example:
            >>> from tf_blurdiff.data.sources import open_images
            >>> reference = Reference(open_images("digits", image_size=8, channels=1), num_images=100)
            >>> reference.nearest(reference.read([7, 2]), 1).tolist()
            [[7], [2]]
        """
        flat = queries.reshape(len(queries), -1).astype(np.float64)
        best: np.ndarray = np.empty((len(flat), 0))
        numbers: np.ndarray = np.empty((len(flat), 0), np.int64)
        first = 0
        for batch in self.batches(what="neighbours"):
            others = batch.reshape(len(batch), -1).astype(np.float64)
            # Whole numbers below 2^53: exact.
            distances = (flat**2).sum(1)[:, None] + (others**2).sum(1) - 2.0 * flat @ others.T
            best = np.concatenate([best, distances], axis=1)
            numbers = np.concatenate([numbers, np.tile(first + np.arange(len(batch)), (len(flat), 1))], axis=1)
            order = np.argsort(best, axis=1, kind="stable")[:, :count]
            best, numbers = (np.take_along_axis(each, order, axis=1) for each in (best, numbers))
            first += len(batch)
        return numbers


def gather_features(network: FeatureNetwork, batches: Iterable[np.ndarray], keep: int) -> FeatureSet:
    """The `FeatureSet` of uint8 batches of images, of which `keep` features are kept."""
    statistics, kept, missing = FeatureStatistics(network.num_features), [], keep
    for batch in batches:
        features = network.features(batch)
        statistics.update(features)
        kept.append(features[:missing].astype(np.float32))
        missing -= len(kept[-1])
    return FeatureSet(statistics, np.concatenate(kept))


def real_features(
    reference: Reference, digest: str, network: FeatureNetwork, size_of_one: int, cache_dir: str | os.PathLike
) -> RealFeatures:
    """The reference's `RealFeatures`, of the cache or for the cache.

    Args:
        reference: a `Reference`.
        digest: of its pixels, `Reference.digest`.
        network: a `features.FeatureNetwork`.
        size_of_one: images in the first of the two parts.
        cache_dir: a folder, which is made.

    Raises:
        UserError: if the cache cannot be written.
    """
    key = f"{_FORMAT} {digest} {network.name} {network.digest} {size_of_one} {KEPT}"
    path = expanded(cache_dir) / f"features-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    # What a damaged file raises depends on where the damage is; it is then written anew.
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _read(path)
    writable_folder(path.parent, f"cache_dir {path.parent}")
    what = f"real {network.name}"
    one = gather_features(network, reference.batches(0, size_of_one, what), KEPT // 2)
    rest = gather_features(network, reference.batches(size_of_one, None, what), KEPT - len(one.kept))
    _write(path, (one, rest))
    return RealFeatures(one, rest)


def _read(path):
    parts = []
    with np.load(path) as file:
        for number in range(2):
            kept = file[f"kept_{number}"]
            statistics = FeatureStatistics(kept.shape[1])
            statistics.count = int(file[f"count_{number}"])
            statistics.mean, statistics.scatter = file[f"mean_{number}"], file[f"scatter_{number}"]
            parts.append(FeatureSet(statistics, kept))
    return RealFeatures(*parts)


def _write(path, parts):
    arrays: dict[str, Any] = {}
    for number, (statistics, kept) in enumerate(parts):
        arrays |= {f"kept_{number}": kept, f"count_{number}": statistics.count}
        arrays |= {f"mean_{number}": statistics.mean, f"scatter_{number}": statistics.scatter}
    with writing(f"cache_dir {path.parent}"):
        # Two evaluations may write the same at once.
        write_atomically(path, lambda temporary: np.savez(temporary, **arrays), writer=f"-{os.getpid()}")
