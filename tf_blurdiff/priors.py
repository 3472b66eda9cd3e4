"""What is known of the data without a network: the statistics of its DCT coefficients."""

import numpy as np

from tf_blurdiff.dct import dct2


def dct_statistics(batches):
    """Mean and standard deviation of each DCT coefficient, per channel.

    Args:
        batches: an iterable of image batches `[B, H, W, C]` in [-1, 1] (a finite `tf.data.Dataset`, a list of arrays).

    Returns:
        `(mean, std)`, float32 arrays `[H, W, C]`.

    Raises:
        ValueError: without an image.

    Example:
        >>> mean, std = dct_statistics([np.zeros((2, 4, 4, 1)), np.ones((2, 4, 4, 1))])
        >>> float(mean[0, 0, 0]), float(std[0, 0, 0])
        (2.0, 2.0)
    """
    count, total, total_of_squares = 0, 0.0, 0.0
    for batch in batches:
        freq = dct2(batch).numpy().astype(np.float64)
        count += len(freq)
        total = total + freq.sum(axis=0)
        total_of_squares = total_of_squares + np.square(freq).sum(axis=0)
    if not count:
        raise ValueError("DCT statistics need at least one image. Received: an empty data set")
    mean = total / count
    variance = np.maximum(total_of_squares / count - np.square(mean), 0.0)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
