"""Fetches images from a served model (TF Serving, or local_server.py) and saves them as a grid or one by one.

    python export/client.py --url http://localhost:8501 --model digits --seeds 0:64 --out grid.png
    python export/client.py --grpc localhost:8500 --model digits --seeds 7,9,100:110 --out_dir images

It asks for the signature `png`. An image depends on its own seed (and label) alone, so any batch size will do.
"""

import base64
import binascii
import contextlib
import io
import math
import os
import sys
import time
from pathlib import Path
from urllib.parse import quote

from absl import app, flags
from PIL import Image
from tqdm import tqdm

_URL = flags.DEFINE_string("url", "http://localhost:8501", "Where the server answers REST.")
_GRPC = flags.DEFINE_string("grpc", None, "host:port where the server answers gRPC; used instead of --url.")
_MODEL = flags.DEFINE_string("model", "default", "The served model's name.")
_SEEDS = flags.DEFINE_string("seeds", "0:16", "Seeds: numbers and ranges, 0:4 is 0,1,2,3. Example: 7,9,100:110.")
_LABELS = flags.DEFINE_string("labels", None, "For a conditional model: one label for all, or as many as seeds.")
_GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", None, "For a model with guidance, and needed there; 1 is none.")
_OUT = flags.DEFINE_string("out", None, "File for all images in one grid (grid.png if --out_dir is not given).")
_OUT_DIR = flags.DEFINE_string("out_dir", None, "Folder for single files, named by seed.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images a request.", 1)
_DEADLINE = flags.DEFINE_float("deadline", 300.0, "Seconds a request may take.", 0.001)
_WAIT = flags.DEFINE_float("wait", 0.0, "Seconds to keep trying while the server cannot be reached.", 0.0)

_MAX_IMAGES = 100_000  # a slip like 0:1000000000 would fill the memory before the first request
_INT64 = range(-(2**63), 2**63)
_GAP = 2  # pixels between the images of a grid
_LEGIBLE = 48  # pixels; lower images are enlarged in a grid
_PAUSE = 0.5  # seconds between two attempts to reach the server


class ClientError(Exception):
    """The images cannot be had; the message says why and what to do."""


class NotReachable(ClientError):
    """No server answers there, or not yet."""


def parse_numbers(text: str, flag: str) -> list:
    """Numbers and half-open ranges, separated by commas: "7,100:103" -> [7, 100, 101, 102]."""
    numbers = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        try:
            span = range(int(first), int(last) if colon else int(first) + 1)
        except ValueError:
            raise ClientError(f"{flag}: {part!r} is neither a number nor a range like 0:64") from None
        if not span or span[0] not in _INT64 or span[-1] not in _INT64:
            raise ClientError(f"{flag}: {part!r} is empty, or outside of 64-bit integers")
        if len(span) > _MAX_IMAGES - len(numbers):
            raise ClientError(f"{flag}: more than {_MAX_IMAGES} numbers")
        numbers.extend(span)
    return numbers


def parse_labels(text: str | None, num_seeds: int) -> list | None:
    """One label a seed, or None for a model without labels."""
    if text is None:
        return None
    labels = parse_numbers(text, "--labels")
    if len(labels) not in (1, num_seeds):
        raise ClientError(f"--labels: give one label, or one for each of {num_seeds} seeds. Received: {len(labels)}")
    return labels * (num_seeds // len(labels))


class RestClient:
    """Calls a model's signature `png` by REST: input names -> numbers to a list of PNG files."""

    def __init__(self, url: str, model: str, deadline: float):
        import requests

        if not url.startswith(("http://", "https://")):
            raise ClientError(f"--url must begin with http:// or https://. Received: {url}")
        self._requests = requests
        self._session = requests.Session()
        self._url = f"{url.rstrip('/')}/v1/models/{quote(model, safe='')}:predict"
        self._deadline = deadline

    def __call__(self, inputs: dict) -> list:
        errors = self._requests.exceptions
        try:
            # Rows, not columns: for columns TF Serving ignores an input that the model does not have.
            rows = [dict(zip(inputs, values)) for values in zip(*inputs.values())]
            body = {"signature_name": "png", "instances": rows}
            response = self._session.post(self._url, json=body, timeout=self._deadline)
        except errors.ReadTimeout:
            raise _too_slow(self._deadline) from None
        except (errors.ConnectionError, errors.Timeout) as error:
            raise NotReachable(f"no server at {self._url}: {_reason(error)}") from error
        except (errors.RequestException, ValueError) as error:
            raise ClientError(f"--url: {error}") from error
        try:
            reply = response.json()
        except ValueError:
            raise ClientError(f"{self._url} answers {response.status_code} without JSON: no TF Serving?") from None
        if response.status_code != 200:
            kind = NotReachable if response.status_code == 503 else ClientError
            raise kind(f"the server answers {response.status_code}: {_field(reply, 'error')}")
        try:
            values = [row.get("image_bytes", row) for row in _field(reply, "predictions")]  # named if there are others
            return [base64.b64decode(value["b64"], validate=True) for value in values]
        except (KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise ClientError(f"the server's reply holds no images: {error!r}") from error


class GrpcClient:
    """Calls a model's signature `png` by gRPC: input names -> numbers to a list of PNG files."""

    def __init__(self, address: str, model: str, deadline: float):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the protos of tensorflow-serving-api import TensorFlow
        try:
            with _silent_stderr():
                import grpc
                from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
                from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ClientError(f"--grpc needs grpcio and tensorflow-serving-api (or use --url): {error}") from error

        self._grpc, self._tensor, self._shape, self._types = grpc, tensor_pb2, tensor_shape_pb2, types_pb2
        self._request, self._deadline = predict_pb2.PredictRequest, deadline
        self._address, self._model = address, model
        options = [
            ("grpc.max_receive_message_length", -1),  # 4 MB by default, which a batch of large images exceeds
            ("grpc.max_send_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address, options))

    def __call__(self, inputs: dict) -> list:
        request = self._request()
        request.model_spec.name, request.model_spec.signature_name = self._model, "png"
        for name, values in inputs.items():
            shape = self._shape.TensorShapeProto(dim=[self._shape.TensorShapeProto.Dim(size=len(values))])
            if name == "guidance_scale":
                typed = {"dtype": self._types.DT_FLOAT, "float_val": values}
            else:
                typed = {"dtype": self._types.DT_INT64, "int64_val": values}
            tensor = self._tensor.TensorProto(tensor_shape=shape, **typed)
            request.inputs[name].CopyFrom(tensor)
        try:
            response = self._stub.Predict(request, timeout=self._deadline)
        except self._grpc.RpcError as error:
            if error.code() is self._grpc.StatusCode.UNAVAILABLE:
                raise NotReachable(f"no server at {self._address}: {error.details()}") from error
            if error.code() is self._grpc.StatusCode.DEADLINE_EXCEEDED:
                raise _too_slow(self._deadline) from error
            raise ClientError(f"the server answers {error.code().name}: {error.details()}") from error
        return list(response.outputs["image_bytes"].string_val)


@contextlib.contextmanager
def _silent_stderr():
    """TensorFlow's library logs to file descriptor 2 while it loads, whatever TF_CPP_MIN_LOG_LEVEL says."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def fetch(call, inputs: dict, batch_size: int, wait: float):
    """Yields the PNG file of each row of the inputs, in order, asking for batch_size of them at a time."""
    patience = time.monotonic() + wait
    count = len(inputs["seed"])
    for start in range(0, count, batch_size):
        batch = {name: values[start : start + batch_size] for name, values in inputs.items()}
        images = _patiently(call, batch, patience)
        if len(images) != len(batch["seed"]):
            raise ClientError(f"asked for {len(batch['seed'])} images, received {len(images)}")
        yield from images
        patience = time.monotonic() + wait


def _patiently(call, batch: dict, patience: float) -> list:
    while True:
        try:
            return call(batch)
        except NotReachable:
            if time.monotonic() + _PAUSE > patience:
                raise
            time.sleep(_PAUSE)


def save_grid(images: list, path: Path) -> None:
    """Saves images of one size in a near-square grid on white, small ones enlarged."""
    zoom = max(1, _LEGIBLE // images[0].height)
    width, height = (zoom * size for size in images[0].size)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    size = (_GAP + columns * (width + _GAP), _GAP + rows * (height + _GAP))
    grid = Image.new(images[0].mode, size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        large = image.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(large, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    grid.save(path, "PNG")


def _decode(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        image.load()
        return image
    except (OSError, SyntaxError, ValueError) as error:
        raise ClientError(f"the server sent something that is no PNG image: {error}") from error


def _too_slow(deadline: float) -> ClientError:
    return ClientError(f"no answer within {deadline:g} s: raise --deadline, or ask for fewer images with --batch_size")


def _reason(error: Exception) -> str:
    """The innermost cause: requests wraps it in four layers of text."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)


def _field(reply, key: str):
    if not isinstance(reply, dict) or key not in reply:
        raise ClientError(f"the server's reply has no {key!r}: no TF Serving?")
    return reply[key]


def run() -> None:
    """What the flags ask for."""
    seeds = parse_numbers(_SEEDS.value, "--seeds")
    labels = parse_labels(_LABELS.value, len(seeds))
    inputs = {"seed": seeds} | ({"label": labels} if labels else {})
    if _GUIDANCE_SCALE.value is not None:
        inputs["guidance_scale"] = [_GUIDANCE_SCALE.value] * len(seeds)
    out = _OUT.value or (None if _OUT_DIR.value else "grid.png")
    if _OUT_DIR.value:
        Path(_OUT_DIR.value).mkdir(parents=True, exist_ok=True)
    client, where = (GrpcClient, _GRPC.value) if _GRPC.value else (RestClient, _URL.value)
    call = client(where, _MODEL.value, _DEADLINE.value)
    contents = fetch(call, inputs, _BATCH_SIZE.value, _WAIT.value)
    images = []
    for index, content in enumerate(tqdm(contents, total=len(seeds), unit="image", disable=None)):
        images.append(_decode(content))
        if _OUT_DIR.value:
            label = f"_label_{labels[index]}" if labels else ""
            Path(_OUT_DIR.value, f"seed_{seeds[index]}{label}.png").write_bytes(content)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        save_grid(images, Path(out))
        print(f"{len(images)} images in {out}")
    if _OUT_DIR.value:
        print(f"{len(images)} images in {_OUT_DIR.value}{os.sep}")


def main(argv) -> None:
    """The command line."""
    try:
        if len(argv) > 1:
            raise ClientError(f"unknown arguments: {' '.join(argv[1:])}")
        run()
    except (ClientError, OSError) as error:
        print(f"client: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parse_flags(argv) -> list:
    """absl's own parser prints the whole usage and ends with status 1 for a mistake in a flag."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"client: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
