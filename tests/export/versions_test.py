"""Several models and versions in one running server: configuration file, labels, rolling, warm-up, figures."""

import re
import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.servers import call, figures, predict_request, running_server, wait_until

CONFIG = """
config {{ name: "digits" base_path: "{base}/digits" model_platform: "tensorflow"
         model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
         version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "next" value: 2 }} }}
config {{ name: "other" base_path: "{base}/other" model_platform: "tensorflow" }}
"""


class Versioned(tf.Module):
    """Says which version it is: seed -> version + 1000 * seed."""

    def __init__(self, version):
        super().__init__()
        self.version = tf.Variable(version, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="seed")])
    def __call__(self, seed):
        return {"y": self.version + 1000 * seed}


def write_version(base, version, warmup_input="seed"):
    """Writes a version as an export does: beside its place, then renamed. It is warmed up with one request."""
    module, folder = Versioned(version), base / f"{version}.tmp"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    request = predict_pb2.PredictRequest(inputs={warmup_input: tf.make_tensor_proto([1], tf.int64)})
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    folder.rename(base / str(version))


def ask(server, path, seed=0):
    """The version that answered, or the error."""
    status, reply = call(server.rest, "POST", f"/v1/models/{path}:predict", {"instances": [seed]})
    return reply["predictions"][0] - 1000 * seed if status == 200 else (status, reply["error"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    for version in (1, 2, 3):
        write_version(base / "digits", version)
    write_version(base / "other", 7)
    (base / "models.config").write_text("model_config_list {" + CONFIG.format(base=base) + "}")
    (base / "monitoring.config").write_text('prometheus_config { enable: true path: "/figures" }')
    return base


@pytest.fixture(scope="module")
def server(base):
    flags = [f"--model_config_file={base}/models.config", f"--monitoring_config_file={base}/monitoring.config"]
    flags += ["--allow_version_labels_for_unavailable_models", "--file_system_poll_wait_seconds=0.2"]
    with running_server(*flags, "--model_config_file_poll_wait_seconds=0.2", quiet=False) as server:
        assert "digits version 2 and 1, other version 7," in server.ready
        yield server


def test_versions_and_labels_by_rest(server):
    assert [ask(server, f"digits{which}") for which in ("", "/versions/1", "/versions/2")] == [2, 1, 2]
    assert ask(server, "other", seed=5) == 7
    assert [ask(server, f"digits/labels/{label}") for label in ("stable", "next")] == [1, 2]
    assert ask(server, "digits/versions/3") == (404, "Servable not found for request: Specific(digits, 3)")
    assert ask(server, "other/labels/stable") == (400, "Unrecognized servable version label: stable")
    metadata = call(server.rest, "GET", "/v1/models/digits/labels/stable/metadata")[1]
    assert metadata["model_spec"]["version"] == "1"
    assert server.states() == {1: "AVAILABLE", 2: "AVAILABLE"} and server.states("other") == {7: "AVAILABLE"}


def test_versions_and_labels_by_grpc(server):
    with server.channel() as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        for spec, version in [({}, 2), ({"version": 1}, 1), ({"version_label": "stable"}, 1)]:
            reply = predict(predict_request(seed=np.array([0]), **spec))
            assert (list(reply.outputs["y"].int64_val), reply.model_spec.version.value) == ([version], version)
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "digits", "version": {"value": 1}})
        status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request).model_version_status
        assert [(entry.version, entry.state) for entry in status] == [(1, status[0].AVAILABLE)]


def test_figures_count_what_was_asked(server):
    names = ("request_count", "request_latency_count")
    count, latency = (f':tensorflow:serving:{name}{{model_name="other"' for name in names)
    keys = [f'{count},status="{status}"}}' for status in ("OK", "INVALID_ARGUMENT")]
    keys += [f'{latency},API="{api}",entrypoint="{side}"}}' for api, side in (("predict", "REST"), ("Predict", "GRPC"))]
    before = figures(server, "/figures")
    assert ask(server, "other") == 7
    assert ask(server, "other", seed=1.5)[0] == 400
    assert ask(server, "nobody")[0] == 404
    with server.channel() as channel:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
            predict_request(name="other", seed=np.array([0]))
        )
    after = figures(server, "/figures")
    assert [int(after[key]) - int(before.get(key, 0)) for key in keys] == [2, 1, 1, 1]
    assert not any("nobody" in key for key in after)
    assert call(server.rest, "GET", "/monitoring/prometheus/metrics")[0] == 404


def test_new_versions_are_taken_up_and_one_that_fails_is_reported(base, server):
    write_version(base / "other", 8)
    wait_until(lambda: ask(server, "other") == 8)
    wait_until(lambda: server.states("other") == {8: "AVAILABLE", 7: "END"})
    write_version(base / "other", 9, warmup_input="sead")
    wait_until(lambda: server.states("other").get(9) == "END")
    entry = call(server.rest, "GET", "/v1/models/other/versions/9")[1]["model_version_status"][0]
    assert entry["status"]["error_code"] == "INVALID_ARGUMENT" and "sead" in entry["status"]["error_message"]
    (base / "other" / "10").mkdir()
    wait_until(lambda: server.states("other").get(10) == "END")
    entry = call(server.rest, "GET", "/v1/models/other/versions/10")[1]["model_version_status"][0]
    assert entry["status"]["error_code"] == "NOT_FOUND" and "saved_model.pb" in entry["status"]["error_message"]
    assert ask(server, "other") == 8
    shutil.copytree(base / "other" / "8", base / "other" / "10", dirs_exist_ok=True)
    wait_until(lambda: server.states("other")[10] == "AVAILABLE")


def test_the_configuration_is_read_again_and_a_mistake_in_it_changes_nothing(base, server):
    path = base / "models.config"
    text = path.read_text()
    path.write_text("model_config_list { config { ")
    newer = re.sub("versions: 1 versions: 2", "versions: 2 versions: 3", text)
    path.write_text(newer.replace('"stable" value: 1', '"stable" value: 2'))
    wait_until(lambda: server.states().get(3) == "AVAILABLE" and ask(server, "digits/labels/stable") == 2)
    wait_until(lambda: server.states()[1] == "END")
    path.write_text(text.replace('"next" value: 2', '"next" value: 99'))
    with server.channel() as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        request = model_management_pb2.ReloadConfigRequest()
        unknown = (
            CONFIG.format(base=base).replace('"next" value: 2', '"next" value: 99').replace("value: 1", "value: 2")
        )
        text_format.Parse(unknown, request.config.model_config_list)
        with pytest.raises(grpc.RpcError) as failure:
            reload(request)
        assert failure.value.code().name == "FAILED_PRECONDITION" and "version 99" in failure.value.details()
        assert ask(server, "digits/labels/next") == 2
        del request.config.model_config_list.config[0]
        assert reload(request).status.error_code == 0
        request.config.model_config_list.config.add(name="new", base_path="/nowhere", model_platform="tensorflow")
        with pytest.raises(grpc.RpcError) as failure:
            reload(request)
        assert failure.value.code().name == "UNKNOWN"
        assert failure.value.details() == "1 servable(s) did not become available: new"
    wait_until(lambda: ask(server, "digits")[0] == 404)
