"""Random numbers that are functions of saved things: a seed, an iteration, a row of the global batch.

Nothing here keeps a state, so a resumed run draws what an uninterrupted one would, and a row of the global batch
draws the same numbers whichever replica works on it.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

# Named, so that CPU and GPU draw the same numbers.
_PHILOX = tf.random.Algorithm.PHILOX.value
# One step of Philox's counter gives this many numbers.
_NUMBERS_PER_COUNT = 4


def fold(seed: Any, *data: Any) -> tf.Tensor:
    """Derives a seed (`[2]`) from another and from integers, scalars or tensors.

    Example:
        >>> fold([0, 1], 7).shape
        TensorShape([2])
    """
    seed = tf.cast(seed, tf.int64)
    for value in data:
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(value, tf.int64), alg="philox")
    return seed


def normal_rows(seed: Any, shape: Any) -> tf.Tensor:
    """Standard normal numbers for this replica's rows of the global batch.

    The global batch's numbers form one stream, and each replica reads its own rows out of it.

    Args:
        seed: integer `[2]`, the same on every replica.
        shape: `[B, ...]`; B, the replica's own batch, may be a tensor and is the same on every replica.

    Returns:
        float32 of that shape.
    """
    return _rows(tf.raw_ops.StatelessRandomNormalV2, seed, shape)


def uniform_rows(seed: Any, shape: Any) -> tf.Tensor:
    """Like `normal_rows`, uniform in [0, 1)."""
    return _rows(tf.raw_ops.StatelessRandomUniformV2, seed, shape)


def normal_by_seed(seeds: Any, stream: Any, shape: Any) -> tf.Tensor:
    """Standard normal numbers, each row a function of its own seed and of `stream` alone.

    Args:
        seeds: int64 `[B]`, any values.
        stream: integer scalar, which of a seed's sequences to draw.
        shape: of one row, without the batch.

    Returns:
        float32 `[B, *shape]`.
    """
    pairs = tf.stack([seeds, tf.fill(tf.shape(seeds), tf.cast(stream, tf.int64))], axis=1)
    draw = lambda pair: tf.random.stateless_normal(shape, pair, alg="philox")
    return tf.map_fn(draw, pairs, fn_output_signature=tf.TensorSpec(shape, tf.float32))


class SeededNoise(NamedTuple):
    """Standard normal numbers for each image, from its own seed, or mixed from two seeds.

    A mixture is `weight * of the seed + other_weight * of the other seed`; where the weights' squares sum to 1 it is
    standard normal again. Seeds are int64 `[B]`, weights float32 that broadcast with `[B, H, W, C]`.
    """

    seeds: Any
    other_seeds: Any = None
    weight: Any = None
    other_weight: Any = None

    def draw(self, stream: Any, shape: Any) -> tf.Tensor:
        """float32 `[B, *shape]`; see `normal_by_seed`."""
        numbers = normal_by_seed(self.seeds, stream, shape)
        if self.other_seeds is None:
            return numbers
        return self.weight * numbers + self.other_weight * normal_by_seed(self.other_seeds, stream, shape)


def global_rows(batch_size: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers of this replica's rows in the global batch, int64 `[B]`, and the global batch's size."""
    replica, num_replicas = _replica()
    batch_size = tf.cast(batch_size, tf.int64)
    return replica * batch_size + tf.range(batch_size), num_replicas * batch_size


def _rows(operation, seed, shape):
    batch_size, row_shape = tf.cast(shape[0], tf.int64), [int(size) for size in shape[1:]]
    row_size = math.prod(row_shape)
    counts = -(-row_size // _NUMBERS_PER_COUNT)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    first_count = _replica()[0] * batch_size * counts
    # Each row starts on a whole count; the few numbers past its end are dropped.
    counter = tf.bitcast(tf.bitcast(counter, tf.int64) + tf.stack([first_count, 0]), tf.uint64)
    drawn_shape = tf.stack([batch_size, counts * _NUMBERS_PER_COUNT])
    numbers = operation(shape=drawn_shape, key=key, counter=counter, alg=_PHILOX)
    return tf.reshape(numbers[:, :row_size], tf.stack([batch_size, *row_shape]))


def _replica():
    context = tf.distribute.get_replica_context()
    if context is None:
        return tf.constant(0, tf.int64), tf.constant(1, tf.int64)
    return tf.cast(context.replica_id_in_sync_group, tf.int64), tf.constant(context.num_replicas_in_sync, tf.int64)
