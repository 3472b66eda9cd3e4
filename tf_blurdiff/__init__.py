"""tf_blurdiff: diffusion models that blur, for TensorFlow and Keras.

import tf_blurdiff as bd

network = bd.UNet(image_shape=(32, 32, 3))
model = bd.DiffusionModel(network, bd.process.blurring())
model.compile("adam")
model.fit(dataset)                      # batches of images in [-1, 1]
images = model.sample(seeds=range(16))  # float32 [16, 32, 32, 3]
"""

__version__ = "0.1.0"  # The only place: the wheel, exports and reports take it from here.

from tf_blurdiff import _startup  # isort: skip  # noqa: F401 (before anything that imports TensorFlow)
from tf_blurdiff.diffusion import process
from tf_blurdiff.diffusion.dct import dct2, idct2, laplacian_eigenvalues
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.model import DiffusionModel, load_model, load_pretrained
from tf_blurdiff.networks import UNet, layers, optimizers
from tf_blurdiff.serving import export_keras, export_onnx, export_savedmodel

__all__ = [
    "DiffusionModel",
    "Process",
    "UNet",
    "dct2",
    "export_keras",
    "export_onnx",
    "export_savedmodel",
    "idct2",
    "laplacian_eigenvalues",
    "layers",
    "load_model",
    "load_pretrained",
    "optimizers",
    "process",
]
