"""Made-up endpoints that answer as they are told, and the programs of export/ that ask them."""

import base64
import contextlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from concurrent import futures

import grpc
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests.support.servers import EXPORT


@contextlib.contextmanager
def rest_endpoint(answer):
    """A REST server that answers each POST with `answer(path, document)`, a status and a document (or bytes).

    Yields its port and the list of the requests, (path, document) each.
    """
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, document))
            status, reply = answer(self.path, document)
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port, received
        server.shutdown()


@contextlib.contextmanager
def grpc_endpoint(predict):
    """A gRPC server whose Predict is `predict(request, context)`; yields its port and the list of the requests."""
    received = []

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            received.append(request)
            return predict(request, context)

    server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, received
    finally:
        server.stop(None).wait()


def run_script(name, *arguments, **environment):
    """Runs a program of export/ to its end."""
    command = [sys.executable, str(EXPORT / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


def run_without(modules, name, *arguments):
    """Runs a program of export/ where those modules cannot be imported."""
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({modules!r}))\n"
        f"sys.argv = {[str(EXPORT / name), *map(str, arguments)]!r}; sys.path.insert(0, {str(EXPORT)!r})\n"
        f"runpy.run_path({str(EXPORT / name)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def assert_one_line(done, program, message):
    """That a program ended with status 2 and one line of its own that says why."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith(f"{program}: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr


def png_of(seed, shift=0):
    """A PNG file whose grey level says which seed it is of."""
    buffer = io.BytesIO()
    Image.new("L", (8, 6), (seed + shift) % 256).save(buffer, "PNG")
    return buffer.getvalue()


def predictions(document, shift=0):
    """The reply that a model of `png_of` gives a request."""
    files = [png_of(row["seed"], shift) for row in document["instances"]]
    return {"predictions": [{"b64": base64.b64encode(file).decode()} for file in files]}


def grey_levels(folder):
    """What `png_of` wrote, by file name."""
    return {path.name: Image.open(path).getpixel((0, 0)) for path in folder.iterdir()}
