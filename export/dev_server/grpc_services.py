"""The development server's gRPC side: PredictionService and ModelService of TF Serving.

Classify, Regress and MultiInference are the generated base class's, which answers UNIMPLEMENTED.
"""

import asyncio
import functools
import logging
import sys
from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError, Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from .batching import Arrays
from .config import model_configs
from .errors import ConfigurationError, ServingError
from .metrics import ServerMetrics
from .model_store import ModelSpec, ModelStore
from .served_model import DEFAULT_SIGNATURE, ServedModel
from .tensors import arrays_from_protos, tensor_proto

_MAX_MESSAGE = 1000  # characters of an error; gRPC drops the reply if its headers are too long


async def start_grpc_server(models: ModelStore, metrics: ServerMetrics, port: int) -> grpc.aio.Server:
    """Starts to answer on a port of the loopback interface. Raises RuntimeError if the port is taken."""
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it logs what the base class raises, and the client is told
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # without this, two servers would share the port and its requests
    ]
    server = grpc.aio.server(interceptors=[_UnreadableMessages()], options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(models, metrics), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


class _UnreadableMessages(grpc.aio.ServerInterceptor):
    """Hands a message that cannot be parsed to the method, as its DecodeError: grpcio would answer UNKNOWN."""

    async def intercept_service(self, continuation, handler_call_details):
        handler = await continuation(handler_call_details)
        if handler is None:
            return None

        def read(data: bytes):
            try:
                return handler.request_deserializer(data)
            except DecodeError as error:
                return error.with_traceback(None)

        return grpc.unary_unary_rpc_method_handler(handler.unary_unary, read, handler.response_serializer)


def metadata_response(models: ModelStore, spec: ModelSpec) -> tuple[Message, Message]:
    """The reply to a metadata request, and the signature map that is packed in it."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with models.use(spec) as model:
        signature_map = get_model_metadata_pb2.SignatureDefMap(signature_def=model.signature_defs)
        response.model_spec.name, response.model_spec.version.value = model.name, model.version
    response.metadata["signature_def"].Pack(signature_map)
    return response, signature_map


def status_response(models: ModelStore, spec: ModelSpec) -> Message:
    """The reply to a status request."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state, error in models.statuses(spec):
        entry = response.model_version_status.add(version=number)
        entry.state = get_model_status_pb2.ModelVersionStatus.State.Value(state)
        entry.status.SetInParent()
        if error is not None:
            entry.status.error_code = error_codes_pb2.Code.Value(error.code)
            entry.status.error_message = str(error)
    return response


def _answers(method: Callable) -> Callable:
    """Makes a method's ServingError its gRPC status; nothing that a client sends reaches it as a traceback."""

    @functools.wraps(method)
    async def answer(self, request, context):
        if isinstance(request, DecodeError):
            await context.abort(grpc.StatusCode.INTERNAL, f"the message cannot be read: {request}"[:_MAX_MESSAGE])
        try:
            return await method(self, request)
        except ServingError as error:
            code, message = error.code, str(error)
        except Exception as error:  # the server outlives every request
            print(f"local_server: {method.__name__}: {error!r}", file=sys.stderr)
            code, message = "INTERNAL", f"{type(error).__name__}: {error}"
        await context.abort(getattr(grpc.StatusCode, code, grpc.StatusCode.UNKNOWN), message[:_MAX_MESSAGE])

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, models: ModelStore, metrics: ServerMetrics):
        self._models, self._metrics = models, metrics

    @_answers
    async def Predict(self, request, context=None):
        """Runs a signature on the request's tensors."""
        spec = _spec(request)
        known = self._models.knows(spec.name)
        with self._metrics.request(spec.name, "Predict", "GRPC", known), self._models.use(spec) as model:
            signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            inputs = await asyncio.to_thread(arrays_from_protos, request.inputs)
            outputs = await model.predict(signature_name, inputs, list(request.output_filter))
            return await asyncio.to_thread(_predict_response, model, signature_name, outputs)

    @_answers
    async def GetModelMetadata(self, request, context=None):
        """The model's signatures."""
        spec = _spec(request)
        if not request.metadata_field:
            message = "GetModelMetadataRequest must specify at least one metadata_field"
            raise ServingError("INVALID_ARGUMENT", message)
        for field in request.metadata_field:
            if field != "signature_def":
                raise ServingError("INVALID_ARGUMENT", f"Metadata field {field} is not supported")
        return metadata_response(self._models, spec)[0]


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest. TF Serving counts inference only."""

    def __init__(self, models: ModelStore):
        self._models = models

    @_answers
    async def GetModelStatus(self, request, context=None):
        """The state of the model's versions."""
        return status_response(self._models, _spec(request))

    @_answers
    async def HandleReloadConfigRequest(self, request, context=None):
        """Replaces the list of models, and returns when it is loaded."""
        if request.config.WhichOneof("config") != "model_config_list":
            message = "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is"
            raise ServingError("INVALID_ARGUMENT", f"{message} currently supported")
        try:
            configs = model_configs(request.config, "the request")
        except ConfigurationError as error:
            raise ServingError("INVALID_ARGUMENT", str(error)) from None
        before = self._models.names()
        self._models.configure(configs)
        await asyncio.shield(self._models.update())  # a client that stops waiting leaves no version half loaded
        missing = [name for name in self._models.names() if name not in before and not self._models.available(name)]
        if missing:
            raise ServingError("UNKNOWN", f"{len(missing)} servable(s) did not become available: {', '.join(missing)}")
        return model_management_pb2.ReloadConfigResponse(status={"error_code": 0})


def _spec(request: Message) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise ServingError("INVALID_ARGUMENT", "Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    return ModelSpec(spec.name, version, spec.version_label if spec.HasField("version_label") else None)


def _predict_response(model: ServedModel, signature_name: str, outputs: Arrays) -> Message:
    response = predict_pb2.PredictResponse(outputs={name: tensor_proto(array) for name, array in outputs.items()})
    response.model_spec.name, response.model_spec.version.value = model.name, model.version
    response.model_spec.signature_name = signature_name
    return response
