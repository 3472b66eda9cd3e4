"""Random numbers that are functions of saved things: a seed, an iteration, a row of the global batch.

Nothing here keeps a state, so a resumed run draws what an uninterrupted one would, and a row of the global batch
draws the same numbers whichever replica works on it. Every number is of the generator Philox 4x32-10, and is the same
on a processor, on a GPU and through XLA, normal ones up to rounding.

Reference: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tf_blurdiff.compilation import is_compiling, may_be_clustered

# Named, so that CPU and GPU draw the same numbers.
_PHILOX = tf.random.Algorithm.PHILOX.value
# One step of Philox's counter gives this many numbers.
_NUMBERS_PER_COUNT = 4
# A processor works on up to 16 floats at once and on what is left over singly, with another rounding: nothing is left.
_COUNTS_AT_ONCE = 8
_WORD = 2**32 - 1
# Philox's multipliers of a round, what a round adds to the key, and the key that TensorFlow mixes seeds with.
_MULTIPLIERS, _KEY_STEPS, _MIXING_KEY = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), (0x3EC8F720, 0x02461E29)
_ROUNDS = 10
# Where replicas have unequal shares: the first row of this one's, and the size of the global batch.
_SHARE: contextvars.ContextVar[tuple[Any, Any] | None] = contextvars.ContextVar("share", default=None)


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
        shape: `[B, ...]`; B, the replica's own batch, may be a tensor. It is the same on every replica, or in
            `shares_of_any_size`.

    Returns:
        float32 of that shape.
    """
    return _rows(tf.raw_ops.StatelessRandomNormalV2, _normal, seed, shape)


def uniform_rows(seed: Any, shape: Any) -> tf.Tensor:
    """Like `normal_rows`, uniform in [0, 1)."""
    return _rows(tf.raw_ops.StatelessRandomUniformV2, _uniform, seed, shape)


def uniform(seed: Any) -> tf.Tensor:
    """One number in [0, 1) of a seed `[2]`, the same on every replica; float32."""
    if not _are_drawn_here():
        return tf.random.stateless_uniform((), seed, alg="philox")
    words = _mixed(*tf.unstack(tf.cast(seed, tf.int64)))
    zero = tf.zeros((), tf.int64)
    return _uniform(_philox(words[:2], (zero, zero, *words[2:])))[0]


def normal_by_seed(seeds: Any, stream: Any, shape: Any) -> tf.Tensor:
    """Standard normal numbers, each row a function of its own seed and of `stream` alone.

    Args:
        seeds: int64 `[B]`, any values.
        stream: integer scalar, which of a seed's sequences to draw.
        shape: of one row, without the batch.

    Returns:
        float32 `[B, *shape]`.
    """
    # As tf.random.stateless_normal of the pair (seed, stream), for all rows at once.
    stream = tf.fill(tf.shape(seeds), tf.cast(stream, tf.int64))
    columns = [word[:, None] for word in _mixed(seeds, stream)]
    num_counts = _COUNTS_AT_ONCE * -(-math.prod(shape) // (_NUMBERS_PER_COUNT * _COUNTS_AT_ONCE))
    counts = tf.range(num_counts, dtype=tf.int64)
    numbers = _normal(_philox(columns[:2], (*_words(counts), *columns[2:])))
    numbers = tf.reshape(numbers, [-1, num_counts * _NUMBERS_PER_COUNT])
    return tf.reshape(numbers[:, : math.prod(shape)], [-1, *shape])


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


@contextlib.contextmanager
def shares_of_any_size(batch: tf.Tensor) -> Iterator[None]:
    """Within, rows are counted right also where replicas have unequal shares of the global batch, or none.

    All replicas must enter it. If the number of rows is known while a step is traced it is the same on each, and
    nothing is done; else they tell each other how many rows they have.

    Args:
        batch: this replica's share, `[B, ...]`.
    """
    replica, num_replicas = _replica()
    if batch.shape[0] is not None or tf.get_static_value(num_replicas) == 1:
        yield
        return
    replicas = tf.range(num_replicas)
    own = tf.where(replicas == replica, tf.shape(batch, tf.int64)[0], 0)
    rows = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)
    token = _SHARE.set((tf.reduce_sum(tf.where(replicas < replica, rows, 0)), tf.reduce_sum(rows)))
    try:
        yield
    finally:
        _SHARE.reset(token)


def global_rows(batch_size: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers of this replica's rows in the global batch, int64 `[B]`, and the global batch's size."""
    batch_size = tf.cast(batch_size, tf.int64)
    first, total = _share(batch_size)
    return first + tf.range(batch_size), total


def _share(batch_size):
    replica, num_replicas = _replica()
    return _SHARE.get() or (replica * batch_size, num_replicas * batch_size)


def _rows(operation, of_words, seed, shape):
    batch_size, row_shape = tf.cast(shape[0], tf.int64), [int(size) for size in shape[1:]]
    row_size = math.prod(row_shape)
    # Each row starts on a whole count; the few numbers past its end are dropped.
    counts = -(-row_size // _NUMBERS_PER_COUNT)
    first_count = _share(batch_size)[0] * counts
    if _are_drawn_here():
        words = _mixed(*tf.unstack(tf.cast(seed, tf.int64)))
        numbers = of_words(_philox(words[:2], (*_words(first_count + tf.range(batch_size * counts)), *words[2:])))
        numbers = tf.reshape(numbers, tf.stack([batch_size, counts * _NUMBERS_PER_COUNT]))
    else:
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
        counter = tf.bitcast(tf.bitcast(counter, tf.int64) + tf.stack([first_count, 0]), tf.uint64)
        drawn_shape = tf.stack([batch_size, counts * _NUMBERS_PER_COUNT])
        numbers = operation(shape=drawn_shape, key=key, counter=counter, alg=_PHILOX)
    return tf.reshape(numbers[:, :row_size], tf.stack([batch_size, *row_shape]))


def _are_drawn_here():
    """XLA's own numbers of a key are not TensorFlow's; what is written out in integers is the same everywhere."""
    return is_compiling() or may_be_clustered()


def _mixed(seed, stream):
    """What TensorFlow makes of a pair of seeds: the key, and the upper half of the counter; two words each."""
    return _philox(_MIXING_KEY, (*_words(seed), *_words(stream)))


# A function of a graph, which is traced once and not at every draw: ten rounds are 500 operations.
@tf.function(autograph=False, reduce_retracing=True)
def _philox(key, counter):
    """Four random words for each key (of two words) and counter (of four); words are int64 in [0, 2^32)."""
    (key_0, key_1), (a, b, c, d) = key, counter
    for _ in range(_ROUNDS):
        (low_a, high_a), (low_c, high_c) = _words(_MULTIPLIERS[0] * a), _words(_MULTIPLIERS[1] * c)
        a, b, c, d = high_c ^ b ^ key_0, low_c, high_a ^ d ^ key_1, low_a
        key_0, key_1 = (key_0 + _KEY_STEPS[0]) & _WORD, (key_1 + _KEY_STEPS[1]) & _WORD
    return a, b, c, d


def _words(numbers):
    """The low and the high 32 bits of int64."""
    return numbers & _WORD, tf.bitwise.right_shift(numbers, tf.constant(32, tf.int64)) & _WORD


def _uniform(words):
    """`[..., 4]` in [0, 1), as TensorFlow's: of 23 bits."""
    return tf.cast(tf.stack(words, axis=-1) & 0x7FFFFF, tf.float32) * 2.0**-23


def _normal(words):
    """`[..., 2, 2]`, standard normal: Box and Muller's transform of two uniform numbers to two."""
    uniform = _uniform(words)
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(uniform[..., ::2], 1e-7)))
    angle = 2.0 * math.pi * uniform[..., 1::2]
    return tf.stack([radius * tf.sin(angle), radius * tf.cos(angle)], axis=-1)


def _replica():
    context = tf.distribute.get_replica_context()
    if context is None:
        return tf.constant(0, tf.int64), tf.constant(1, tf.int64)
    return tf.cast(context.replica_id_in_sync_group, tf.int64), tf.constant(context.num_replicas_in_sync, tf.int64)
