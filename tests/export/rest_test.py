"""The development server from outside: REST."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from dev_server.rest_json import outputs_to_json
from tests.support.servers import call, expected_images

MODEL = "/v1/models/digits"
PREDICT = f"{MODEL}:predict"


@pytest.fixture
def port(toy_server):
    return toy_server.rest


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))


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
def test_rest_predict(port, path, body, key):
    status, reply = call(port, "POST", path, body)
    assert (status, list(reply)) == (200, [key])
    np.testing.assert_array_equal(reply[key], expected_images([0, -7]))


@pytest.mark.parametrize("layout, key", [("instances", "predictions"), ("inputs", "outputs")])
def test_rest_png(port, layout, key):
    status, reply = call(port, "POST", PREDICT, {layout: [3, 2**62], "signature_name": "png"})
    assert status == 200
    assert [list(value) for value in reply[key]] == [["b64"]] * 2
    received = [pixels(base64.b64decode(value["b64"], validate=True)) for value in reply[key]]
    np.testing.assert_array_equal(received, expected_images([3, 2**62]))


def test_rest_with_several_inputs_and_outputs(port):
    row = {"total": 3, "tenth": 0.1, "text": "1", "text_bytes": {"b64": base64.b64encode(b"2").decode()}}
    request = {"signature_name": "labelled", "instances": [{"seed": 1, "label": 2}, {"label": 2, "seed": 1}]}
    assert call(port, "POST", PREDICT, request) == (200, {"predictions": [row, row]})
    request = {"signature_name": "labelled", "inputs": {"seed": [1], "label": [2]}}
    assert call(port, "POST", PREDICT, request) == (200, {"outputs": {key: [row[key]] for key in row}})


def test_rest_images_floats_and_strings_as_inputs(port):
    image = np.arange(12).reshape(2, 2, 3, 1)
    reply = call(port, "POST", PREDICT, {"instances": image.tolist(), "signature_name": "invert"})
    assert reply == (200, {"predictions": (255 - image).tolist()})
    reply = call(port, "POST", PREDICT, {"inputs": [[0.5, 1]], "signature_name": "double"})
    assert reply == (200, {"outputs": [[1.0, 2.0]]})
    reply = call(port, "POST", PREDICT, '{"inputs": [[NaN, -Infinity]], "signature_name": "double"}')
    assert np.isnan(reply[1]["outputs"][0][0]) and reply[1]["outputs"][0][1] == -np.inf
    files = [{"b64": base64.b64encode(bytes([0, 255, 7])).decode()}, {"b64": ""}, {"b64": "AP\n8"}]
    for body in ({"instances": files}, {"instances": [{"file": file} for file in files]}):
        assert call(port, "POST", PREDICT, body | {"signature_name": "length"}) == (200, {"predictions": [3, 0, 2]})


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/10", f"{MODEL}/labels/passed_over"])
def test_rest_status(port, path):
    state = {"version": "10", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert call(port, "GET", path) == (200, {"model_version_status": [state]})


@pytest.mark.parametrize("path", [f"{MODEL}/metadata", f"{MODEL}/versions/10/metadata"])
def test_rest_metadata(port, path):
    status, reply = call(port, "GET", path)
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
    ("GET", "/v1/models", None, 400, "Missing model name"),
    ("GET", f"{MODEL}/versions/1/labels/stable", None, 400, "Malformed request"),
    ("POST", f"{MODEL}/labels/stable:predict", {"instances": [1]}, 400, "Unrecognized servable version label: stable"),
    ("GET", f"{MODEL}/labels/stable/metadata", None, 400, "Unrecognized servable version label: stable"),
    ("POST", f"{MODEL}:PREDICT", {"instances": [1]}, 400, "Malformed request"),
    ("GET", PREDICT, None, 400, "Malformed request"),
    ("GET", "/elsewhere", None, 404, "Nothing here"),
    ("PUT", MODEL, "{}", 400, "Malformed request"),
    ("DELETE", MODEL, None, 400, "Malformed request"),
    ("POST", MODEL, {"instances": [1]}, 400, "Malformed request"),
    ("POST", "/v1/models/other:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(other)"),
    ("POST", f"{MODEL}/versions/9:predict", {"instances": [1]}, 404, "Specific(digits, 9)"),
    ("POST", f"{MODEL}/versions/x:predict", {"instances": [1]}, 400, "Malformed request"),
    ("POST", f"{MODEL}:classify", {"examples": [{}]}, 501, "does not classify"),
    ("POST", f"{MODEL}:regress", {"examples": [{}]}, 501, "does not regress"),
    ("POST", PREDICT, {"instances": [0] * 1001}, 400, "1000 rows"),
    ("POST", PREDICT, {"instances": [1e40, 1], "signature_name": "double"}, 400, "without loss of precision"),
    ("POST", PREDICT, {"instances": ["x"], "signature_name": "invert"}, 400, "not of expected type: uint8"),
    (
        "POST",
        PREDICT,
        {"instances": [[[[256]], [[0]]]], "signature_name": "invert"},
        400,
        "not of expected type: uint8",
    ),
    ("POST", PREDICT, {"instances": [{"b64": "?"}], "signature_name": "length"}, 400, "Unable to base64 decode"),
    ("POST", PREDICT, {"instances": ["\ud800"], "signature_name": "length"}, 400, "surrogates"),
    ("POST", PREDICT, {"instances": [1], "signature_name": None}, 400, "must be a string"),
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
    ("POST", PREDICT, {"instances": []}, 400, "No values in"),
    ("POST", PREDICT, {"instances": 1}, 400, "to be an list/array"),
    ("POST", PREDICT, {"instances": [1.0]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": ["1"]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [True]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [None]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [2**63]}, 400, "not of expected type: int64"),
    ("POST", PREDICT, {"instances": [1, {"seed": 1}]}, 400, "Expecting value/list but got object at item 1"),
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
def test_a_bad_rest_request_gets_its_status_and_a_message(port, method, path, body, status, message):
    received, reply = call(port, method, path, body)
    assert received == status, reply
    assert list(reply) == ["error"]
    assert message in reply["error"]
    assert not any(word in reply["error"] for word in ("Traceback", 'File "', "\n")), reply


@pytest.mark.parametrize("shapes", [[()], [(), ()], [(2,), ()], [(2,), (3,)]])
def test_rows_are_of_outputs_that_have_as_many(shapes):
    outputs = {f"output_{i}": np.zeros(shape, "float32") for i, shape in enumerate(shapes)}
    with pytest.raises(ValueError, match=r"outputs \['output_0'.* have no common batch size"):
        outputs_to_json("instances", outputs)
    assert list(outputs_to_json("inputs", outputs)) == ["outputs"]
