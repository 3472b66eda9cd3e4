"""The development server from outside: gRPC."""

import io

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
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.support.servers import expected_images, predict_request


@pytest.fixture(scope="module")
def channel(toy_server):
    with toy_server.channel() as channel:
        yield channel


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))


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


def many_tensors():
    """A few bytes, which a row of values for each shape would make a gigabyte."""
    request = predict_request(seed=np.array([1]))
    for number in range(8):
        proto = request.inputs[f"extra_{number}"]
        proto.dtype = tf.float64.as_datatype_enum
        proto.tensor_shape.dim.add(size=2**22)
        proto.double_val.append(1.0)
    return request


def unknown_output():
    request = predict_request(seed=np.array([1]))
    request.output_filter.append("sound")
    return request


DIGITS = {"name": "digits"}


@pytest.mark.parametrize(
    "request_, code, message",
    [
        (predict_request(name="other", seed=np.array([1])), "NOT_FOUND", "Latest(other)"),
        (predict_request(version=9, seed=np.array([1])), "NOT_FOUND", "Specific(digits, 9)"),
        (predict_request("jpeg", seed=np.array([1])), "FAILED_PRECONDITION", "jpeg"),
        (predict_request(), "INVALID_ARGUMENT", "Missing but required: {seed}."),
        (predict_request(seed=np.array([1]), label=np.array([1])), "INVALID_ARGUMENT", "Sent extra: {label}."),
        (predict_request(seed=np.array([1.0])), "INVALID_ARGUMENT", "must be int64"),
        (predict_request(seed=np.array(["1"])), "INVALID_ARGUMENT", "must be int64"),
        (predict_request(seed=np.array([[1]])), "INVALID_ARGUMENT", "must have shape"),
        (predict_request(seed=np.array([-500])), "INVALID_ARGUMENT", "seed too small"),
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (huge_tensor(), "INVALID_ARGUMENT", "1099511627776"),
        (many_tensors(), "INVALID_ARGUMENT", "cannot use tensors of 33554433 elements"),
        (cut_off_tensor(), "INVALID_ARGUMENT", "tensor parsing error: seed"),
        (unknown_output(), "INVALID_ARGUMENT", "sound"),
        (get_model_metadata_pb2.GetModelMetadataRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "digits"}), "INVALID_ARGUMENT", "metadata"),
        (get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "other"}), "NOT_FOUND", "other"),
        (
            predict_request(version_label="stable", seed=[1]),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: stable",
        ),
        (predict_request(name="", seed=[1]), "INVALID_ARGUMENT", "no name"),
        (predict_request(seed=np.zeros(1001, int)), "INVALID_ARGUMENT", "1000 rows"),
        (predict_request("x" * 100_000, seed=[1]), "FAILED_PRECONDITION", "xxx"),
        (classification_pb2.ClassificationRequest(model_spec=DIGITS), "UNIMPLEMENTED", "not implemented"),
        (regression_pb2.RegressionRequest(model_spec=DIGITS), "UNIMPLEMENTED", "not implemented"),
        (inference_pb2.MultiInferenceRequest(), "UNIMPLEMENTED", "not implemented"),
        (model_management_pb2.ReloadConfigRequest(), "INVALID_ARGUMENT", "Only ModelConfigList"),
    ],
)
def test_a_bad_grpc_request_gets_its_code_and_a_message(channel, request_, code, message):
    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    methods = {
        "PredictRequest": prediction.Predict,
        "GetModelMetadataRequest": prediction.GetModelMetadata,
        "ClassificationRequest": prediction.Classify,
        "RegressionRequest": prediction.Regress,
        "MultiInferenceRequest": prediction.MultiInference,
        "GetModelStatusRequest": models.GetModelStatus,
        "ReloadConfigRequest": models.HandleReloadConfigRequest,
    }
    with pytest.raises(grpc.RpcError) as failure:
        methods[type(request_).__name__](request_)
    assert failure.value.code().name == code, failure.value.details()
    assert message in failure.value.details()
    assert "Traceback" not in failure.value.details() and "Exception calling" not in failure.value.details()
