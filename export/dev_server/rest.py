"""The development server's REST side: the paths, status codes and error bodies of TF Serving. aiohttp speaks HTTP.

A refusal is a `ServingError`, whose code becomes the status. A 404 (NOT_FOUND) comes from `model_store` for a model or
version that is not there, from here for a path that is none, and from a run in which TensorFlow misses something.
"""

import asyncio
import json
import logging
import re
import sys
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from . import rest_json
from .batching import Arrays
from .config import RestOptions
from .errors import ServingError
from .grpc_services import metadata_response, status_response
from .metrics import ServerMetrics
from .model_store import ModelSpec, ModelStore
from .served_model import DEFAULT_SIGNATURE, ServedModel

_MAX_BODY_BYTES = 64 * 1024 * 1024  # seeds take a few bytes each: more than this is a mistake
_BODY_SECONDS = 300.0  # a client that stops in the middle of a request is let go
_LINGERING_SECONDS = 1.0  # in which a client that is refused before it has sent all may still read why
_HTTP_STATUS = {  # as TF Serving translates its own codes; any other is 500
    "OK": 200,
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_INFERENCE = re.compile(rf"(?i:{_MODEL}):(predict|classify|regress)", re.ASCII)
_STATUS = re.compile(rf"(?i){_MODEL}(/metadata)?", re.ASCII)
_GALLERY = Path(__file__).parents[1] / "gallery.html"
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


async def start_rest_server(
    models: ModelStore, metrics: ServerMetrics, port: int, options: RestOptions, grace_seconds: float
) -> web.AppRunner:
    """Starts to answer on a port of the loopback interface.

    Its `cleanup()` takes no more connections, and lets the requests that run end, up to the grace period. Raises
    OSError if the port is taken.
    """
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # it logs what is wrong with a client's bytes
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", RestApi(models, metrics, options).answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=grace_seconds, lingering_time=_LINGERING_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


class RestApi:
    """Answers requests for models."""

    def __init__(self, models: ModelStore, metrics: ServerMetrics, options: RestOptions):
        self._models, self._metrics, self._options = models, metrics, options

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The response to any request."""
        path, method = request.raw_path.partition("?")[0], request.method
        if path == self._options.monitoring_path and method in ("GET", "HEAD"):
            return web.Response(body=self._metrics.text().encode(), content_type="text/plain")
        if path == "/" and method in ("GET", "HEAD"):
            return self._gallery(request)
        is_api = path.lower().startswith("/v1/")
        headers = _CORS_HEADERS if self._options.enable_cors and is_api else {}
        if method == "OPTIONS" and is_api:  # a browser's preflight request, or none for lack of an origin
            is_preflight = re.search("https?://", request.headers.get("Origin", ""))
            return web.Response(status=200 if is_preflight else 400, headers=headers)
        code, content = await self._code_and_content(request, path)
        status = _HTTP_STATUS.get(code, 500)
        return web.Response(status=status, body=content, content_type="application/json", headers=headers)

    def _gallery(self, request: web.Request) -> web.StreamResponse:
        """The page that shows images, of the first model unless the address names one; TF Serving has none."""
        names = self._models.names()
        if names and "model" not in request.query:
            raise web.HTTPFound(request.rel_url.update_query(model=names[0]))
        return web.FileResponse(_GALLERY)

    async def _code_and_content(self, request: web.Request, path: str) -> tuple[str, bytes]:
        try:
            return "OK", await self._content(request, path)
        except ServingError as error:
            return error.code, _error_content(str(error))
        except (web.HTTPException, ConnectionError):
            raise  # aiohttp's to answer, if anybody is there
        except Exception as error:  # the server outlives every request
            print(f"local_server: {request.method} {path}: {error!r}", file=sys.stderr)
            return "INTERNAL", _error_content(f"{type(error).__name__}: {error}")

    async def _content(self, request: web.Request, path: str) -> bytes:
        if request.method == "POST" and (match := _INFERENCE.fullmatch(path)):
            body, name = await _read_body(request), unquote(match[1])
            with self._metrics.request(name, match[4], "REST", self._models.knows(name)):
                if match[4] != "predict":
                    raise ServingError("UNIMPLEMENTED", f"this development server does not {match[4]}, but predict")
                with self._models.use(_spec(match)) as model:
                    return await self._predict(model, body)
        if request.method == "GET" and (match := _STATUS.fullmatch(path)):
            return json.dumps((_metadata if match[4] else _status)(self._models, _spec(match))).encode()
        if request.method == "GET" and path.lower() in ("/v1/models", "/v1/models/metadata"):
            raise ServingError("INVALID_ARGUMENT", "Missing model name in request.")
        if not path.lower().startswith("/v1/"):
            raise ServingError("NOT_FOUND", f"Nothing here: {path}")
        raise ServingError("INVALID_ARGUMENT", f"Malformed request: {request.method} {path}")

    async def _predict(self, model: ServedModel, body: bytes) -> bytes:
        signature_name, layout, inputs = await asyncio.to_thread(_read_request, model, body)
        outputs = await model.predict(signature_name, inputs, timeout_seconds=self._options.timeout_seconds)
        return await asyncio.to_thread(_write_reply, layout, outputs)


async def _read_body(request: web.Request) -> bytes:
    """The body; what cannot be read to its end is refused, and the connection closed."""
    length = request.content_length or 0
    try:
        if length > _MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(_MAX_BODY_BYTES, length)
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        message = f"a body of {length or 'too many'} bytes is too large for this development server"
        raise _closing(error, message) from None
    except web.RequestPayloadError as error:
        raise _closing(web.HTTPBadRequest(), f"the body cannot be read: {' '.join(str(error).split())}") from None
    except TimeoutError:
        raise _closing(web.HTTPRequestTimeout(), "the body does not come") from None


def _closing(refusal: web.HTTPException, message: str) -> web.HTTPException:
    refusal.body, refusal.content_type = _error_content(message), "application/json"
    refusal.force_close()
    return refusal


def _error_content(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def _spec(match: re.Match) -> ModelSpec:
    """What a path asks for."""
    name, version, label = match.group(1, 2, 3)
    if version is not None and (len(version) > 19 or int(version) >= 2**63):
        raise ServingError("INVALID_ARGUMENT", f"Failed to convert version: {version} to numeric.")
    return ModelSpec(unquote(name), None if version is None else int(version), label and unquote(label))


def _read_request(model: ServedModel, body: bytes) -> tuple[str, str, Arrays]:
    """A predict request's signature, its layout ("instances" or "inputs") and the inputs."""
    try:
        signature_name, layout, value = rest_json.parse_request(body)
        signature_name = signature_name or DEFAULT_SIGNATURE
        return signature_name, layout, rest_json.inputs_from_json(layout, value, model.input_dtypes(signature_name))
    except (ValueError, RecursionError) as error:
        raise ServingError("INVALID_ARGUMENT", str(error)) from None


def _write_reply(layout: str, outputs: Arrays) -> bytes:
    try:
        return json.dumps(rest_json.outputs_to_json(layout, outputs)).encode()
    except ValueError as error:
        raise ServingError("INVALID_ARGUMENT", str(error)) from None


def _status(models: ModelStore, spec: ModelSpec) -> dict:
    return _proto_to_json(status_response(models, spec))


def _metadata(models: ModelStore, spec: ModelSpec) -> dict:
    response, signature_map = metadata_response(models, spec)
    metadata = {"signature_def": _proto_to_json(signature_map)}
    return {"model_spec": _proto_to_json(response.model_spec), "metadata": metadata}


def _proto_to_json(message: Message) -> dict:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
