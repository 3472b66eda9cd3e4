"""TF Serving's behaviour as one table of requests and answers, for the development server and for TF Serving itself.

The table follows TF Serving's documentation (https://www.tensorflow.org/tfx/serving/api_rest) and the texts of its
sources; where those changed from version to version, only the status is compared. The development server answers
UNIMPLEMENTED to Classify, Regress and MultiInference, whose rows are for TF Serving alone. A TF Serving that serves an
export without labels under the name `digits` is asked, too, if these are set:

    TF_SERVING_URL=http://localhost:8501 TF_SERVING_GRPC=localhost:8500 \\
        python -m pytest tests/export/conformance_test.py

That server is to be started with --rest_api_enable_cors_support=true. Another one, started with
--rest_api_timeout_in_ms=1, is asked if TF_SERVING_IMPATIENT_URL is set.
"""

import base64
import http.client
import io
import json
import os
import urllib.error
import urllib.request
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.support.servers import predict_request, server_in_this_process
from tf_blurdiff.data.pixels import to_uint8

SEEDS = [7, -1, 2**62]
MODEL, NOBODY = "/v1/models/digits", "/v1/models/nobody"
DIGITS = {"name": "digits"}


class Endpoints(NamedTuple):
    """A server: where REST and gRPC are (None: not to be asked), its version, and the images of SEEDS by REST."""

    url: str | None
    grpc: str | None
    version: int
    images: np.ndarray
    does_predict_only: bool


def rest(url, method, path, body=None):
    """A REST request -> (status, text)."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def endpoints(url, grpc_address, does_predict_only=False):
    status = json.loads(rest(url, "GET", MODEL)[1])["model_version_status"]
    version = max(int(entry["version"]) for entry in status if entry["state"] == "AVAILABLE")
    images = json.loads(rest(url, "POST", f"{MODEL}:predict", {"inputs": {"seed": SEEDS}})[1])["outputs"]
    return Endpoints(url, grpc_address, version, np.array(images), does_predict_only)


@pytest.fixture(scope="module")
def local(small_export):
    with server_in_this_process(small_export.parent, enable_cors=True) as server:
        yield endpoints(f"http://127.0.0.1:{server.rest}", f"127.0.0.1:{server.grpc}", does_predict_only=True)


@pytest.fixture(scope="module", params=["local_server", "tf_serving"])
def server(request):
    if request.param == "local_server":
        return request.getfixturevalue("local")
    if "TF_SERVING_URL" not in os.environ:
        pytest.skip("TF_SERVING_URL is not set")
    return endpoints(os.environ["TF_SERVING_URL"].rstrip("/"), os.environ.get("TF_SERVING_GRPC"))


@pytest.fixture(params=["local_server", "tf_serving"])
def impatient_url(request):
    """Where REST requests may take 1 ms."""
    if request.param == "local_server":
        return f"http://127.0.0.1:{request.getfixturevalue('open_toy_server').rest}"
    if "TF_SERVING_IMPATIENT_URL" not in os.environ:
        pytest.skip("TF_SERVING_IMPATIENT_URL is not set")
    return os.environ["TF_SERVING_IMPATIENT_URL"].rstrip("/")


# What an answer must be: functions of the server and the answer (the reply's JSON, or the gRPC message or error text).


def says(text):
    """An error: JSON with nothing but the message, or gRPC's details."""

    def check(server, answer):
        message = answer["error"] if isinstance(answer, dict) else answer
        assert text in message and (isinstance(answer, str) or list(answer) == ["error"])

    return check


def same_images(server, images):
    np.testing.assert_allclose(np.asarray(images, int), server.images, atol=1)


def gives(key, decode=lambda value: value):
    """A REST reply with the images of SEEDS under a key."""

    def check(server, answer):
        assert list(answer) == [key]
        same_images(server, [decode(value) for value in answer[key]])

    return check


def from_png(png):
    image = np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))
    return image if image.ndim == 3 else image[..., None]


def from_b64(value):
    assert list(value) == ["b64"]
    return from_png(base64.b64decode(value["b64"], validate=True))


def is_available(server, answer):
    state = {"version": str(server.version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert state in answer["model_version_status"]


def describes_signatures(server, answer):
    assert answer["model_spec"] == {"name": "digits", "signature_name": "", "version": str(server.version)}
    seed = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["seed"]
    assert (seed["dtype"], seed["tensor_shape"]["dim"]) == ("DT_INT64", [{"size": "-1", "name": ""}])


def gives_images(server, answer):
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("digits", server.version, "serving_default")
    same_images(server, tf.make_ndarray(answer.outputs["image"]))


def gives_png_files(server, answer):
    same_images(server, [from_png(png) for png in answer.outputs["image_bytes"].string_val])


def lists_the_version(server, answer):
    states = {(entry.version, entry.state, entry.status.error_code) for entry in answer.model_version_status}
    assert (server.version, answer.model_version_status[0].AVAILABLE, 0) in states


def packs_signatures(server, answer):
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "png"} <= set(signatures.signature_def)
    assert answer.model_spec.version.value == server.version


PREDICT = f"{MODEL}:predict"
AT_VERSION = f"{MODEL}/versions/{{version}}"
PNG = {"signature_name": "png"}
EXAMPLES = {"examples": [{"x": 1}]}
REST = [  # method, path, body, HTTP status, what the answer is
    ("GET", MODEL, None, 200, is_available),
    ("GET", AT_VERSION, None, 200, is_available),
    ("GET", f"{MODEL}/metadata", None, 200, describes_signatures),
    ("GET", f"{AT_VERSION}/metadata", None, 200, describes_signatures),
    ("POST", PREDICT, {"instances": SEEDS}, 200, gives("predictions")),
    ("POST", PREDICT, {"instances": [{"seed": seed} for seed in SEEDS]}, 200, gives("predictions")),
    ("POST", PREDICT, {"inputs": SEEDS}, 200, gives("outputs")),
    ("POST", PREDICT, {"inputs": {"seed": SEEDS}}, 200, gives("outputs")),
    ("POST", PREDICT, {"inputs": SEEDS, "signature_name": ""}, 200, gives("outputs")),
    ("POST", PREDICT, {"instances": SEEDS, "signature_name": "serving_default"}, 200, gives("predictions")),
    ("POST", f"{AT_VERSION}:predict", {"inputs": SEEDS}, 200, gives("outputs")),
    ("POST", PREDICT, {"instances": SEEDS} | PNG, 200, gives("predictions", from_b64)),
    ("POST", PREDICT, {"inputs": {"seed": SEEDS}} | PNG, 200, gives("outputs", from_b64)),
    ("GET", NOBODY, None, 404, says("Could not find any versions of model nobody")),
    ("GET", f"{MODEL}/versions/999999", None, 404, says("Could not find version 999999 of model digits")),
    ("GET", f"{NOBODY}/metadata", None, 404, says("Servable not found for request: Latest(nobody)")),
    ("GET", f"{MODEL}/versions/999999/metadata", None, 404, says("Specific(digits, 999999)")),
    ("GET", f"{MODEL}/versions/{10**30}", None, 400, says("to numeric")),
    ("GET", "/v1/models", None, 400, says("Missing model name in request.")),
    ("GET", PREDICT, None, 400, says("Malformed request: GET /v1/models/digits:predict")),
    ("POST", MODEL, {"inputs": SEEDS}, 400, says("Malformed request: POST /v1/models/digits")),
    ("POST", f"{MODEL}/versions/one:predict", {"inputs": SEEDS}, 400, says("Malformed request")),
    ("POST", f"{NOBODY}:predict", {"inputs": SEEDS}, 404, says("Servable not found for request: Latest(nobody)")),
    ("POST", f"{MODEL}/versions/999999:predict", {"inputs": SEEDS}, 404, says("Specific(digits, 999999)")),
    ("POST", f"{MODEL}/labels/none:predict", {"inputs": SEEDS}, 400, says("Unrecognized servable version label: none")),
    ("POST", PREDICT, b"", 400, says("JSON Parse error: The document is empty")),
    ("POST", PREDICT, b"{", 400, says("JSON Parse error")),
    ("POST", PREDICT, b"seeds", 400, says("JSON Parse error")),
    ("POST", PREDICT, [1], 400, says("Is not object")),
    ("POST", PREDICT, {}, 400, says("Missing 'inputs' or 'instances' key")),
    ("POST", PREDICT, {"instances": [1], "inputs": [1]}, 400, says("'instances' keys to exist")),
    ("POST", PREDICT, {"instances": []}, 400, says("No values in 'instances' array")),
    ("POST", PREDICT, {"instances": 1}, 400, says("'instances' to be an list/array")),
    ("POST", PREDICT, {"instances": [1.5]}, 400, says("not of expected type: int64")),
    ("POST", PREDICT, {"instances": ["1"]}, 400, says("not of expected type: int64")),
    ("POST", PREDICT, {"instances": [True]}, 400, says("not of expected type: int64")),
    ("POST", PREDICT, {"instances": [None]}, 400, says("not of expected type: int64")),
    ("POST", PREDICT, {"instances": [2**63]}, 400, says("not of expected type: int64")),
    ("POST", PREDICT, {"instances": [1, {"seed": 1}]}, 400, says("Expecting value/list but got object at item 1")),
    ("POST", PREDICT, {"instances": [{"seed": 1}, 1]}, 400, says("Expecting object but got list at item 1")),
    ("POST", PREDICT, {"instances": [[1], [2, 3]]}, 400, says("")),
    ("POST", PREDICT, {"instances": [{"seed": 1, "sound": 1}]}, 400, says("")),
    ("POST", PREDICT, {"instances": [{}]}, 400, says("keys must be equal to: seed")),
    ("POST", PREDICT, {"inputs": {"sound": [1]}}, 400, says("Missing named input: seed in 'inputs' object.")),
    ("POST", PREDICT, {"inputs": [1, [2]]}, 400, says("")),
    ("POST", PREDICT, {"inputs": SEEDS, "signature_name": 1}, 400, says("'signature_name' key must be a string value")),
    ("POST", PREDICT, {"inputs": SEEDS, "signature_name": "none"}, 400, says('signature name: "none" not found')),
    (
        "POST",
        f"{MODEL}:classify",
        EXAMPLES,
        400,
        says("method_name to be tensorflow/serving/classify. Was: tensorflow"),
    ),
    ("POST", f"{MODEL}:regress", EXAMPLES, 400, says("method_name to be tensorflow/serving/regress. Was: tensorflow")),
    ("POST", f"{MODEL}:classify", {"inputs": [1]}, 400, says("key 'examples' is expected and was not found")),
    ("POST", f"{MODEL}:classify", {"examples": []}, 400, says("'examples' value is an empty array")),
]


def metadata(*fields, **spec):
    return get_model_metadata_pb2.GetModelMetadataRequest(model_spec=DIGITS | spec, metadata_field=fields)


def status(**spec):
    return get_model_status_pb2.GetModelStatusRequest(model_spec=DIGITS | spec)


def outputs(*names):
    request = predict_request(seed=SEEDS)
    request.output_filter.extend(names)
    return request


def multi_inference(method, **spec):
    task = inference_pb2.InferenceTask(model_spec=DIGITS | spec, method_name=method)
    return inference_pb2.MultiInferenceRequest(tasks=[task])


def typeless():
    request = predict_request(seed=SEEDS)
    request.inputs["seed"].dtype = 0
    return request


CLASSIFY = "tensorflow/serving/classify"
TWO_INPUTS = predict_request(seed=SEEDS, sound=SEEDS)
GRPC = [  # method, request, gRPC status, what the answer is
    ("Predict", predict_request(seed=SEEDS), "OK", gives_images),
    ("Predict", outputs("image"), "OK", gives_images),
    ("Predict", predict_request("png", seed=SEEDS), "OK", gives_png_files),
    ("GetModelStatus", status(), "OK", lists_the_version),
    ("GetModelMetadata", metadata("signature_def"), "OK", packs_signatures),
    ("Predict", type(TWO_INPUTS)(), "INVALID_ARGUMENT", says("Missing ModelSpec")),
    ("Predict", predict_request(name="", seed=SEEDS), "INVALID_ARGUMENT", says("ModelSpec has no name specified.")),
    ("Predict", predict_request(name="nobody", seed=SEEDS), "NOT_FOUND", says("for request: Latest(nobody)")),
    (
        "Predict",
        predict_request(version=999999, seed=SEEDS),
        "NOT_FOUND",
        says("for request: Specific(digits, 999999)"),
    ),
    (
        "Predict",
        predict_request(version_label="none", seed=[1]),
        "INVALID_ARGUMENT",
        says("servable version label: none"),
    ),
    ("Predict", predict_request("none", seed=SEEDS), "FAILED_PRECONDITION", says('signature key "none" not found')),
    ("Predict", predict_request(), "INVALID_ARGUMENT", says("Sent extra: {}. Missing but required: {seed}.")),
    ("Predict", TWO_INPUTS, "INVALID_ARGUMENT", says("2!=1 len({seed,sound}) != len({seed}). Sent extra: {sound}.")),
    ("Predict", predict_request(sound=SEEDS), "INVALID_ARGUMENT", says("")),
    ("Predict", predict_request(seed=[1.0]), "INVALID_ARGUMENT", says("")),
    ("Predict", predict_request(seed=["one"]), "INVALID_ARGUMENT", says("")),
    ("Predict", typeless(), "INVALID_ARGUMENT", says("tensor parsing error: seed")),
    ("Predict", outputs("sound"), "INVALID_ARGUMENT", says("output tensor alias not found in signature: sound")),
    ("Predict", outputs("image", "image"), "INVALID_ARGUMENT", says("duplicate output tensor alias: image")),
    ("GetModelMetadata", metadata(), "INVALID_ARGUMENT", says("must specify at least one metadata_field")),
    ("GetModelMetadata", metadata("weights"), "INVALID_ARGUMENT", says("is not supported")),
    ("GetModelMetadata", metadata("signature_def", name="nobody"), "NOT_FOUND", says("Latest(nobody)")),
    ("GetModelStatus", status(name="nobody"), "NOT_FOUND", says("Could not find any versions of model nobody")),
    ("GetModelStatus", status(version={"value": 9999}), "NOT_FOUND", says("find version 9999 of model digits")),
    ("Classify", classification_pb2.ClassificationRequest(model_spec=DIGITS), "INVALID_ARGUMENT", says(CLASSIFY)),
    ("Regress", regression_pb2.RegressionRequest(model_spec=DIGITS), "INVALID_ARGUMENT", says("serving/regress. Was")),
    ("MultiInference", multi_inference(CLASSIFY), "INVALID_ARGUMENT", says(f"to be {CLASSIFY}. Was: ")),
    ("MultiInference", multi_inference("sing"), "UNIMPLEMENTED", says("Unsupported signature method_name: sing")),
    ("HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest(), "INVALID_ARGUMENT", says("Only ModelC")),
]


@pytest.mark.parametrize("method, path, body, status, is_right", REST)
def test_rest(server, method, path, body, status, is_right):
    if server.does_predict_only and path.endswith((":classify", ":regress")):
        status, is_right = 501, says("this development server does not")
    received, text = rest(server.url, method, path.format(version=server.version), body)
    assert received == status, text
    is_right(server, json.loads(text))


ORIGIN = {"Origin": "http://page.example"}
ALLOWED = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
NOT_FOUND = b"Could not find any versions of model nobody"
HTTP = [  # method, path, body (in chunks if it is a list), request headers, HTTP status, CORS headers, part of the body
    ("POST", PREDICT, [b'{"instances"', b": [7]}"], {}, 200, ALLOWED, b"predictions"),
    ("POST", PREDICT, [b'{"instances"', b": [7.5]}"], {}, 400, ALLOWED, b"not of expected type: int64"),
    ("GET", MODEL, None, ORIGIN, 200, ALLOWED, b"AVAILABLE"),
    ("GET", NOBODY, None, ORIGIN, 404, ALLOWED, NOT_FOUND),
    ("OPTIONS", PREDICT, None, ORIGIN | {"Access-Control-Request-Method": "POST"}, 200, ALLOWED, b""),
    ("OPTIONS", MODEL, None, {}, 400, ALLOWED, b""),
    ("OPTIONS", "/elsewhere", None, ORIGIN, 404, {}, b""),
]


@pytest.mark.parametrize("method, path, body, headers, status, allowed, text", HTTP)
def test_http(server, method, path, body, headers, status, allowed, text):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=300)
    chunks = {"Transfer-Encoding": "chunked"} if isinstance(body, list) else {}
    connection.request(method, path, body, headers | chunks, encode_chunked=bool(chunks))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    received = {name: response.headers[name] for name in ALLOWED if name in response.headers}
    assert (response.status, received) == (status, allowed), content
    assert text in content and (method != "OPTIONS" or allowed == {} or content == b"")


def test_a_run_that_takes_too_long(impatient_url):
    status, text = rest(impatient_url, "POST", PREDICT, {"instances": list(range(500))})
    assert (status, json.loads(text)) == (504, {"error": "Timed out waiting for notification"})
    assert rest(impatient_url, "GET", MODEL)[0] == 200


@pytest.mark.parametrize("method, request_, code, is_right", GRPC)
def test_grpc(server, method, request_, code, is_right):
    if server.grpc is None:
        pytest.skip("TF_SERVING_GRPC is not set")
    if server.does_predict_only and method in ("Classify", "Regress", "MultiInference"):
        code, is_right = "UNIMPLEMENTED", says("not implemented")
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options) as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub = prediction if hasattr(prediction, method) else model_service_pb2_grpc.ModelServiceStub(channel)
        try:
            received, answer = "OK", getattr(stub, method)(request_, timeout=300)
        except grpc.RpcError as error:
            received, answer = error.code().name, error.details()
    assert received == code, answer
    is_right(server, answer)


def test_the_images_are_the_models(local, small_model):
    same_images(local, to_uint8(small_model.sample(SEEDS, num_steps=4)).numpy())
