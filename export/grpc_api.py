"""The development server's gRPC side: PredictionService and ModelService of TF Serving."""

import concurrent.futures
import functools
import math
import sys

import grpc
import numpy as np
import tensorflow as tf
from served_model import DEFAULT_SIGNATURE, Models, ServingError
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

_MAX_ELEMENTS = 2**26  # a few bytes on the wire can claim a tensor of any size
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


def start_grpc_server(models: Models, port: int) -> grpc.Server:
    """Starts to answer on a port of the loopback interface. Raises RuntimeError if the port is taken."""
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # without this, two servers would share the port and its requests
    ]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=8), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(models), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


def metadata_response(models: Models, name: str, version: int | None) -> tuple:
    """The reply to a metadata request, and the signature map that is packed in it."""
    model = models.find(name, version)
    signature_map = get_model_metadata_pb2.SignatureDefMap(signature_def=model.signature_defs)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name, response.model_spec.version.value = model.name, model.version
    response.metadata["signature_def"].Pack(signature_map)
    return response, signature_map


def status_response(models: Models, name: str, version: int | None):
    """The reply to a status request."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for available in models.available_versions(name, version):
        entry = response.model_version_status.add(version=available)
        entry.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        entry.status.SetInParent()
    return response


def _answers(method):
    """Makes a method's ServingError its gRPC status; nothing that a client sends reaches it as a traceback."""

    @functools.wraps(method)
    def answer(self, request, context):
        try:
            return method(self, request)
        except ServingError as error:
            code, message = error.code, str(error)
        except Exception as error:  # the server outlives every request
            print(f"local_server: {method.__name__}: {error!r}", file=sys.stderr)
            code, message = "INTERNAL", f"{type(error).__name__}: {error}"
        context.abort(getattr(grpc.StatusCode, code, grpc.StatusCode.UNKNOWN), message)

    return answer


@_answers
def _unimplemented(self, request):
    raise ServingError("UNIMPLEMENTED", "this development server answers Predict, GetModelMetadata and GetModelStatus")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, models: Models):
        self._models = models

    @_answers
    def Predict(self, request, context=None):
        """Runs a signature on the request's tensors."""
        model = self._models.find(*_name_and_version(request))
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        inputs = {name: _array(name, proto) for name, proto in request.inputs.items()}
        outputs = model.predict(signature_name, inputs, request.output_filter)
        response = predict_pb2.PredictResponse(outputs={name: _tensor_proto(a) for name, a in outputs.items()})
        response.model_spec.name, response.model_spec.version.value = model.name, model.version
        response.model_spec.signature_name = signature_name
        return response

    @_answers
    def GetModelMetadata(self, request, context=None):
        """The model's signatures."""
        name, version = _name_and_version(request)
        if list(request.metadata_field) != ["signature_def"]:
            message = f"metadata_field must be signature_def. Received: {list(request.metadata_field)}"
            raise ServingError("INVALID_ARGUMENT", message)
        return metadata_response(self._models, name, version)[0]

    Classify = Regress = MultiInference = _unimplemented


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, models: Models):
        self._models = models

    @_answers
    def GetModelStatus(self, request, context=None):
        """The state of the model's versions."""
        return status_response(self._models, *_name_and_version(request))

    HandleReloadConfigRequest = _unimplemented


def _name_and_version(request) -> tuple:
    if not request.HasField("model_spec"):
        raise ServingError("INVALID_ARGUMENT", "Missing ModelSpec")
    spec = request.model_spec
    if spec.version_label:
        raise ServingError("INVALID_ARGUMENT", f"Unrecognized servable version label: {spec.version_label}")
    return spec.name, spec.version.value if spec.HasField("version") else None


def _array(name: str, proto) -> np.ndarray:
    dims = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(dims, default=0) < 0 or math.prod(dims) > _MAX_ELEMENTS:
        raise ServingError("INVALID_ARGUMENT", f"input {name}: cannot use a tensor of shape {dims}")
    try:
        return tf.make_ndarray(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise ServingError("INVALID_ARGUMENT", f"input {name}: {error}") from error


def _tensor_proto(array: np.ndarray):
    """TF Serving fills the typed fields, not tensor_content: a client may read either only if it is told which."""
    if array.dtype.name not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    getattr(proto, _VALUE_FIELDS[array.dtype.name]).extend(array.ravel().tolist())
    return proto
