"""The export: the same images by every way there is, and nothing in it that TF Serving would not run."""

import base64
import fcntl
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

import tf_blurdiff as bd
from tests.support import commands, models
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError
from tf_blurdiff.serving.assets import write_warmup
from tf_blurdiff.serving.verification import verify

SEEDS = [11, -4, 2**62]


def assert_same_images(actual, expected):
    np.testing.assert_allclose(np.asarray(actual, np.int64), np.asarray(expected, np.int64), atol=1)


@pytest.fixture(scope="module")
def expected(trained_model):
    images = to_uint8(trained_model.sample(SEEDS)).numpy()
    assert len({image.tobytes() for image in images}) == len(SEEDS)
    return images


def test_the_cpp_runtime_gives_the_known_images(exported):
    assert verify(exported) <= 1


@pytest.mark.parametrize("signature", ["png", "serving_default"])
def test_verify_notices_other_images_of_any_signature(exported, tmp_path, signature):
    broken = tmp_path / "1"
    shutil.copytree(exported, broken)
    path = broken / "assets.extra" / "known" / f"{signature}.npz"
    known = dict(np.load(path))
    known["image"][2, 3, 3, 0] ^= 16
    np.savez(path, **known)
    with pytest.raises(UserError, match=r"gives other images .* 16 grey levels"):
        verify(broken)


def test_verify_notices_weights_that_are_cut_off(exported, tmp_path):
    broken = tmp_path / "1"
    shutil.copytree(exported, broken)
    (data,) = (broken / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(UserError, match=r"/1 does not run in TensorFlow's C\+\+ runtime: "):
        verify(broken)


def test_verify_notices_a_damaged_graph(exported, tmp_path):
    broken = tmp_path / "1"
    shutil.copytree(exported, broken)
    (broken / "saved_model.pb").write_bytes(b"\x00broken")
    with pytest.raises(UserError, match=r"saved_model\.pb cannot be read"):
        verify(broken)


def test_verify_notices_a_damaged_warm_up_file(exported, tmp_path):
    broken = tmp_path / "1"
    shutil.copytree(exported, broken)
    path = broken / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="tf_serving_warmup_requests cannot be read"):
        verify(broken)


def test_verify_notices_a_request_that_the_model_does_not_answer(exported, tmp_path):
    broken = tmp_path / "1"
    shutil.copytree(exported, broken)
    path = broken / "assets.extra" / "tf_serving_warmup_requests"
    write_warmup(path, {"png": {"sead": np.array([1])}})
    with pytest.raises(UserError, match="has no signature 'png' of sead"):
        verify(broken)


def test_old_versions_go_if_that_is_asked_for(trained_model, tmp_path):
    for version in (3, 5, 12):
        (tmp_path / str(version)).mkdir()
    (tmp_path / "notes").mkdir()
    assert bd.export_savedmodel(trained_model, tmp_path, num_steps=1, keep=2).name == "13"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["12", "13", "notes"]
    with pytest.raises(UserError, match=r"keep must be None for version 2: .* newer ones, \[12, 13\]. Received: 1"):
        bd.export_savedmodel(trained_model, tmp_path, version=2, num_steps=1, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["12", "13", "notes"]
    with pytest.raises(UserError, match="keep must be an integer of 1 or more"):
        bd.export_savedmodel(trained_model, tmp_path, num_steps=1, keep=0)


def test_a_batch_in_any_order_gives_the_same_images(exported, expected):
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    order = [2, 0, 1, 0]
    images = signature(seed=tf.constant(np.array(SEEDS)[order]))["image"]
    assert images.dtype == tf.uint8
    assert_same_images(images, expected[order])


def test_the_server_gives_the_same_images_by_rest_and_grpc(exported, expected, tmp_path):
    ports = [free_port(), free_port()]
    server = subprocess.Popen(
        [sys.executable, str(commands.ROOT / "export" / "local_server.py"), "--model_name=digits"]
        + [f"--model_base_path={exported.parent}", f"--port={ports[0]}", f"--rest_api_port={ports[1]}"],
        cwd=tmp_path,
    )
    try:
        url = f"http://localhost:{ports[1]}/v1/models/digits"
        wait_for(url, server)
        body = {"inputs": {"seed": SEEDS}}
        assert_same_images(requests.post(f"{url}:predict", json=body, timeout=60).json()["outputs"], expected)
        body = {"signature_name": "png", "instances": [{"seed": seed} for seed in SEEDS]}
        rows = requests.post(f"{url}:predict", json=body, timeout=60).json()["predictions"]
        assert_same_images([from_png(base64.b64decode(row["b64"])) for row in rows], expected)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "digits"
        request.inputs["seed"].CopyFrom(tf.make_tensor_proto(np.array(SEEDS)))
        with grpc.insecure_channel(f"localhost:{ports[0]}") as channel:
            reply = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
        assert_same_images(tf.make_ndarray(reply.outputs["image"]), expected)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def wait_for(url, server):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    raise AssertionError(f"the server is not there: {server.poll()}")


def from_png(data):
    return np.asarray(Image.open(io.BytesIO(data)))[..., None]


def operations(export_dir):
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((export_dir / "saved_model.pb").read_bytes())
    graph = saved_model.meta_graphs[0].graph_def
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)], graph


USUAL = ("blurring", "preconditioned", "ancestral2")


@pytest.mark.parametrize(
    "process, prediction, sampler",
    [pytest.param(*each, marks=[] if each == USUAL else pytest.mark.slow) for each in models.SAMPLED],
)
def test_all_that_is_allowed_is_exported(tmp_path, process, prediction, sampler):
    check_export_of(tmp_path, process, prediction, sampler)


def check_export_of(folder, process, prediction, sampler):
    model = models.randomized(models.make(process=process, prediction=prediction))
    # A random network makes images more alike in every step that starts from its own answer alone: of x0, one.
    num_steps = {"less_blurred": model.process.num_levels, "x0": 1}.get(prediction, 3)
    expected = model.sample(SEEDS, num_steps=num_steps, sampler=sampler)
    assert np.isfinite(expected).all() and np.abs(expected[0] - expected[1]).max() > 1e-3
    export_dir = bd.export_savedmodel(model, folder, num_steps=num_steps, sampler=sampler)
    loaded = tf.saved_model.load(str(export_dir))
    np.testing.assert_allclose(loaded.sample(tf.constant(SEEDS)), expected, atol=1e-4)
    image = loaded.signatures["serving_default"](seed=tf.constant(SEEDS))["image"]
    assert_same_images(image, to_uint8(expected))


def test_an_export_is_refused_that_would_need_the_data(tmp_path):
    with pytest.raises(UserError, match="call adapt with the training images"):
        bd.export_savedmodel(models.make(process="cold"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sampler", ["ancestral2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ddim", "multistep3"))]
)
def test_the_graph_holds_nothing_that_a_server_cannot_repeat(trained_model, tmp_path, sampler):
    nodes, graph = operations(bd.export_savedmodel(trained_model, tmp_path, sampler=sampler))
    names = {node.op for node in nodes}
    assert {"While", "StatelessWhile"} & names
    # A seed's numbers are integer operations; nothing is drawn by a generator that another runtime may lack or change.
    assert "BitwiseXor" in names and not [name for name in names if "Random" in name or "Rng" in name]
    assert not names & {"PyFunc", "EagerPyFunc", "PyFuncStateless", "XlaLaunch", "Multinomial"}
    compiled = [f.signature.name for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    assert not compiled and not any(node.attr["_XlaMustCompile"].b for node in nodes)


def test_only_what_sampling_needs_is_exported(trained_model, exported):
    saved = tf.train.list_variables(str(exported / "variables" / "variables"))
    size = sum(np.prod(shape, dtype=int) for name, shape in saved if not name.startswith("_CHECKPOINTABLE"))
    own = 2 * np.prod(trained_model.image_shape)
    assert size <= trained_model.network.count_params() + own + 16


def test_the_warm_up_file_holds_requests_for_both_signatures(exported):
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    logs = [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    signatures = tf.saved_model.load(str(exported)).signatures
    requested = [log.predict_log.request for log in logs]
    assert {request.model_spec.signature_name for request in requested} == {"serving_default", "png"}
    for request in requested:
        inputs = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
        assert signatures[request.model_spec.signature_name](**inputs)


def test_versions_count_up_and_are_never_overwritten(trained_model, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    assert bd.export_savedmodel(trained_model, tmp_path, num_steps=1).name == "8"
    with pytest.raises(ValueError, match=rf"version must be an integer of 1 or more, below 2\^63. Received: {2**63}"):
        bd.export_savedmodel(trained_model, tmp_path, version=2**63)
    with pytest.raises(ValueError, match=r"version 8 is in .* already; taken: \[7, 8\]"):
        bd.export_savedmodel(trained_model, tmp_path, version=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8", "notes"]
    with pytest.raises(UserError, match=r"expected the folder above. Received: .*8, a version"):
        bd.export_savedmodel(trained_model, tmp_path / "8", num_steps=1)
    assert "1" not in [path.name for path in (tmp_path / "8").iterdir()]


def test_the_number_of_a_version_that_was_taken_out_is_not_used_again(trained_model, tmp_path):
    """README of export/: `mv 8 .8` is the way back."""
    for name in ("7", ".8", ".9.partial"):
        (tmp_path / name).mkdir()
    assert bd.export_savedmodel(trained_model, tmp_path, num_steps=1).name == "9"


def test_an_export_may_go_to_the_home_folder(trained_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "served" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match=f"version 3 is in {tmp_path}/served already"):
        bd.export_savedmodel(trained_model, "~/served", version=3)


def test_a_second_export_into_the_folder_waits_for_the_first(trained_model, tmp_path):
    first, names = os.open(tmp_path, os.O_RDONLY), []
    fcntl.flock(first, fcntl.LOCK_EX)
    export = lambda: names.append(bd.export_savedmodel(trained_model, tmp_path, num_steps=1).name)
    (second := threading.Thread(target=export)).start()
    second.join(2.0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "1").mkdir()
    os.close(first)
    second.join(120)
    assert names == ["2"]


def test_a_failed_export_leaves_nothing(trained_model, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "a library's words")

    monkeypatch.setattr("tf_blurdiff.serving.assets.write_warmup", fail)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        bd.export_savedmodel(trained_model, tmp_path, num_steps=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_conditional_model_is_exported_with_labels(tmp_path):
    model = models.randomized(models.make(models.small_network(num_classes=10), "gaussian", prediction="v"))
    export_dir = bd.export_savedmodel(model, tmp_path, num_steps=3)
    assert verify(export_dir) <= 1
    signature = tf.saved_model.load(str(export_dir)).signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"seed", "label"}
    seeds, labels = np.array([5, 5, 6]), np.array([0, 9, 9])
    images = signature(seed=tf.constant(seeds), label=tf.constant(labels))["image"]
    assert_same_images(images, to_uint8(model.sample(seeds, num_steps=3, labels=labels)))
    assert not np.array_equal(images[0], images[1])


@pytest.mark.slow
def test_a_model_with_label_dropout_is_exported_with_guidance(tmp_path):
    network = models.small_network(num_classes=3)
    model = models.randomized(models.make(network, "cold", prediction="x0", label_dropout=0.1))
    export_dir = bd.export_savedmodel(model, tmp_path, num_steps=3)
    assert verify(export_dir) <= 1
    loaded = tf.saved_model.load(str(export_dir))
    seeds, labels, scales = np.array([5, 5, 5, 6]), np.array([0, 1, 1, 3]), np.array([1.0, 1.0, 2.5, 1.0], "float32")
    served = loaded.sample(tf.constant(seeds), tf.constant(labels), tf.constant(scales))
    expected = model.sample(seeds[:3], num_steps=3, labels=labels[:3], guidance_scale=scales[:3])
    np.testing.assert_allclose(served[:3], expected, atol=1e-4)
    # The label num_classes is none.
    np.testing.assert_allclose(served[3:], model.sample(seeds[3:], num_steps=3), atol=1e-4)
    assert np.abs(expected[1] - expected[2]).max() > 1e-4


@pytest.mark.slow
def test_an_export_keeps_eta(trained_model, tmp_path):
    assert verify(bd.export_savedmodel(trained_model, tmp_path, num_steps=4, sampler="ddim", eta=1.0)) <= 1
