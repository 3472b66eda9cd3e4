"""What is known of the data without a network: its DCT statistics, and where sampling starts.

A process that ends in noise starts from N(0, I). One that only blurs starts from what blur leaves of the data, and a
`BlurredPrior` draws that without the data.
"""

from typing import Any, NamedTuple, Unpack

import keras
import numpy as np
from keras import ops

from tf_blurdiff.diffusion.dct import dct2
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.errors import UserError
from tf_blurdiff.networks import LayerArguments

# A standard deviation that is not known: nothing is clipped to it.
UNKNOWN_STD = 1e30
# A coefficient of which blur leaves less than this is drawn by itself.
_JOINT_GAIN = 0.01
# At most so many coefficients per channel are drawn jointly: their covariance has the square of it.
_MOST_JOINT = 64
_COMPONENTS = 8
# The mixture is fitted on a sample of the images that is at most twice this.
_FITTED_IMAGES = 20_000


class Statistics(NamedTuple):
    """Of images in the DCT basis: `mean` and `std`, `[H, W, C]`, and of a sample of them the chosen coefficients.

    `chosen` is `[N, K, C]`, `labels` its int64 `[N]` or None.
    """

    mean: np.ndarray
    std: np.ndarray
    chosen: np.ndarray
    labels: np.ndarray | None


def dct_statistics(batches: Any, positions: Any = ((), ())) -> Statistics:
    """Gathers what `DiffusionModel.adapt` keeps of the training images.

    Args:
        batches: an iterable of image batches `[B, H, W, C]` in [-1, 1], or of `(images, labels)` (a finite
            `tf.data.Dataset`, a list of arrays).
        positions: rows and columns of the coefficients to choose.

    Returns:
        `Statistics`, NumPy arrays.

    Raises:
        UserError: without an image.

    Example:
        >>> statistics = dct_statistics([np.zeros((2, 4, 4, 1)), np.ones((2, 4, 4, 1))])
        >>> float(statistics.mean[0, 0, 0]), float(statistics.std[0, 0, 0])
        (2.0, 2.0)
    """
    count = 0
    total: Any = 0.0
    total_of_squares: Any = 0.0
    sample = _Sample(_FITTED_IMAGES)
    rows, columns = (np.asarray(each, int) for each in positions)
    for batch in batches:
        x0, label, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if not len(x0):
            continue
        freq = dct2(x0).numpy().astype(np.float64)
        count += len(freq)
        total = total + freq.sum(axis=0)
        total_of_squares = total_of_squares + np.square(freq).sum(axis=0)
        sample.add(freq[:, rows, columns], None if label is None else ops.convert_to_numpy(label))
    if not count:
        raise UserError("DCT statistics need at least one image whose pixels are numbers. Received: none")
    mean = total / count
    variance = np.maximum(total_of_squares / count - np.square(mean), 0.0)
    return Statistics(mean.astype(np.float32), np.sqrt(variance).astype(np.float32), *sample.arrays())


class _Sample:
    """Every image while there are few, then every second, every fourth, ...: at most twice `size` of them."""

    def __init__(self, size: int) -> None:
        self.size, self.stride, self.seen = size, 1, 0
        self.rows: list[np.ndarray] = []
        self.labels: list[Any] = []

    def add(self, rows: Any, labels: Any) -> None:
        if self.seen and (labels is None) != (not self.labels):
            raise UserError("labels must come with every batch, or with none. Received: both kinds of batches")
        for number, row in enumerate(rows):
            if (self.seen + number) % self.stride == 0:
                self.rows.append(row)
                if labels is not None:
                    self.labels.append(labels[number])
        self.seen += len(rows)
        while len(self.rows) >= 2 * self.size:
            self.rows, self.labels, self.stride = self.rows[::2], self.labels[::2], 2 * self.stride

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        return np.array(self.rows), np.array(self.labels, np.int64) if self.labels else None


class BlurredPrior(keras.layers.Layer):
    """Draws what the process leaves of the data at t = 1, in the DCT basis, before any noise.

    The coefficients that keep more than a hundredth of themselves are drawn jointly, from a mixture of Gaussians that
    is fitted to the data; the others one by one. Where only the mean colour is left this is cold diffusion's
    channel-mean mixture. With labels there is one Gaussian for each.

    Args:
        process: a `Process`.
        image_shape: (H, W, C).
        num_classes: number of labels, or None.

    Call arguments:
        normals: standard normal, `[B, H, W, C]`.
        choice: standard normal, `[B, 1]`; picks the mixture's component.
        mean, std: of the data's coefficients, `[H, W, C]`.
        label: int64 `[B]`; num_classes for none. Not used without labels.

    Returns:
        float32 `[B, H, W, C]`.
    """

    def __init__(
        self,
        process: Process,
        image_shape: tuple[int, int, int],
        num_classes: int | None = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        height, width, self.channels = image_shape
        gain = ops.convert_to_numpy(process.marginal([1.0], height, width).alpha)[0, :, :, 0]
        self.gain = gain[:, :, None]
        strongest = np.argsort(-gain, axis=None, kind="stable")
        joint = strongest[: min(_MOST_JOINT, max(1, int((gain > _JOINT_GAIN).sum())))]
        self.positions = np.unravel_index(joint, gain.shape)
        self._order = _order_of(joint, gain.size, self.channels)
        self.num_classes = num_classes
        size, count = len(joint) * self.channels, num_classes or _COMPONENTS
        self.shares = self.add_weight(name="shares", shape=(count,), initializer="zeros", trainable=False)
        self.means = self.add_weight(name="means", shape=(count, size), initializer="zeros", trainable=False)
        self.roots = self.add_weight(name="roots", shape=(count, size, size), initializer="zeros", trainable=False)
        self.built = True

    def fit(self, statistics: Statistics) -> None:
        """Fits the mixture to `dct_statistics(batches, self.positions)`; a UserError if labels are missing."""
        rows = (statistics.chosen * self.gain[self.positions]).reshape(len(statistics.chosen), -1)
        # In units of their own spread, so that scikit-learn's floor under variances is the same for all.
        scale = np.maximum(rows.std(axis=0), 1e-12)
        if self.num_classes is None:
            parts = _mixture(rows / scale)
        else:
            parts = _gaussians(rows / scale, _checked(statistics.labels, self.num_classes), self.num_classes)
        shares, means, roots = (np.zeros(variable.shape) for variable in (self.shares, self.means, self.roots))
        for number, (share, mean, covariance) in enumerate(parts):
            values, vectors = np.linalg.eigh(covariance)
            shares[number], means[number] = share, scale * mean
            roots[number] = scale[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))
        for variable, value in zip((self.shares, self.means, self.roots), (shares, means, roots)):
            variable.assign(value)

    def call(self, normals: Any, choice: Any, mean: Any, std: Any, label: Any) -> Any:
        edges = ops.cumsum(self.shares)[:-1]
        uniform = 0.5 * (1.0 + ops.erf(choice / np.sqrt(2.0)))
        component = ops.sum(ops.cast(uniform >= edges, "int64"), axis=1)
        if self.num_classes is not None:
            component = ops.where(label < self.num_classes, label, component)
        flat = ops.reshape(normals, (-1, self.gain.size * self.channels))
        ordered = ops.take(flat, self._order, axis=1)
        size = self.means.shape[1]
        root, joint_mean = ops.take(self.roots, component, axis=0), ops.take(self.means, component, axis=0)
        joint = joint_mean + ops.einsum("bij,bj->bi", root, ordered[:, :size])
        single = ops.take(ops.reshape(mean * self.gain, -1), self._order[size:])
        spread = ops.take(ops.reshape(std * self.gain, -1), self._order[size:])
        drawn = ops.concatenate([joint, single + spread * ordered[:, size:]], axis=1)
        return ops.reshape(ops.take(drawn, np.argsort(self._order), axis=1), ops.shape(normals))


def _mixture(rows):
    """(share, mean, covariance) of each Gaussian of a mixture."""
    from sklearn.mixture import GaussianMixture

    rows = rows if len(rows) > 1 else rows.repeat(2, axis=0)  # scikit-learn wants two.
    mixture = GaussianMixture(min(_COMPONENTS, len(np.unique(rows, axis=0))), random_state=0).fit(rows)
    return zip(mixture.weights_, mixture.means_, mixture.covariances_)


def _checked(labels, num_classes):
    if labels is None or labels.min() < 0 or labels.max() >= num_classes:
        given = "none" if labels is None else f"labels in [{labels.min()}, {labels.max()}]"
        raise UserError(
            f"a model with labels starts from what they say: give labels in [0, {num_classes}). Received: {given}"
        )
    return labels


def _gaussians(rows, labels, num_classes):
    """(share, mean, covariance) of the rows of each label; of all rows for a label that has none."""
    for label in range(num_classes):
        group = rows[labels == label]
        share, group = len(group) / len(rows), group if len(group) else rows
        yield share, group.mean(axis=0), np.atleast_2d(np.cov(group, rowvar=False, bias=True))


def _order_of(joint, size, channels):
    """Flat indices of `[H, W, C]`: the joint coefficients first, channel by channel, then the others."""
    index = np.arange(size * channels).reshape(size, channels)
    rest = np.setdiff1d(np.arange(size), joint)
    return np.concatenate([index[joint].ravel(), index[rest].ravel()])
