"""Batches. For training they are of bytes, and their order, flips and crops are functions of (seed, step) and data.

So a run can continue at any step without repeating the steps before it.
"""

import math

import tensorflow as tf

from tf_blurdiff.compilation import never_clustered
from tf_blurdiff.data.images import Images, untuned
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.pixels import to_unit_range
from tf_blurdiff.diffusion.stateless_random import fold

# Sequences of random numbers from one seed.
_ORDER, _FLIPS, _CROPS = range(3)
# Pictures in memory are read in chunks of so many bytes, many steps at once; so many bytes wait to be taken.
_CHUNK_BYTES, _AHEAD_BYTES = 4 * 2**20, 16 * 2**20
# Of a worker's shares of steps, in a chunk and ahead: small images need not be read far ahead.
_MOST_SHARES = 64


def training_batches(
    images: Images,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    flip: bool = False,
    labels: bool = False,
    replicas: range = range(1),
    num_replicas: int = 1,
    crop: bool = False,
) -> tf.data.Dataset:
    """Endless batches for training; batch k is a function of (seed, k) and of the data alone.

    Every epoch is a fresh shuffle, seeded by (seed, epoch), and leaves out the last `num_images % batch_size` of it.
    A worker of several reads its own rows alone: replica r has rows `[r * B, (r + 1) * B)` of the global batch, which
    is the same however many replicas share it.

    What is read ahead takes at most 16 MB of pixels and 4 MB for each thread that reads, or two elements and one if
    those are more, and the next epoch's order, 8 bytes an image.

    Args:
        images: an `Images`.
        batch_size: of the global batch, at most `images.num_images`.
        seed: integer.
        start_step: the first batch to give; the ones before it are not read.
        flip: whether to mirror images left to right at random.
        labels: whether to yield `(x, label)` instead of `x`.
        replicas: consecutive numbers of this worker's replicas.
        num_replicas: of all workers together; a divisor of batch_size.
        crop: whether to cut images at random from the larger ones that there are where `open_images` was told so; else
            they are the centres.

    Returns:
        tf.data.Dataset of uint8 `[B, H, W, C]`, or of pairs with int64 `[B]`, where B is `batch_size / num_replicas`:
        for each step one element for each of `replicas`, in their order.

    Raises:
        DataError: if there are fewer images than batch_size, replicas cannot share it evenly, or labels are asked for
            and there are none.

    Example:
        >>> from tf_blurdiff.data.sources import open_images
        >>> digits = open_images("digits", image_size=8, channels=1)
        >>> x = next(iter(training_batches(digits, batch_size=32, seed=0)))
        >>> x.shape, x.dtype
        (TensorShape([32, 8, 8, 1]), tf.uint8)
    """
    if not 1 <= batch_size <= images.num_images:
        raise DataError(f"batch_size: got {batch_size}, expected 1 to {images.num_images}, the number of images")
    if batch_size % num_replicas:
        raise DataError(f"batch_size: got {batch_size}, expected a multiple of {num_replicas}, the number of replicas")
    images.check_labels(labels)
    rows = batch_size // num_replicas

    def drawn(steps, replicas, sequence, *size):
        """Numbers in [0, 1) for each row of these shares, `[K * B, *size]`."""

        @never_clustered
        def of_share(share):
            # The whole batch's are drawn, whoever needs them.
            step, replica = share
            numbers = (num_replicas, rows, *size)
            return tf.random.stateless_uniform(numbers, fold([seed, sequence], step), alg="philox")[replica]

        shares = tf.map_fn(of_share, (steps, replicas), fn_output_signature=tf.TensorSpec([rows, *size]))
        return tf.reshape(shares, [-1, *size])

    @never_clustered
    def load(steps, replicas, indices):
        indices = tf.reshape(indices, [-1])
        offsets = None
        if crop:
            places = tf.constant(images.margin, tf.float32) + 1.0
            offsets = tf.cast(drawn(steps, replicas, _CROPS, 2) * places, tf.int32)
        pixels = images.read(indices, offsets)
        if flip:
            pixels = _mirrored(pixels, drawn(steps, replicas, _FLIPS) < 0.5)
        pixels = tf.reshape(pixels, (-1, rows, *images.image_shape))
        return (pixels, tf.reshape(images.read_labels(indices), (-1, rows))) if labels else (pixels,)

    share_bytes = rows * math.prod(images.image_shape)
    in_chunk, ahead = (min(_MOST_SHARES, size // share_bytes) for size in (_CHUNK_BYTES, _AHEAD_BYTES))
    chunks = _chunks(images, batch_size, seed, start_step, replicas, num_replicas, max(1, in_chunk))
    loaded = chunks.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # Slices share the chunk's memory; unbatch() would copy it.
    shares = loaded.flat_map(lambda *chunk: tf.data.Dataset.from_tensor_slices(chunk if labels else chunk[0]))
    shares = shares.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return untuned(shares.prefetch(max(2, ahead)))


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
    """Images `[B, H, W, C]`, those of `which` mirrored left to right."""
    height, width, channels = pixels.shape[1:]
    turned = tf.cast(tf.where(which)[:, 0], tf.int32)
    # TensorFlow reverses these forms several times faster than the images' own, or what tf.where would choose from.
    lines = tf.reshape(tf.gather(pixels, turned), (-1, width) if channels == 1 else (-1, width, channels))
    mirrored = tf.reshape(tf.reverse(lines, [1]), (-1, height, width, channels))
    return tf.dynamic_stitch([tf.range(tf.shape(pixels)[0]), turned], [pixels, mirrored])


def _chunks(images, batch_size, seed, start_step, replicas, num_replicas, most_shares):
    """Endless `(steps, replicas, indices)` from start_step on: int64 `[K]`, `[K]` and `[K, B]`, of K shares of batches.

    K is 1 while reading is more than copying, so that shares are read beside one another, and the first soon.
    """
    steps_per_epoch, rows, own = images.num_images // batch_size, batch_size // num_replicas, len(replicas)
    first_epoch, skipped_steps = divmod(start_step, steps_per_epoch)

    @never_clustered
    def order(epoch):
        everything = tf.range(images.num_images, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(everything, fold([seed, _ORDER], epoch), alg="philox")
        batches = tf.reshape(order[: steps_per_epoch * batch_size], (steps_per_epoch, num_replicas, rows))
        return epoch, batches[:, replicas.start : replicas.stop]

    @never_clustered
    def chunks(epoch, indices):
        first = tf.where(epoch == first_epoch, tf.constant(skipped_steps, tf.int64), 0)
        steps = tf.range(first, steps_per_epoch, dtype=tf.int64)
        numbers = tf.tile(tf.range(replicas.start, replicas.stop, dtype=tf.int64), [steps_per_epoch - first])
        shares = (tf.repeat(epoch * steps_per_epoch + steps, own), numbers, tf.reshape(indices[first:], (-1, rows)))
        size = tf.where(images.are_in_memory(), tf.constant(most_shares, tf.int64), 1)
        return tf.data.Dataset.from_tensor_slices(shares).batch(size)

    # The next epoch's order is made while this one's is read.
    return tf.data.Dataset.counter(first_epoch).map(order).prefetch(1).flat_map(chunks)
