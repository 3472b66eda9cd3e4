"""Feature networks: what turns images into the vectors whose distances `metrics` measures.

A distance is named after its feature network. Only the 2015 Inception graph gives what is called FID; the others have
no published figures to be compared with.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tf_blurdiff.data import to_unit_range
from tf_blurdiff.diffusion.dct import dct2, laplacian_eigenvalues
from tf_blurdiff.errors import UserError, one_of

# A covariance of so many float64 takes 134 MB.
_MAX_FEATURES = 4096
_MAX_BANDS = 16
# The variance that rounding to 256 levels of [-1, 1] leaves in every coefficient.
_ROUNDING_VARIANCE = (2.0 / 255.0) ** 2 / 12.0


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A function from images to vectors, and what a report must say of it.

    Attributes:
        name: what a distance is named after.
        num_features: D, the length of a vector.
        preparation: what is done with the pixels first, in words.
        digest: hexadecimal, of everything that the features depend on, weights included.
        compute: maps uint8 `[B, H, W, C]` to `[B, D]`.
        is_fid: whether a Frechet distance of these features is what is called FID.
        remark: something more for the report, such as an accuracy.

    Example:
        >>> pixels = open_features("pixels", image_shape=(8, 8, 1))
        >>> pixels.features(np.zeros((2, 8, 8, 1), "uint8")).shape
        (2, 64)
    """

    name: str
    num_features: int
    preparation: str
    digest: str
    compute: Callable[[np.ndarray], Any]
    is_fid: bool = False
    remark: str = ""

    def features(self, images: ArrayLike) -> np.ndarray:
        """The features of uint8 images `[B, H, W, C]`, as float64 `[B, D]`."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"uint8 images [B, H, W, C] are expected. Received: {images.dtype} {images.shape}")
        return np.asarray(self.compute(images), np.float64).reshape(len(images), self.num_features)


def open_features(name: str, image_shape: Sequence[int]) -> FeatureNetwork:
    """Opens a feature network by its name.

    Args:
        name: "pixels", "dct_energies", "efficientnet_lite0" (of the optional extra `evaluation`),
            "classifier:PATH" (a .keras file of `train_classifier`) or "inception:PATH" (the frozen graph of 2015).
        image_shape: (H, W, C) of the images that it is for, C 1 or 3.

    Returns:
        A `FeatureNetwork`.

    Raises:
        UserError: for a name that is not known, a file that cannot be used, or images that are too large.

    Example:
        >>> open_features("dct_energies", image_shape=(32, 32, 3)).num_features
        48
    """
    kind, _, path = name.partition(":")
    key = f"{kind}:PATH" if path else name
    one_of("features", key if key in FEATURES else name, FEATURES)
    return FEATURES[key](tuple(image_shape), *([path] if path else []))


def _pixels(image_shape):
    size = int(np.prod(image_shape))
    if size > _MAX_FEATURES:
        raise UserError(
            f"features pixels are for images of up to {_MAX_FEATURES} values. Received: {image_shape}, {size} values"
        )
    digest = hashlib.sha256(f"pixels {image_shape}".encode()).hexdigest()[:16]
    return FeatureNetwork("pixels", size, "scaled to [-1, 1]", digest, lambda images: to_unit_range(images).numpy())


def _dct_energies(image_shape):
    height, width, channels = image_shape
    frequency = np.sqrt(laplacian_eigenvalues(height, width).astype(np.float64))
    edges = np.linspace(0.0, frequency.max(), min(height, width, _MAX_BANDS) + 1)[1:-1]
    # Bands without a coefficient are left out.
    _, band = np.unique(np.searchsorted(edges, frequency), return_inverse=True)
    of_band = np.eye(band.max() + 1)[band.reshape(height, width)]
    of_band /= of_band.sum(axis=(0, 1))

    def compute(images):
        power = np.square(dct2(to_unit_range(images)).numpy().astype(np.float64))
        energies = np.einsum("bhwc,hwk->bkc", power, of_band)
        return np.log(energies + _ROUNDING_VARIANCE).reshape(len(images), -1)

    num_features = of_band.shape[-1] * channels
    digest = hashlib.sha256(f"dct_energies {image_shape} {num_features}".encode()).hexdigest()[:16]
    preparation = "scaled to [-1, 1]; log of the mean squared DCT coefficient of each band and channel"
    return FeatureNetwork("dct_energies", num_features, preparation, digest, compute)


def _classifier(image_shape, path):
    from tf_blurdiff.evaluation.classifier import load_classifier

    classifier = load_classifier(path)
    if classifier.image_shape != image_shape:
        raise UserError(f"{path} is a classifier of images {classifier.image_shape}. Received: images {image_shape}")
    digest = hashlib.sha256()
    for weight in classifier.get_weights():
        digest.update(np.ascontiguousarray(weight).data)
    return FeatureNetwork(
        "classifier",
        classifier.num_features,
        "scaled to [-1, 1]; the layer before the logits",
        digest.hexdigest()[:16],
        lambda images: classifier.features(images).numpy(),
        remark=f"{path}, {classifier.accuracy_in_words()}",
    )


def _inception(image_shape, path):
    from tf_blurdiff.evaluation.inception import NUM_FEATURES, load_inception

    compute, digest = load_inception(path)
    preparation = "grey repeated to RGB; to 299x299 by TensorFlow 1's bilinear operation; (pixel - 128) / 128"
    return FeatureNetwork("inception", NUM_FEATURES, preparation, digest, compute, is_fid=True, remark=str(path))


def _efficientnet_lite0(image_shape):
    from tf_blurdiff.evaluation.efficientnet_lite import IMAGE_SIZE, NUM_FEATURES, load_efficientnet_lite0

    compute, digest = load_efficientnet_lite0()
    size = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
    preparation = f"grey repeated to RGB; bilinear to {size}, antialiased; (pixel - 127) / 128; pooled features"
    return FeatureNetwork("efficientnet_lite0", NUM_FEATURES, preparation, digest, compute)


FEATURES: dict[str, Callable[..., FeatureNetwork]] = {
    "pixels": _pixels,
    "dct_energies": _dct_energies,
    "efficientnet_lite0": _efficientnet_lite0,
    "classifier:PATH": _classifier,
    "inception:PATH": _inception,
}


def default_features(image_shape: Sequence[int]) -> list[str]:
    """The names of the feature networks that need no file and no package: pixels only of small images.

    Example:
        >>> default_features((8, 8, 1)), default_features((64, 64, 3))
        (['pixels', 'dct_energies'], ['dct_energies'])
    """
    return [*(["pixels"] if np.prod(image_shape) <= _MAX_FEATURES else []), "dct_energies"]
