"""Batches of numbers in [-1, 1]. For training their order and random flips are functions of (seed, step) and the data.

So a run can continue at any step without repeating the steps before it.
"""

import tensorflow as tf

from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.pixels import to_unit_range
from tf_blurdiff.data.sources import Images
from tf_blurdiff.diffusion.stateless_random import fold

# Two sequences of random numbers from one seed.
_ORDER, _FLIPS = range(2)


def training_batches(
    images: Images,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    flip: bool = False,
    labels: bool = False,
    replicas: range = range(1),
    num_replicas: int = 1,
) -> tf.data.Dataset:
    """Endless batches for training; batch k is a function of (seed, k) and of the data alone.

    Every epoch is a fresh shuffle, seeded by (seed, epoch), and leaves out the last `num_images % batch_size` of it.
    A worker of several reads its own rows alone: replica r has rows `[r * B, (r + 1) * B)` of the global batch, which
    is the same however many replicas share it.

    Args:
        images: an `Images`.
        batch_size: of the global batch, at most `images.num_images`.
        seed: integer.
        start_step: the first batch to give; the ones before it are not read.
        flip: whether to mirror images left to right at random.
        labels: whether to yield `(x, label)` instead of `x`.
        replicas: consecutive numbers of this worker's replicas.
        num_replicas: of all workers together; a divisor of batch_size.

    Returns:
        tf.data.Dataset of float32 `[B, H, W, C]` in [-1, 1], or of pairs with int64 `[B]`, where B is
        `batch_size / num_replicas`: for each step one element for each of `replicas`, in their order.

    Raises:
        DataError: if there are fewer images than batch_size, replicas cannot share it evenly, or labels are asked for
            and there are none.

    Example:
        >>> from tf_blurdiff.data.sources import open_images
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> x = next(iter(training_batches(digits, batch_size=32, seed=0)))
        >>> x.shape
        TensorShape([32, 8, 8, 1])
    """
    if not 1 <= batch_size <= images.num_images:
        raise DataError(f"batch_size: got {batch_size}, expected 1 to {images.num_images}, the number of images")
    if batch_size % num_replicas:
        raise DataError(f"batch_size: got {batch_size}, expected a multiple of {num_replicas}, the number of replicas")
    images.check_labels(labels)
    rows = batch_size // num_replicas

    def load(step, replica, indices):
        pixels = images.read(tf.ensure_shape(indices, (rows,)))
        if flip:
            # The whole batch's are drawn, whoever needs them.
            drawn = tf.random.stateless_uniform((num_replicas, rows), fold([seed, _FLIPS], step), alg="philox")
            pixels = _mirrored(pixels, drawn[replica] < 0.5)
        return (pixels, images.read_labels(indices)) if labels else (pixels,)

    def finish(pixels, *label):
        return (to_unit_range(pixels), *label) if labels else to_unit_range(pixels)

    shares = _shares(images.num_images, batch_size, seed, start_step, replicas, num_replicas)
    batches = shares.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # Floats come last: they are four times as large, and would be so in every buffer.
    return batches.prefetch(tf.data.AUTOTUNE).map(finish)


def evenly_spaced_batches(images: Images, count: int, batch_size: int, labels: bool = False) -> tf.data.Dataset:
    """So many images, evenly spaced over the data set, each once and in its order: not for training.

    Returns:
        tf.data.Dataset of `(x,)` or `(x, label)`: float32 `[B, H, W, C]` in [-1, 1] and int64 `[B]`. The last batch may
        have fewer than batch_size.

    Raises:
        DataError: if labels are asked for and there are none.

    Example:
        >>> from tf_blurdiff.data.sources import open_images
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> [x.shape[0] for x, in evenly_spaced_batches(digits, count=50, batch_size=32)]
        [32, 18]
    """
    batches = images.batches(batch_size, images.evenly_spaced(count), labels)
    return batches.map(lambda pixels, *label: (to_unit_range(pixels), *label))


def _mirrored(pixels, which):
    # Several times faster than tf.where and a slice with a negative step.
    both = tf.concat([pixels, tf.reverse(pixels, [2])], axis=0)
    return tf.gather(both, tf.range(len(pixels)) + tf.where(which, len(pixels), 0))


def _shares(num_images, batch_size, seed, start_step, replicas, num_replicas):
    """Endless `(step, replica, indices)` of the given replicas, from start_step on."""
    steps_per_epoch = num_images // batch_size
    first_epoch, skipped_steps = divmod(start_step, steps_per_epoch)
    first, own, rows = replicas[0], len(replicas), batch_size // num_replicas

    def epoch_indices(epoch):
        everything = tf.range(num_images, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(everything, fold([seed, _ORDER], epoch), alg="philox")
        batches = tf.reshape(order[: steps_per_epoch * batch_size], (steps_per_epoch, num_replicas, rows))
        return tf.data.Dataset.from_tensor_slices(tf.reshape(batches[:, first : first + own], (-1, rows)))

    indices = tf.data.Dataset.counter(first_epoch).flat_map(epoch_indices)
    indices = indices.enumerate(first_epoch * steps_per_epoch * own)
    # Skipped here, where an element is a row of indices and costs nothing.
    indices = indices.skip(skipped_steps * own)
    shares = indices.map(lambda count, row: (count // own, first + count % own, row))
    return shares.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
