"""What the data's DCT statistics alone make of a measurement: the best linear estimate, known as Wiener's filter.

Every estimate is that of images whose DCT coefficients are independent, with the mean freq_mean and the standard
deviation freq_std, float32 `[H, W, C]`, measured with the noise of rounding to 8 bits.
"""

import numpy as np

import tf_blurdiff as bd
from tf_blurdiff.diffusion.inverse_problems import ROUNDING_STD


def linear_estimate(freq_mean, freq_std, measured):
    """Images `[B, H, W, C]` in [-1, 1], given a measurement that is diagonal in the DCT basis, such as `Blurred`."""
    return np.clip(bd.idct2(measured.consistent(freq_mean[None], freq_std[None] ** 2)), -1, 1)


def linear_filling(freq_mean, freq_std, images, mask):
    """Images `[B, H, W, C]` with other pixels where mask `[H, W]` is True: their mean given the pixels around."""
    height, width, channels = freq_mean.shape
    unknown = mask.reshape(-1)
    # Row i is what coefficient i adds to the pixels, which it makes depend on each other.
    basis = np.asarray(bd.idct2(np.eye(height * width, dtype="float32").reshape(-1, height, width, 1)), np.float64)
    basis = basis.reshape(height * width, height * width)
    mean = np.asarray(bd.idct2(freq_mean[None])).reshape(-1, channels)
    filled = images.reshape(len(images), -1, channels).copy()
    for channel in range(channels):
        covariance = basis.T @ (freq_std[..., channel].reshape(-1, 1).astype(np.float64) ** 2 * basis)
        of_known = covariance[~unknown][:, ~unknown] + ROUNDING_STD**2 * np.eye(np.sum(~unknown))
        residual = filled[:, ~unknown, channel] - mean[~unknown, channel]
        guess = mean[unknown, channel] + residual @ np.linalg.solve(of_known, covariance[~unknown][:, unknown])
        filled[:, unknown, channel] = np.clip(guess, -1, 1)
    return filled.reshape(images.shape)
