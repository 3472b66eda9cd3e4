"""Calls of a served model's signature by REST or gRPC: numbers in, encoded images or pixels out; and trying again."""

import base64
import binascii
import ipaddress
import os
import random
import time
from dataclasses import dataclass
from itertools import chain
from urllib.parse import quote, urlsplit

from command_line import ClientError
from silence import silent_stderr

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # seconds between two attempts
_IMAGE_OUTPUTS = ("image_bytes", "image")  # of `png` and of `serving_default`, and of their variants


class TryAgain(ClientError):
    """No server answers there, or it is too busy: the same request may succeed later."""


@dataclass(frozen=True)
class Pixels:
    """An image that came as numbers: 8 bits a value, row by row."""

    height: int
    width: int
    channels: int
    content: bytes


@dataclass(frozen=True)
class Endpoint:
    """Which signature is called, and how long for.

    Args:
        model: the served model's name.
        signature: `png`, `serving_default`, or another with the same output.
        deadline: seconds a request may take.
        version: the model's version; None is the newest.
    """

    model: str
    signature: str = "png"
    deadline: float = 300.0
    version: int | None = None


class RestClient:
    """Calls a signature by REST: input names -> numbers to a list of images, each a PNG file (bytes) or `Pixels`."""

    def __init__(self, url: str, endpoint: Endpoint):
        import requests

        if not url.startswith(("http://", "https://")):
            raise ClientError(f"--url must begin with http:// or https://. Received: {url}")
        self._requests, self._endpoint = requests, endpoint
        self._session = requests.Session()
        # No proxy is asked for this machine itself, whatever the environment names.
        self._session.trust_env = not is_loopback(host_of(url))
        version = "" if endpoint.version is None else f"/versions/{endpoint.version}"
        self._url = f"{url.rstrip('/')}/v1/models/{quote(endpoint.model, safe='')}{version}:predict"

    def __call__(self, inputs: dict) -> list:
        reply = self._reply(inputs)
        try:
            return [_rest_image(row) for row in _field(reply, "predictions")]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, binascii.Error) as error:
            raise ClientError(f"the server's reply holds no images: {error!r}") from error

    def _reply(self, inputs: dict) -> dict:
        errors = self._requests.exceptions
        # Rows, not columns: for columns TF Serving ignores an input that the model does not have.
        rows = [dict(zip(inputs, values)) for values in zip(*inputs.values())]
        body = {"signature_name": self._endpoint.signature, "instances": rows}
        deadline = self._endpoint.deadline
        try:
            response = self._session.post(self._url, json=body, timeout=deadline, allow_redirects=False)
        except errors.ReadTimeout:
            raise _too_slow(deadline) from None
        except (errors.ConnectionError, errors.ChunkedEncodingError, errors.Timeout) as error:
            raise TryAgain(f"no server at {self._url}: {_reason(error)}") from error
        except (errors.RequestException, ValueError) as error:
            raise ClientError(f"--url: {error}") from error
        try:
            reply = response.json()
        except ValueError:
            reply = None
        if response.status_code in (429, 503):  # from a proxy it is not always JSON
            reason = reply.get("error", "") if isinstance(reply, dict) else response.reason
            raise TryAgain(f"the server answers {response.status_code}: {reason}")
        if reply is None:
            raise ClientError(f"{self._url} answers {response.status_code} without JSON: no TF Serving?")
        if response.status_code != 200:
            raise ClientError(f"the server answers {response.status_code}: {_field(reply, 'error')}")
        return reply


class GrpcClient:
    """Calls a signature by gRPC: input names -> numbers to a list of images, each a PNG file (bytes) or `Pixels`."""

    def __init__(self, address: str, endpoint: Endpoint):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the protos of tensorflow-serving-api import TensorFlow
        try:
            with silent_stderr():
                import grpc
                from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
                from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ClientError(f"--grpc needs grpcio and tensorflow-serving-api (or use --url): {error}") from error

        self._grpc, self._tensor, self._shape, self._types = grpc, tensor_pb2, tensor_shape_pb2, types_pb2
        self._request, self._endpoint, self._address = predict_pb2.PredictRequest, endpoint, address
        options = [
            ("grpc.max_receive_message_length", -1),  # 4 MB by default, which a batch of large images exceeds
            ("grpc.max_send_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", int(not is_loopback(host_of(f"//{address}")))),
            ("grpc.use_local_subchannel_pool", 1),  # clients of one process have connections of their own
        ]
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address, options))

    def __call__(self, inputs: dict) -> list:
        codes, deadline = self._grpc.StatusCode, self._endpoint.deadline
        try:
            response = self._stub.Predict(self._predict_request(inputs), timeout=deadline)
        except self._grpc.RpcError as error:
            if error.code() is codes.UNAVAILABLE:
                raise TryAgain(f"no server at {self._address}: {error.details()}") from error
            if error.code() is codes.RESOURCE_EXHAUSTED:
                raise TryAgain(f"the server answers {error.code().name}: {error.details()}") from error
            if error.code() is codes.DEADLINE_EXCEEDED:
                raise _too_slow(deadline) from error
            raise ClientError(f"the server answers {error.code().name}: {error.details()}") from error
        if found := [name for name in _IMAGE_OUTPUTS if name in response.outputs]:
            return _grpc_images(response.outputs[found[0]])
        raise ClientError(f"the server's reply holds no images: its outputs are {sorted(response.outputs)}")

    def _predict_request(self, inputs: dict):
        request = self._request()
        request.model_spec.name, request.model_spec.signature_name = self._endpoint.model, self._endpoint.signature
        if self._endpoint.version is not None:
            request.model_spec.version.value = self._endpoint.version
        for name, values in inputs.items():
            shape = self._shape.TensorShapeProto(dim=[self._shape.TensorShapeProto.Dim(size=len(values))])
            if name == "guidance_scale":
                typed = {"dtype": self._types.DT_FLOAT, "float_val": values}
            else:
                typed = {"dtype": self._types.DT_INT64, "int64_val": values}
            request.inputs[name].CopyFrom(self._tensor.TensorProto(tensor_shape=shape, **typed))
        return request


def patiently(call, inputs: dict, wait: float) -> list:
    """`call(inputs)`, again and again for up to `wait` seconds while the server says that it may work later.

    The pauses double from 0.25 s to 8 s, each a random part of that, so that many clients do not return together.
    """
    patience, longest = time.monotonic() + wait, _FIRST_PAUSE
    while True:
        try:
            return call(inputs)
        except TryAgain:
            pause = longest * random.uniform(0.5, 1.0)
            if time.monotonic() + pause > patience:
                raise
            time.sleep(pause)
            longest = min(2 * longest, _LONGEST_PAUSE)


def is_loopback(host: str | None) -> bool:
    """Whether a host, a name or an address, is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def host_of(url: str) -> str | None:
    """The host that a URL, or `//host:port`, names."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _rest_image(row):
    if isinstance(row, dict) and "b64" not in row:  # outputs are named where there are several
        row = row[next((name for name in _IMAGE_OUTPUTS if name in row), _IMAGE_OUTPUTS[0])]
    if isinstance(row, dict):
        return base64.b64decode(row["b64"], validate=True)
    height, width, channels = len(row), len(row[0]), len(row[0][0])
    content = bytes(chain.from_iterable(chain.from_iterable(row)))
    return _checked(Pixels(height, width, channels, content))


def _grpc_images(tensor) -> list:
    if tensor.string_val:
        return list(tensor.string_val)
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    try:
        content = tensor.tensor_content or bytes(tensor.int_val)
        count, height, width, channels = sizes
        size = height * width * channels
        rows = [content[index * size : (index + 1) * size] for index in range(count)]
        return [_checked(Pixels(height, width, channels, row)) for row in rows]
    except ValueError:
        raise ClientError(f"the server's reply holds no images: a tensor of shape {sizes}") from None


def _checked(pixels: Pixels) -> Pixels:
    if len(pixels.content) != pixels.height * pixels.width * pixels.channels or not pixels.content:
        raise ValueError(f"{len(pixels.content)} values for {pixels.height}x{pixels.width}x{pixels.channels}")
    return pixels


def _too_slow(deadline: float) -> ClientError:
    return ClientError(f"no answer within {deadline:g} s: raise --deadline, or ask for fewer images a request")


def _reason(error: Exception) -> str:
    """The innermost cause: requests wraps it in four layers of text."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)


def _field(reply, key: str):
    if not isinstance(reply, dict) or key not in reply:
        raise ClientError(f"the server's reply has no {key!r}: no TF Serving?")
    return reply[key]
