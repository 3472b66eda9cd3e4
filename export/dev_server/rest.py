"""The development server's REST side: the paths, status codes and error bodies of TF Serving, on HTTP/1.1."""

import http.server
import json
import re
import sys
import threading
import time
from typing import NamedTuple
from urllib.parse import unquote

from google.protobuf import json_format

from . import rest_json
from .errors import ServingError
from .grpc_services import metadata_response, status_response
from .http_body import BodyError, read_body
from .metrics import ServerMetrics
from .model_store import ModelSpec, ModelStore
from .served_model import DEFAULT_SIGNATURE

_HTTP_STATUS = {  # as TF Serving translates its own codes; any other is 500
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
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


class RestOptions(NamedTuple):
    """How the server answers.

    Args:
        monitoring_path: where the figures are shown; None shows none.
        timeout_seconds: how long the run of a request may take; None is without end.
        enable_cors: whether pages of any origin may read the answers.
    """

    monitoring_path: str | None = None
    timeout_seconds: float | None = None
    enable_cors: bool = False


class RestServer(http.server.ThreadingHTTPServer):
    """Serves models on a port of the loopback interface, in threads of its own.

    Args:
        models: what is served.
        metrics: where requests are counted.
        port: to listen on.
        options: how it answers.

    Raises:
        OSError: the port is taken.
    """

    request_queue_size = 128

    def __init__(self, models: ModelStore, metrics: ServerMetrics, port: int, options: RestOptions):
        self.models, self.metrics, self.options = models, metrics, options
        self._running = 0
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Handler)

    def start(self) -> None:
        """Starts to answer."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self, grace_seconds: float) -> None:
        """Takes no more connections, and lets the requests that run end, up to the grace period."""
        self.shutdown()
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0, timeout=grace_seconds)
        self.server_close()

    def count_running(self, change: int) -> None:
        """+1 when a request begins, -1 when its reply is out."""
        with self._changed:
            self._running += change
            self._changed.notify_all()

    def handle_error(self, request, client_address):
        """A client that hangs up is no event; anything else gets one line and takes nobody else down."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"local_server: {client_address}: {error!r}", file=sys.stderr)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    timeout = 300  # seconds; a client that stops in the middle of a request frees its thread

    def _handle(self):
        self.server.count_running(+1)
        try:
            try:
                body = read_body(self.headers, self.rfile)
            except BodyError as error:
                self.send_error(error.status, str(error))
            else:
                self._answer(self.path.partition("?")[0], body)
        finally:
            self.server.count_running(-1)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _handle

    def _answer(self, path: str, body: bytes) -> None:
        options, is_api = self.server.options, path.lower().startswith("/v1/")
        headers = _CORS_HEADERS if options.enable_cors and is_api else {}
        if path == options.monitoring_path and self.command in ("GET", "HEAD"):
            self._send(200, {"Content-Type": "text/plain"}, self.server.metrics.text().encode())
        elif self.command == "OPTIONS" and is_api:  # a browser's preflight request, or none for lack of an origin
            is_preflight = re.search("https?://", self.headers.get("Origin", ""))
            self._send(200 if is_preflight else 400, headers, b"")
        else:
            self._reply(*_answer(self.server, self.command, path, body), headers)

    def _reply(self, status: int, document: dict, headers: dict | None = None) -> None:
        headers = {"Content-Type": "application/json"} | (headers or {})
        self._send(status, headers, json.dumps(document).encode())

    def _send(self, status: int, headers: dict, content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code, message=None, explain=None):
        """What the standard library refuses by itself (a bad request line, an unknown method) is JSON here too."""
        self.close_connection = True
        self.request_version = self.protocol_version  # after a bad request line it is HTTP/0.9: a reply without head
        self._reply(int(code), {"error": message or http.HTTPStatus(code).phrase})

    def log_message(self, format, *args):
        """Silent: one line a request would bury the server's own."""


def _answer(server: RestServer, method: str, path: str, body: bytes) -> tuple:
    """A request -> (HTTP status, the reply's JSON object)."""
    started = time.perf_counter()
    code, document = _code_and_document(server, method, path, body)
    inference = _INFERENCE.fullmatch(path) if method == "POST" else None
    if inference and server.models.knows(unquote(inference[1])):  # clients invent any number of other names
        seconds = time.perf_counter() - started
        server.metrics.record_request(unquote(inference[1]), inference[4], "REST", code, seconds)
    return 200 if code == "OK" else _HTTP_STATUS.get(code, 500), document


def _code_and_document(server: RestServer, method: str, path: str, body: bytes) -> tuple:
    models = server.models
    try:
        if method == "POST" and (match := _INFERENCE.fullmatch(path)):
            with models.use(_spec(match)) as model:
                if match[4] != "predict":
                    return "OK", _refuse(model, match[4], body)
                return "OK", _predict(model, body, server.options.timeout_seconds)
        if method == "GET" and (match := _STATUS.fullmatch(path)):
            return "OK", (_metadata if match[4] else _status)(models, _spec(match))
        if method == "GET" and path.lower() in ("/v1/models", "/v1/models/metadata"):
            raise ServingError("INVALID_ARGUMENT", "Missing model name in request.")
        if not path.lower().startswith("/v1/"):
            raise ServingError("NOT_FOUND", f"Nothing here: {path}")
        raise ServingError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")
    except ServingError as error:
        return error.code, {"error": str(error)}
    except Exception as error:  # the server outlives every request
        print(f"local_server: {method} {path}: {error!r}", file=sys.stderr)
        return "INTERNAL", {"error": f"{type(error).__name__}: {error}"}


def _spec(match: re.Match) -> ModelSpec:
    """What a path asks for."""
    name, version, label = match.group(1, 2, 3)
    if version is not None and (len(version) > 19 or int(version) >= 2**63):
        raise ServingError("INVALID_ARGUMENT", f"Failed to convert version: {version} to numeric.")
    return ModelSpec(unquote(name), None if version is None else int(version), label and unquote(label))


def _predict(model, body: bytes, timeout_seconds: float | None) -> dict:
    try:
        signature_name, layout, value = rest_json.parse_request(body)
        signature_name = signature_name or DEFAULT_SIGNATURE
        inputs = rest_json.inputs_from_json(layout, value, model.input_dtypes(signature_name))
    except (ValueError, RecursionError) as error:
        raise ServingError("INVALID_ARGUMENT", str(error)) from error
    outputs = model.predict(signature_name, inputs, timeout_seconds=timeout_seconds)
    try:
        return rest_json.outputs_to_json(layout, outputs)
    except ValueError as error:
        raise ServingError("INVALID_ARGUMENT", str(error)) from error


def _refuse(model, verb: str, body: bytes) -> dict:
    try:
        signature_name = rest_json.parse_examples(body)
    except (ValueError, RecursionError) as error:
        raise ServingError("INVALID_ARGUMENT", str(error)) from error
    kind = {"classify": "classification", "regress": "regression"}[verb]
    return model.check_method(signature_name or DEFAULT_SIGNATURE, kind)


def _status(models: ModelStore, spec: ModelSpec) -> dict:
    return _proto_to_json(status_response(models, spec))


def _metadata(models: ModelStore, spec: ModelSpec) -> dict:
    response, signature_map = metadata_response(models, spec)
    metadata = {"signature_def": _proto_to_json(signature_map)}
    return {"model_spec": _proto_to_json(response.model_spec), "metadata": metadata}


def _proto_to_json(message) -> dict:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
