"""The development server's REST side: the paths, status codes and error bodies of TF Serving, on HTTP/1.1."""

import http.server
import json
import re
import sys
import threading
from urllib.parse import unquote

import rest_json
from google.protobuf import json_format
from grpc_api import metadata_response, status_response
from served_model import DEFAULT_SIGNATURE, Models, ServingError

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
_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+))?"
_PREDICT = re.compile(rf"(?i){_MODEL}:(predict|classify|regress)", re.ASCII)
_STATUS = re.compile(rf"(?i){_MODEL}(/metadata)?", re.ASCII)
_MAX_BODY_BYTES = 64 * 1024 * 1024  # seeds take a few bytes each: more than this is a mistake


class RestServer(http.server.ThreadingHTTPServer):
    """Serves models on a port of the loopback interface, in threads of its own.

    Raises:
        OSError: the port is taken.
    """

    request_queue_size = 128

    def __init__(self, models: Models, port: int):
        self.models = models
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
            body = self._read_body()
            if body is not None:
                self._reply(*_answer(self.server.models, self.command, self.path.partition("?")[0], body))
        finally:
            self.server.count_running(-1)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _handle

    def _read_body(self) -> bytes | None:
        """The body, or None if its length is unusable: then the connection closes, for its end cannot be found."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.send_error(411, "this development server needs a Content-Length")
        elif not (length.isascii() and length.isdecimal()):
            self.send_error(400, f"bad Content-Length: {length!r}")
        elif len(length) > 12 or int(length) > _MAX_BODY_BYTES:
            self.send_error(413, f"a body of {length} bytes is too large for this development server")
        else:
            return self.rfile.read(int(length))
        return None

    def _reply(self, status: int, document: dict) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
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


def _answer(models: Models, method: str, path: str, body: bytes) -> tuple:
    """A request -> (HTTP status, the reply's JSON object)."""
    try:
        if method == "POST" and (match := _PREDICT.fullmatch(path)):
            name, version, verb = match.groups()
            if verb.lower() != "predict":
                raise ServingError("UNIMPLEMENTED", f"this development server has no {verb}")
            return 200, _predict(models.find(unquote(name), _version(version)), body)
        if method == "GET" and (match := _STATUS.fullmatch(path)):
            name, version, metadata = match.groups()
            answer = _metadata if metadata else _status
            return 200, answer(models, unquote(name), _version(version))
        if not path.lower().startswith("/v1/"):
            raise ServingError("NOT_FOUND", f"Nothing here: {path}")
        raise ServingError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")
    except ServingError as error:
        return _HTTP_STATUS.get(error.code, 500), {"error": str(error)}
    except Exception as error:  # the server outlives every request
        print(f"local_server: {method} {path}: {error!r}", file=sys.stderr)
        return 500, {"error": f"{type(error).__name__}: {error}"}


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > 19 or int(text) >= 2**63:
        raise ServingError("INVALID_ARGUMENT", f"Failed to convert version: {text} to numeric.")
    return int(text)


def _predict(model, body: bytes) -> dict:
    try:
        signature_name, layout, value = rest_json.parse_request(body)
        signature_name = signature_name or DEFAULT_SIGNATURE
        inputs = rest_json.inputs_from_json(layout, value, model.input_dtypes(signature_name))
    except (ValueError, RecursionError) as error:
        raise ServingError("INVALID_ARGUMENT", str(error)) from error
    outputs = model.predict(signature_name, inputs)
    try:
        return rest_json.outputs_to_json(layout, outputs)
    except ValueError as error:
        raise ServingError("INVALID_ARGUMENT", str(error)) from error


def _status(models: Models, name: str, version: int | None) -> dict:
    return _proto_to_json(status_response(models, name, version))


def _metadata(models: Models, name: str, version: int | None) -> dict:
    response, signature_map = metadata_response(models, name, version)
    metadata = {"signature_def": _proto_to_json(signature_map)}
    return {"model_spec": _proto_to_json(response.model_spec), "metadata": metadata}


def _proto_to_json(message) -> dict:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
