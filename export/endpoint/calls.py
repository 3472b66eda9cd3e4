"""Calls of a served model's signature by REST or gRPC: arrays in, images out; and trying again."""

import base64
import binascii
import ipaddress
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from .command_line import ClientError
from .silence import silent_stderr

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # seconds between two attempts
_IMAGE_OUTPUTS = ("image_bytes", "image")  # of `png` and of `serving_default`, and of their variants
LABELS = "labels"  # the signature that knows the names of the classes


class TryAgain(ClientError):
    """No server answers there, or it is too busy: the same request may succeed later."""


# An image is a PNG file's bytes, or its pixels: uint8 [H, W, C].
Image = bytes | np.ndarray
# Input names -> one row a seed: integers, floats, pixels (uint8 [N, H, W, C]) or files (bytes objects).
Inputs = Mapping[str, np.ndarray]


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
    """Calls a signature by REST: `Inputs` to a list of `Image`s. What fails is a ClientError, or a TryAgain."""

    def __init__(self, url: str, endpoint: Endpoint):
        import requests

        if not url.startswith(("http://", "https://")):
            raise ClientError(f"--url must begin with http:// or https://. Received: {url}")
        self._requests, self._endpoint = requests, endpoint
        self._session = requests.Session()
        # No proxy is asked for this machine itself, whatever the environment names.
        self._session.trust_env = not is_loopback(host_of(url))
        version = "" if endpoint.version is None else f"/versions/{endpoint.version}"
        self._url = f"{url.rstrip('/')}/v1/models/{quote(endpoint.model, safe='')}{version}"

    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """What the model answers: signature names -> input names -> their sizes, -1 for any."""
        reply = self._reply("GET", "/metadata")
        try:
            described = reply["metadata"]["signature_def"]["signature_def"]
            return {name: _sizes_from_json(entry["inputs"]) for name, entry in described.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClientError(f"the server's reply describes no signatures: {error!r}") from error

    def labels(self, class_names: list[str]) -> list[int]:
        """The labels of these classes."""
        rows = [{"class_name": name} for name in class_names]
        reply = self._reply("POST", ":predict", {"signature_name": LABELS, "instances": rows})
        try:
            return [int(label) for label in _field(reply, "predictions")]
        except (TypeError, ValueError) as error:
            raise ClientError(f"the server's reply holds no labels: {error!r}") from error

    def __call__(self, inputs: Inputs) -> list[Image]:
        # Rows, not columns: for columns TF Serving ignores an input that the model does not have.
        rows = [dict(zip(inputs, values)) for values in zip(*map(_json_values, inputs.values()))]
        reply = self._reply("POST", ":predict", {"signature_name": self._endpoint.signature, "instances": rows})
        try:
            return [_rest_image(row) for row in _field(reply, "predictions")]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, binascii.Error) as error:
            raise ClientError(f"the server's reply holds no images: {error!r}") from error

    def _reply(self, method: str, path: str, body: dict | None = None) -> dict:
        errors, url, deadline = self._requests.exceptions, self._url + path, self._endpoint.deadline
        try:
            response = self._session.request(method, url, json=body, timeout=deadline, allow_redirects=False)
        except errors.ReadTimeout:
            raise _too_slow(deadline) from None
        except (errors.ConnectionError, errors.ChunkedEncodingError, errors.Timeout) as error:
            raise TryAgain(f"no server at {url}: {_reason(error)}") from error
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
            raise ClientError(f"{url} answers {response.status_code} without JSON: no TF Serving?")
        if response.status_code != 200:
            raise ClientError(f"the server answers {response.status_code}: {_field(reply, 'error')}")
        return reply


class GrpcClient:
    """Calls a signature by gRPC, as `RestClient` does."""

    def __init__(self, address: str, endpoint: Endpoint):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the protos of tensorflow-serving-api import TensorFlow
        try:
            with silent_stderr():
                import grpc
                import tensorflow as tf
                from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ClientError(f"--grpc needs grpcio and tensorflow-serving-api (or use --url): {error}") from error

        self._grpc, self._tf = grpc, tf
        self._request, self._metadata = predict_pb2.PredictRequest, get_model_metadata_pb2
        self._endpoint, self._address = endpoint, address
        options = [
            ("grpc.max_receive_message_length", -1),  # 4 MB by default, which a batch of large images exceeds
            ("grpc.max_send_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", int(not is_loopback(host_of(f"//{address}")))),
            ("grpc.use_local_subchannel_pool", 1),  # clients of one process have connections of their own
        ]
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address, options))

    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """What the model answers: signature names -> input names -> their sizes, -1 for any."""
        request = self._metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill_spec(request.model_spec)
        response = self._reply(self._stub.GetModelMetadata, request)
        described = self._metadata.SignatureDefMap()
        if not response.metadata["signature_def"].Unpack(described):
            raise ClientError("the server's reply describes no signatures")
        return {name: _sizes_from_proto(entry.inputs) for name, entry in described.signature_def.items()}

    def labels(self, class_names: list[str]) -> list[int]:
        """The labels of these classes."""
        response = self._predict(LABELS, {"class_name": np.array([name.encode() for name in class_names], object)})
        try:
            return self._tf.make_ndarray(response.outputs["label"]).tolist()
        except (ValueError, TypeError) as error:
            raise ClientError(f"the server's reply holds no labels: {error!r}") from error

    def __call__(self, inputs: Inputs) -> list[Image]:
        response = self._predict(self._endpoint.signature, inputs)
        if found := [name for name in _IMAGE_OUTPUTS if name in response.outputs]:
            return self._images(response.outputs[found[0]])
        raise ClientError(f"the server's reply holds no images: its outputs are {sorted(response.outputs)}")

    def _predict(self, signature: str, inputs: Inputs):
        request = self._request()
        self._fill_spec(request.model_spec)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(self._tf.make_tensor_proto(array))
        return self._reply(self._stub.Predict, request)

    def _reply(self, method, request):
        codes, deadline = self._grpc.StatusCode, self._endpoint.deadline
        try:
            return method(request, timeout=deadline)
        except self._grpc.RpcError as error:
            if error.code() is codes.UNAVAILABLE:
                raise TryAgain(f"{self._address} does not answer: {error.details()}") from error
            if error.code() is codes.RESOURCE_EXHAUSTED:
                raise TryAgain(f"the server answers {error.code().name}: {error.details()}") from error
            if error.code() is codes.DEADLINE_EXCEEDED:
                raise _too_slow(deadline) from error
            raise ClientError(f"the server answers {error.code().name}: {error.details()}") from error

    def _fill_spec(self, model_spec) -> None:
        model_spec.name = self._endpoint.model
        if self._endpoint.version is not None:
            model_spec.version.value = self._endpoint.version

    def _images(self, tensor) -> list[Image]:
        sizes = [dim.size for dim in tensor.tensor_shape.dim]
        try:
            array = self._tf.make_ndarray(tensor)
            return list(array) if array.dtype == object else [_pixels(image) for image in array]
        except (ValueError, TypeError) as error:
            raise ClientError(f"the server's reply holds no images: a tensor of shape {sizes}") from error


def patiently(call: Callable[[Inputs], Any], inputs: Inputs, wait: float) -> Any:
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


def _json_values(array: np.ndarray) -> list:
    """An input's rows as TF Serving reads them from JSON."""
    if array.dtype == object:
        return [{"b64": base64.b64encode(file).decode()} for file in array]
    return array.tolist()


def _sizes_from_json(inputs: dict) -> dict:
    return {name: tuple(int(dim["size"]) for dim in entry["tensor_shape"]["dim"]) for name, entry in inputs.items()}


def _sizes_from_proto(inputs) -> dict:
    return {name: tuple(dim.size for dim in entry.tensor_shape.dim) for name, entry in inputs.items()}


def _rest_image(row) -> Image:
    if isinstance(row, dict) and "b64" not in row:  # outputs are named where there are several
        row = row[next((name for name in _IMAGE_OUTPUTS if name in row), _IMAGE_OUTPUTS[0])]
    return base64.b64decode(row["b64"], validate=True) if isinstance(row, dict) else _pixels(np.array(row))


def _pixels(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iu" or array.ndim != 3 or not array.size or array.min() < 0 or array.max() > 255:
        raise ValueError(f"an array of {array.dtype} {list(array.shape)} is no image")
    return array.astype(np.uint8)


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
