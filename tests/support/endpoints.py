"""Made-up endpoints that answer as they are told."""

import base64
import contextlib
import http.server
import io
import json
import threading
from concurrent import futures

import grpc
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc


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
