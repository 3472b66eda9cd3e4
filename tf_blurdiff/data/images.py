"""Pictures of one shape that are read by index: what every data source ends as."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_blurdiff.data.kept import KeptPixels
from tf_blurdiff.data.pictures import DataError


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The data set, without the thread by which TensorFlow tunes it: as many calls in parallel as there are cores.

    The end of an iterator wakes that thread before it says that it is over (`Model::OptimizeLoop`,
    `CancellationManager::StartCancel`). If the thread is quicker it goes back to sleep, for up to a minute, and the end
    waits for it.

    Example:
        >>> [int(number) for number in untuned(tf.data.Dataset.range(3))]
        [0, 1, 2]
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


class Images:
    """Pictures of one shape, read by index; made by `open_images`.

    Args:
        fetch: maps int64 indices `[B]` to uint8 `[B, H, W, C]`, both NumPy; from several threads at once.
        num_images: how many.
        image_shape: (H, W, C).
        labels: int64 `[num_images]`, or None.
        num_classes: number of labels, or None without labels.
        kept: where decoded pictures are in memory; `fetch` is called for those that are not there, and may put them
            there. None if none are kept.
        margin: how much higher and wider than image_shape the pictures are that `fetch` gives and `kept` has.
        class_names: of the labels, or None.
        held_out: the `Images` that were kept aside, or None.
        summary: a line for who looks on: how many there are, of which kinds, and what was left out; or None.

    Attributes:
        num_images, image_shape, labels, num_classes, class_names, held_out, summary, margin: the arguments.
    """

    def __init__(
        self,
        fetch: Callable[[np.ndarray], np.ndarray],
        num_images: int,
        image_shape: Sequence[int],
        labels: np.ndarray | None = None,
        num_classes: int | None = None,
        kept: KeptPixels | None = None,
        margin: tuple[int, int] = (0, 0),
        class_names: Sequence[str] | None = None,
        held_out: "Images | None" = None,
        summary: str | None = None,
    ) -> None:
        self._fetch, self._kept = fetch, kept
        self._failure: DataError | None = None
        self.num_images = num_images
        self.image_shape = tuple(image_shape)
        self.labels = labels
        self.num_classes, self.class_names = num_classes, None if class_names is None else tuple(class_names)
        self.margin = margin
        self.held_out, self.summary = held_out, summary

    def read(self, indices: Any, offsets: Any = None) -> tf.Tensor:
        """Reads pictures; eager or inside a tf.data graph of this process.

        Args:
            indices: int64 `[B]`.
            offsets: where each is cut from the larger picture that is there, int32 `[B, 2]` from 0 to `margin`, from
                the top and from the left; None for the middle.

        Returns:
            uint8 `[B, H, W, C]`.
        """
        pixels = self._read_whole(indices)
        if self.margin == (0, 0):
            return pixels
        height, width, _ = self.image_shape
        if offsets is None:
            top, left = (margin // 2 for margin in self.margin)
            return pixels[:, top : top + height, left : left + width]
        rows, columns = (offsets[:, axis, None] + tf.range(size) for axis, size in enumerate((height, width)))
        return tf.gather(tf.gather(pixels, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)

    def _read_whole(self, indices):
        height, width, channels = self.image_shape
        kept = self._kept
        with tf.device("CPU:0"):
            if kept is None:
                pixels = self._fetched(indices)
            else:
                pixels = tf.cond(kept.has(indices), lambda: kept.gather(indices), lambda: self._fetched(indices))
        shape = (indices.shape[0], height + self.margin[0], width + self.margin[1], channels)
        return tf.ensure_shape(pixels, shape)

    def are_in_memory(self) -> tf.Tensor:
        """Whether reading is copying, for nine in ten pictures or more: bool, of the moment it is run at."""
        return tf.constant(False) if self._kept is None else self._kept.has_most()

    def read_labels(self, indices: Any) -> tf.Tensor:
        """Reads int64 `[B]` at int64 indices `[B]`; there must be labels."""
        return tf.gather(tf.constant(self.labels, tf.int64), indices)

    def batches(
        self, batch_size: int, indices: Any = None, labels: bool = False, shuffle_seed: int | None = None
    ) -> tf.data.Dataset:
        """Images, each once.

        Args:
            batch_size: of every batch but the last, which has what is left.
            indices: which, in their order, int64 `[N]`; None for all, in the data set's order.
            labels: whether to yield `(images, labels)`.
            shuffle_seed: of an order that is another in every pass; None keeps the order of the indices.

        Returns:
            tf.data.Dataset of uint8 `[B, H, W, C]`, or of pairs with int64 `[B]`.

        Raises:
            DataError: if labels are asked for and there are none.

        Example:
            >>> from tf_blurdiff.data.sources import open_images
            >>> digits = open_images("digits", image_size=8, channels=1)
            >>> [len(images) for images in digits.batches(64, digits.evenly_spaced(100))]
            [64, 36]
        """
        self.check_labels(labels)
        indices = np.arange(self.num_images) if indices is None else indices
        rows = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
        if shuffle_seed is not None:
            rows = rows.shuffle(len(rows), seed=shuffle_seed)

        def load(row):
            return (self.read(row), self.read_labels(row)) if labels else self.read(row)

        loaded = rows.batch(batch_size).map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return untuned(loaded.prefetch(2))

    def evenly_spaced(self, count: int) -> np.ndarray:
        """The indices of so many images, evenly spaced over the data set, rising; of all if there are no more.

        Example:
            >>> from tf_blurdiff.data.sources import open_images
            >>> open_images("digits", image_size=8, channels=1).evenly_spaced(4)
            array([   0,  449,  898, 1347])
        """
        count = min(count, self.num_images)
        return np.arange(count, dtype=np.int64) * self.num_images // count

    def check_labels(self, wanted: bool) -> None:
        """Raises DataError if labels are wanted and there are none, or one that is of no class."""
        if not wanted:
            return
        if self.labels is None:
            raise DataError("labels: got True, expected False, since the data set has none")
        if self.num_classes is not None and self.num_images:
            least, largest = int(np.min(self.labels)), int(np.max(self.labels))
            if least < 0 or largest >= self.num_classes:
                raise DataError(f"labels: got {least} to {largest}, expected 0 to {self.num_classes - 1}")

    @contextlib.contextmanager
    def plain_errors(self) -> Iterator[None]:
        """Inside it, images that cannot be read raise the DataError, in place of TensorFlow's error that quotes it.

        So do those that are held out.
        """
        with contextlib.nullcontext() if self.held_out is None else self.held_out.plain_errors():
            try:
                yield
            except tf.errors.OpError:
                if self._failure is None:
                    raise
                raise self._failure from None
            finally:
                self._failure = None

    def _fetched(self, indices):
        return tf.numpy_function(self._fetch_noting_failure, [indices], tf.uint8, stateful=False)

    def _fetch_noting_failure(self, indices):
        try:
            return self._fetch(indices)
        except DataError as error:
            self._failure = error
            raise


def reader_of(pixels: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], KeptPixels | None]:
    """What reads an array's images by their indices, and where they are kept if they are in memory."""
    kept = None if isinstance(pixels, np.memmap) else KeptPixels(pixels)
    pixels = pixels if kept is None else kept.pixels
    return lambda indices: pixels[indices], kept
