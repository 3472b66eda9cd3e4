"""TensorProto <-> NumPy arrays, as TF Serving reads and writes them."""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from .errors import ServingError

_MAX_ELEMENTS = 2**24  # of all inputs: a few bytes on the wire can claim a tensor of any size
_VALUE_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int16": "int_val",
    "int8": "int_val",
    "uint8": "int_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "object": "string_val",
}


def arrays_from_protos(protos: Mapping[str, tensor_pb2.TensorProto]) -> dict[str, np.ndarray]:
    """Names -> TensorProto to names -> arrays; strings are arrays of bytes objects."""
    elements = sum(math.prod(max(dim.size, 0) for dim in proto.tensor_shape.dim) for proto in protos.values())
    if elements > _MAX_ELEMENTS:
        raise ServingError("INVALID_ARGUMENT", f"tensor parsing error: cannot use tensors of {elements} elements")
    return {name: _array(name, proto) for name, proto in protos.items()}


def tensor_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """TF Serving fills the typed fields, not tensor_content: a client may read either only if it is told which."""
    if array.dtype.name not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    getattr(proto, _VALUE_FIELDS[array.dtype.name]).extend(array.ravel().tolist())
    return proto


def _array(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    dims = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(dims, default=0) < 0:
        raise ServingError("INVALID_ARGUMENT", f"tensor parsing error: {name}: cannot use a tensor of shape {dims}")
    try:
        return tf.make_ndarray(proto)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ServingError("INVALID_ARGUMENT", f"tensor parsing error: {name}: {error}") from error
