"""The deployment kit from outside: the development server by REST and gRPC, the client, the configuration files."""

import base64
import contextlib
import http.client
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from PIL import Image
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

EXPORT = Path(__file__).resolve().parents[1] / "export"
ENVIRONMENT = os.environ | {"NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1"}
HEIGHT, WIDTH, CHANNELS = 48, 64, 3
SEED = tf.TensorSpec([None], tf.int64, name="seed")
LABEL = tf.TensorSpec([None], tf.int64, name="label")
MODEL = "/v1/models/digits"
PREDICT = f"{MODEL}:predict"


class Toy(tf.Module):
    """Images that are a hash of the seed: PNG cannot make them smaller. Seeds below -100 fail while the model runs."""

    @tf.function(input_signature=[SEED])
    def image(self, seed):
        low = tf.debugging.assert_greater(seed, tf.constant(-100, tf.int64), message="seed too small")
        with tf.control_dependencies([low]):
            x = seed[:, None] * 2654435761 + tf.range(HEIGHT * WIDTH * CHANNELS, dtype=tf.int64)[None]
        for _ in range(2):
            x = x * 6364136223846793005
            x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(29, tf.int64)))
        pixels = tf.cast(tf.bitwise.bitwise_and(x, tf.constant(255, tf.int64)), tf.uint8)
        return {"image": tf.reshape(pixels, [-1, HEIGHT, WIDTH, CHANNELS])}

    @tf.function(input_signature=[SEED])
    def png(self, seed):
        image = self.image(seed)["image"]
        return {"image_bytes": tf.map_fn(tf.io.encode_png, image, fn_output_signature=tf.string)}

    @tf.function(input_signature=[SEED, LABEL])
    def labelled(self, seed, label):
        return {
            "total": seed + label,
            "tenth": tf.cast(seed, tf.float32) / 10.0,
            "text": tf.strings.as_string(seed),
            "text_bytes": tf.strings.as_string(label),
        }

    @tf.function(input_signature=[SEED])
    def half(self, seed):
        return {"y": tf.cast(seed, tf.bfloat16)}


def expected_images(seeds):
    return Toy().image(tf.constant(list(seeds), tf.int64))["image"].numpy()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run_script(name, *arguments):
    command = [sys.executable, str(EXPORT / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """Version 10 is a model; an older version and what is no version are skipped."""
    base = tmp_path_factory.mktemp("served") / "digits"
    toy = Toy()
    signatures = {"serving_default": toy.image, "png": toy.png, "labelled": toy.labelled, "half": toy.half}
    tf.saved_model.save(toy, str(base / "10"), signatures=signatures)
    for skipped in ("9", "latest", "99.tmp"):
        (base / skipped).mkdir()
    (base / "11").write_text("a file is no version")
    return base


@pytest.fixture(scope="module")
def ports(base_path):
    """The running server's (REST, gRPC) ports."""
    rest, grpc_port = free_ports(2)
    flags = [f"--model_base_path={base_path}", "--model_name=digits", f"--port={grpc_port}", f"--rest_api_port={rest}"]
    command = [sys.executable, str(EXPORT / "local_server.py"), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        ready = process.stdout.readline()
        assert "ready: digits version 10" in ready, process.communicate()
        yield rest, grpc_port
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "", "")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def channel(ports):
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}", [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


def call(port, method, path, body=None):
    """One REST request -> (status, the reply's JSON). A body that is no string is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request(method, path, body if body is None or isinstance(body, str | bytes) else json.dumps(body))
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))


# REST


@pytest.mark.parametrize("path", [PREDICT, f"{MODEL}/versions/10:predict", "/V1/Models/digits:predict?x=1"])
@pytest.mark.parametrize(
    "body, key",
    [
        ({"instances": [0, -7]}, "predictions"),
        ({"instances": [{"seed": 0}, {"seed": -7}], "signature_name": "serving_default"}, "predictions"),
        ({"inputs": [0, -7]}, "outputs"),
        ({"inputs": {"seed": [0, -7]}, "signature_name": ""}, "outputs"),
    ],
)
def test_rest_predict(ports, path, body, key):
    status, reply = call(ports[0], "POST", path, body)
    assert (status, list(reply)) == (200, [key])
    np.testing.assert_array_equal(reply[key], expected_images([0, -7]))


@pytest.mark.parametrize("layout, key", [("instances", "predictions"), ("inputs", "outputs")])
def test_rest_png(ports, layout, key):
    status, reply = call(ports[0], "POST", PREDICT, {layout: [3, 2**62], "signature_name": "png"})
    assert status == 200
    assert [list(value) for value in reply[key]] == [["b64"]] * 2
    received = [pixels(base64.b64decode(value["b64"], validate=True)) for value in reply[key]]
    np.testing.assert_array_equal(received, expected_images([3, 2**62]))


def test_rest_with_several_inputs_and_outputs(ports):
    row = {"total": 3, "tenth": 0.1, "text": "1", "text_bytes": {"b64": base64.b64encode(b"2").decode()}}
    request = {"signature_name": "labelled", "instances": [{"seed": 1, "label": 2}, {"label": 2, "seed": 1}]}
    assert call(ports[0], "POST", PREDICT, request) == (200, {"predictions": [row, row]})
    request = {"signature_name": "labelled", "inputs": {"seed": [1], "label": [2]}}
    assert call(ports[0], "POST", PREDICT, request) == (200, {"outputs": {key: [row[key]] for key in row}})


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/10"])
def test_rest_status(ports, path):
    state = {"version": "10", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert call(ports[0], "GET", path) == (200, {"model_version_status": [state]})


@pytest.mark.parametrize("path", [f"{MODEL}/metadata", f"{MODEL}/versions/10/metadata"])
def test_rest_metadata(ports, path):
    status, reply = call(ports[0], "GET", path)
    assert status == 200
    assert reply["model_spec"] == {"name": "digits", "version": "10", "signature_name": ""}
    seed = reply["metadata"]["signature_def"]["signature_def"]["png"]["inputs"]["seed"]
    assert seed["dtype"] == "DT_INT64"
    assert seed["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


BAD_REQUESTS = [  # method, path, body, status, a part of the message
    ("GET", "/v1/models/other", None, 404, "Could not find any versions of model other"),
    ("GET", f"{MODEL}/versions/9", None, 404, "Could not find version 9"),
    ("GET", f"{MODEL}/versions/{10**30}", None, 400, "to numeric"),
    ("GET", "/v1/models/other/metadata", None, 404, "Servable not found"),
    ("GET", "/v1/models", None, 400, "Malformed request"),
    ("GET", PREDICT, None, 400, "Malformed request"),
    ("GET", "/", None, 404, "Nothing here"),
    ("PUT", MODEL, "{}", 400, "Malformed request"),
    ("DELETE", MODEL, None, 400, "Malformed request"),
    ("BREW", MODEL, None, 501, "BREW"),
    ("POST", MODEL, {"instances": [1]}, 400, "Malformed request"),
    ("POST", "/v1/models/other:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(other)"),
    ("POST", f"{MODEL}/versions/9:predict", {"instances": [1]}, 404, "Specific(digits, 9)"),
    ("POST", f"{MODEL}/versions/x:predict", {"instances": [1]}, 400, "Malformed request"),
    ("POST", f"{MODEL}:classify", {"examples": []}, 501, "classify"),
    ("POST", PREDICT, "", 400, "The document is empty"),
    ("POST", PREDICT, "instances", 400, "JSON Parse error"),
    ("POST", PREDICT, b"\xff\xfe\xff", 400, "JSON Parse error"),
    ("POST", PREDICT, "[" * 100_000, 400, "recursion"),
    ("POST", PREDICT, '{"inputs": ' + "[" * 900 + "]" * 900 + "}", 400, ""),
    ("POST", PREDICT, '{"inputs": [1, ' + "[" * 900 + "]" * 900 + "]}", 400, ""),
    ("POST", PREDICT, '{"instances": [' + "9" * 5000 + "]}", 400, "JSON Parse error"),
    ("POST", PREDICT, [1], 400, "not object"),
    ("POST", PREDICT, {}, 400, "Missing 'inputs' or 'instances'"),
    ("POST", PREDICT, {"instances": [1], "inputs": [1]}, 400, "only one of"),
    ("POST", PREDICT, {"instances": []}, 400, "at least one"),
    ("POST", PREDICT, {"instances": 1}, 400, "at least one"),
    ("POST", PREDICT, {"instances": [1.0]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": ["1"]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [True]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [None]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [2**63]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [1, {"seed": 1}]}, 400, "not both"),
    ("POST", PREDICT, {"instances": [1, [2]]}, 400, "not of expected type"),
    ("POST", PREDICT, {"instances": [[1], [2, 3]]}, 400, "expecting a list of 1 values"),
    ("POST", PREDICT, {"instances": [[1]]}, 400, "must have shape"),
    ("POST", PREDICT, {"instances": [{"seed": 1, "label": 1}]}, 400, "keys must be equal to: seed"),
    ("POST", PREDICT, {"instances": [{}]}, 400, "keys must be equal to: seed"),
    ("POST", PREDICT, {"inputs": {"label": [1]}}, 400, "Missing named input: seed"),
    ("POST", PREDICT, {"inputs": 1}, 400, "must have shape"),
    ("POST", PREDICT, {"inputs": [1], "signature_name": "jpeg"}, 400, "jpeg"),
    ("POST", PREDICT, {"inputs": [1], "signature_name": 1}, 400, "must be a string"),
    ("POST", PREDICT, {"inputs": [1], "signature_name": "labelled"}, 400, "label"),
    ("POST", PREDICT, {"instances": [1], "signature_name": "labelled"}, 400, "label"),
    ("POST", PREDICT, {"inputs": [1], "signature_name": "half"}, 400, "bfloat16"),
    ("POST", PREDICT, {"inputs": [-500]}, 400, "seed too small"),
]


@pytest.mark.parametrize("method, path, body, status, message", BAD_REQUESTS)
def test_a_bad_rest_request_gets_its_status_and_a_message(ports, method, path, body, status, message):
    received, reply = call(ports[0], method, path, body)
    assert received == status, reply
    assert list(reply) == ["error"]
    assert message in reply["error"]
    assert not any(word in reply["error"] for word in ("Traceback", 'File "', "\n")), reply


@pytest.mark.parametrize(
    "request_text, status",
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_what_is_no_proper_http_is_refused_and_the_connection_closed(ports, request_text, status):
    with socket.create_connection(("127.0.0.1", ports[0])) as connection:
        connection.sendall(request_text)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert f" {status} ".encode() in head.splitlines()[0]
    assert list(json.loads(body)) == ["error"]


def test_a_connection_is_kept_through_errors_and_a_client_that_hangs_up_harms_nobody(ports):
    with socket.create_connection(("127.0.0.1", ports[0])) as rude:
        rude.sendall(b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    connection = http.client.HTTPConnection("127.0.0.1", ports[0])
    connection.connect()
    first = connection.sock
    for path, status in [("/v1/models/other:predict", 404), (PREDICT, 200), (PREDICT, 200)]:
        connection.request("POST", path, '{"instances": [1]}')
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is first
    connection.close()


# gRPC


def predict_request(signature="", name="digits", version=None, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_grpc_predict(channel):
    predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
    seeds = np.array([5, -7])
    response = predict(predict_request(seed=seeds, version=10))
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("digits", 10, "serving_default")
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["image"]), expected_images(seeds))
    response = predict(predict_request("png", seed=seeds))
    received = [pixels(png) for png in response.outputs["image_bytes"].string_val]
    np.testing.assert_array_equal(received, expected_images(seeds))
    request = predict_request("labelled", seed=seeds, label=seeds)
    request.output_filter.append("total")
    response = predict(request)
    assert {key: list(value.int64_val) for key, value in response.outputs.items()} == {"total": [10, -14]}
    assert tf.make_ndarray(predict(predict_request("half", seed=seeds)).outputs["y"]).tolist() == [5, -7]


def test_grpc_metadata_and_status(channel):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "digits"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 10
    assert {"serving_default", "png"} < set(signatures.signature_def)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "digits"
    status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request).model_version_status
    assert [(s.version, s.state, s.status.error_code) for s in status] == [(10, s.AVAILABLE, 0) for s in status]


def huge_tensor():
    request = predict_request(seed=[1])
    request.inputs["seed"].tensor_shape.dim[0].size = 2**40
    return request


def cut_off_tensor():
    request = predict_request(seed=np.array([1, 2, 3]))
    request.inputs["seed"].tensor_content = request.inputs["seed"].tensor_content[:-1]
    return request


def unknown_output():
    request = predict_request(seed=np.array([1]))
    request.output_filter.append("sound")
    return request


@pytest.mark.parametrize(
    "request_, code, message",
    [
        (predict_request(name="other", seed=np.array([1])), "NOT_FOUND", "Latest(other)"),
        (predict_request(version=9, seed=np.array([1])), "NOT_FOUND", "Specific(digits, 9)"),
        (predict_request("jpeg", seed=np.array([1])), "FAILED_PRECONDITION", "jpeg"),
        (predict_request(), "INVALID_ARGUMENT", "Missing but required: ['seed']"),
        (predict_request(seed=np.array([1]), label=np.array([1])), "INVALID_ARGUMENT", "Sent extra: ['label']"),
        (predict_request(seed=np.array([1.0])), "INVALID_ARGUMENT", "must be int64"),
        (predict_request(seed=np.array(["1"])), "INVALID_ARGUMENT", "must be int64"),
        (predict_request(seed=np.array([[1]])), "INVALID_ARGUMENT", "must have shape"),
        (predict_request(seed=np.array([-500])), "INVALID_ARGUMENT", "seed too small"),
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (huge_tensor(), "INVALID_ARGUMENT", "1099511627776"),
        (cut_off_tensor(), "INVALID_ARGUMENT", "input seed"),
        (unknown_output(), "INVALID_ARGUMENT", "sound"),
        (get_model_metadata_pb2.GetModelMetadataRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "digits"}), "INVALID_ARGUMENT", "metadata"),
        (get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "other"}), "NOT_FOUND", "other"),
        (classification_pb2.ClassificationRequest(), "UNIMPLEMENTED", "Predict"),
        (model_management_pb2.ReloadConfigRequest(), "UNIMPLEMENTED", "Predict"),
    ],
)
def test_a_bad_grpc_request_gets_its_code_and_a_message(channel, request_, code, message):
    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    methods = {
        "PredictRequest": prediction.Predict,
        "GetModelMetadataRequest": prediction.GetModelMetadata,
        "ClassificationRequest": prediction.Classify,
        "GetModelStatusRequest": models.GetModelStatus,
        "ReloadConfigRequest": models.HandleReloadConfigRequest,
    }
    with pytest.raises(grpc.RpcError) as failure:
        methods[type(request_).__name__](request_)
    assert failure.value.code().name == code, failure.value.details()
    assert message in failure.value.details()
    assert "Traceback" not in failure.value.details() and "Exception calling" not in failure.value.details()


# Starting the server


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--model_base_path is required"),
        (["--model_base_path={tmp}/nothing"], "no folder"),
        (["--model_base_path={tmp}"], "holds no version"),
        (["--model_base_path={tmp}/empty"], "holds no saved_model.pb"),
        (["--model_base_path={tmp}/corrupt"], "cannot load"),
        (["--model_base_path={tmp}", "--rest_api_port={taken}"], "cannot be used"),
        (["--model_base_path={tmp}", "--port={taken}"], "cannot be used"),
        (["--model_base_path={tmp}", "--port=0", "--rest_api_port=0"], "nothing to serve"),
        (["--model_base_path={tmp}", "--port=8501"], "must differ"),
        (["--port=many"], "--port"),
        (["--port=65536"], "--port"),
        (["--no_such_flag=1"], "no_such_flag"),
        (["served/digits"], "unknown arguments"),
    ],
)
def test_a_mistake_at_the_start_is_one_message_and_status_2(tmp_path, flags, message):
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "corrupt" / "1").mkdir(parents=True)
    (tmp_path / "corrupt" / "1" / "saved_model.pb").write_bytes(b"not a model")
    ports = free_ports(2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"tmp": tmp_path, "taken": taken.getsockname()[1]}
        defaults = [f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
        if any("8501" in flag for flag in flags):
            defaults = []
        done = run_script("local_server.py", *defaults, *[flag.format(**names) for flag in flags])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("local_server: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr


def test_help_says_what_it_is_not():
    assert "It is NOT TF Serving" in run_script("local_server.py", "--help").stdout


# The client


def tiles(path, count):
    """The images of a grid, row by row."""
    gap = 2
    grid = np.asarray(Image.open(path))[gap:, gap:]
    assert grid.shape[0] % (HEIGHT + gap) == 0 and grid.shape[1] % (WIDTH + gap) == 0
    rows, columns = grid.shape[0] // (HEIGHT + gap), grid.shape[1] // (WIDTH + gap)
    images = grid.reshape(rows, HEIGHT + gap, columns, WIDTH + gap, CHANNELS).swapaxes(1, 2)
    assert (images[:, :, HEIGHT:] == 255).all() and (images[:, :, :, WIDTH:] == 255).all()
    return images[:, :, :HEIGHT, :WIDTH].reshape(-1, HEIGHT, WIDTH, CHANNELS)[:count]


def test_client_by_rest(ports, tmp_path):
    out, folder = tmp_path / "grid.png", tmp_path / "images"
    url = f"http://127.0.0.1:{ports[0]}/"
    arguments = ["--url", url, "--model=digits", "--seeds=-2:3,40", "--batch_size=4"]
    done = run_script("client.py", *arguments, "--out", out, "--out_dir", folder)
    assert done.returncode == 0, done
    seeds = [-2, -1, 0, 1, 2, 40]
    expected = expected_images(seeds)
    np.testing.assert_array_equal(tiles(out, 6), expected)
    assert {path.name for path in folder.iterdir()} == {f"seed_{seed}.png" for seed in seeds}
    for seed, image in zip(seeds, expected):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"seed_{seed}.png")), image)


def test_client_by_grpc_takes_a_reply_of_more_than_4_mb(ports, tmp_path):
    count, out = 500, tmp_path / "grid.png"
    assert count * HEIGHT * WIDTH * CHANNELS > 4 * 1024**2
    arguments = [f"--grpc=127.0.0.1:{ports[1]}", "--model=digits", f"--seeds=0:{count}", f"--batch_size={count}"]
    done = run_script("client.py", *arguments, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(tiles(out, count), expected_images(range(count)))


@contextlib.contextmanager
def scripted_server(answers):
    """A REST server that gives (status, body) answers one after the other and keeps the requests' instances."""
    answers, received = iter(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body)["instances"])
            status, reply = next(answers)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

        def log_message(self, format, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port, received
        server.shutdown()


def predictions(count):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 128).save(buffer, "PNG")
    return {"predictions": [{"b64": base64.b64encode(buffer.getvalue()).decode()}] * count}


def test_client_batches_sends_labels_and_waits_for_the_server(tmp_path):
    answers = [(503, {"error": "loading"}), (503, {"error": "loading"}), (200, predictions(2)), (200, predictions(1))]
    with scripted_server(answers) as (port, received):
        arguments = ["--seeds=5,6,5", "--labels=0:3", "--batch_size=2", "--wait=60", "--out_dir", tmp_path]
        done = run_script("client.py", f"--url=http://127.0.0.1:{port}", *arguments)
    assert done.returncode == 0, done
    first, second = [{"seed": 5, "label": 0}, {"seed": 6, "label": 1}], [{"seed": 5, "label": 2}]
    assert received == [first, first, first, second]
    assert {p.name for p in tmp_path.iterdir()} == {f"seed_{s}_label_{k}.png" for s, k in ((5, 0), (6, 1), (5, 2))}


@pytest.mark.parametrize(
    "answer, message",
    [
        ((200, b"<html>"), "without JSON"),
        ((200, {"predictions": 1}), "holds no images"),
        ((200, {"predictions": [1]}), "holds no images"),
        ((200, {"outputs": []}), "no 'predictions'"),
        ((200, predictions(3)), "asked for 1 images, received 3"),
        ((200, {"predictions": [{"b64": "AAAA"}]}), "no PNG image"),
        ((500, {"error": "out of memory"}), "500: out of memory"),
        ((503, {"error": "loading"}), "503: loading"),
    ],
)
def test_client_reports_a_server_that_answers_something_else(tmp_path, answer, message):
    with scripted_server([answer]) as (port, _):
        flags = [f"--url=http://127.0.0.1:{port}", "--seeds=1", f"--out={tmp_path}/grid.png"]
        done = run_script("client.py", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("client: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--seeds=one"], "--seeds: 'one'"),
        (["--seeds=5:5"], "empty"),
        (["--seeds=3:"], "--seeds: '3:'"),
        (["--seeds=0:99999999999"], "more than"),
        ([f"--seeds={2**63}"], "64-bit"),
        (["--labels=1,2,3", "--seeds=0:2"], "--labels: give one label"),
        (["--labels=1"], "keys must be equal to: seed"),
        (["--model=other"], "404: Servable not found"),
        (["--url=localhost:8501"], "must begin with http://"),
        (["--url=http://127.0.0.1:{unused}"], "no server at http://127.0.0.1:{unused}"),
        (["--batch_size=0"], "--batch_size"),
        (["--out=/dev/null/grid.png"], "/dev/null"),
        (["7"], "unknown arguments"),
    ],
)
def test_a_mistake_in_a_client_call_is_one_message_and_status_2(ports, tmp_path, flags, message):
    names = {"unused": free_ports(1)[0], "tmp": tmp_path}
    defaults = [f"--url=http://127.0.0.1:{ports[0]}", "--model=digits", f"--out={tmp_path}/grid.png"]
    done = run_script("client.py", *defaults, *[flag.format(**names) for flag in flags])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("client: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert message.format(**names) in done.stderr


# The configuration files


def message_class(name, fields):
    """A proto that tensorflow-serving-api does not carry: fields are (name, label and type)."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="test", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name=name)
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, (field, kind) in enumerate(fields.items(), start=1):
        label = kinds.LABEL_REPEATED if kind == "repeated" else kinds.LABEL_OPTIONAL
        entry = message.field.add(name=field, number=number, label=label)
        if kind == "wrapped":
            entry.type, entry.type_name = kinds.TYPE_MESSAGE, ".google.protobuf.Int64Value"
        else:
            entry.type = {"repeated": kinds.TYPE_INT64, "bool": kinds.TYPE_BOOL, "string": kinds.TYPE_STRING}[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))


def test_models_config():
    config = text_format.Parse((EXPORT / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    models = config.model_config_list.config
    assert [(m.name, m.base_path, m.model_platform) for m in models] == [("digits", "/models/digits", "tensorflow")]


def test_batching_config_keeps_tf_servings_rules():
    wrapped = ["max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"]
    fields = dict.fromkeys(wrapped, "wrapped") | {"allowed_batch_sizes": "repeated"}
    config = message_class("BatchingParameters", fields)()
    text_format.Parse((EXPORT / "batching.config").read_text(), config)
    sizes = list(config.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[-1] == config.max_batch_size.value
    assert config.num_batch_threads.value >= 1


def test_monitoring_config():
    text = (EXPORT / "monitoring.config").read_text()
    inner = text[text.index("{") + 1 : text.rindex("}")]
    config = text_format.Parse(inner, message_class("PrometheusConfig", {"enable": "bool", "path": "string"})())
    assert text[: text.index("{")].split()[-1] == "prometheus_config"
    assert config.enable and config.path.startswith("/")


def compose_service():
    return yaml.safe_load((EXPORT / "compose.yaml").read_text())["services"]["serving"]


def test_compose_mounts_what_its_flags_name():
    service = compose_service()
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    sources = {inside: (EXPORT / outside).resolve() for outside, inside in mounts.items()}
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    for flag in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        assert sources[flags[flag]].is_file()
    assert sources["/models"] == EXPORT.parent / "served"
    assert "latest" not in service["image"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("model, healthy", [("digits", True), ("other", False)])
def test_compose_health_check_against_the_development_server(ports, model, healthy):
    program, *command = compose_service()["healthcheck"]["test"]
    assert program == "CMD" and "/v1/models/digits " in command[-1]
    command[-1] = command[-1].replace("8501", str(ports[0])).replace("/models/digits", f"/models/{model}")
    assert (subprocess.run(command, capture_output=True).returncode == 0) == healthy
