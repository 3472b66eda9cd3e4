"""Keras layers and networks that know nothing of diffusion."""

from tf_blurdiff.networks.layers import LayerArguments
from tf_blurdiff.networks.optimizers import Adam, batches_per_update, batches_seen, expect_summed_gradients
from tf_blurdiff.networks.precision import PRECISIONS, fast_precision, in_precision, processor_lacks
from tf_blurdiff.networks.unet import UNet

__all__ = [
    "PRECISIONS",
    "Adam",
    "LayerArguments",
    "UNet",
    "batches_per_update",
    "batches_seen",
    "expect_summed_gradients",
    "fast_precision",
    "in_precision",
    "processor_lacks",
]
