"""Many clients at once: every image is its seed's, none is lost, and nobody notices that versions roll."""

import base64
import contextlib
import http.client
import io
import json
import shutil
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc

from dev_server.config import read_batching
from tests.support.servers import figures, predict_request, running_server, server_in_this_process, wait_until
from tf_blurdiff.data.pixels import to_uint8

CLIENTS = 32
POOL = [0, 1, -1, 2**62, -(2**62), *range(1000, 1059)]  # the seeds that are asked for
BATCHING = """
max_batch_size { value: 16 } batch_timeout_micros { value: 5000 } max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 } allowed_batch_sizes: [1, 2, 4, 8, 16]
"""


@pytest.fixture(scope="module")
def expected(small_model):
    return to_uint8(small_model.sample(POOL, num_steps=4)).numpy()


@contextlib.contextmanager
def serving(base, tmp_path, batching):
    """A server of the exports below a folder, in a process of its own, with figures."""
    (tmp_path / "batching.config").write_text(BATCHING)
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    flags = [f"--model_base_path={base}", "--model_name=digits"]
    flags += [f"--monitoring_config_file={tmp_path}/monitoring.config"]
    if batching:
        flags += ["--enable_batching", f"--batching_parameters_file={tmp_path}/batching.config"]
    with running_server(*flags) as server:
        yield server


def serving_in_this_process(base, tmp_path):
    (tmp_path / "batching.config").write_text(BATCHING)
    batching = read_batching(tmp_path / "batching.config")
    return server_in_this_process(base, batching, monitoring_path="/monitoring/prometheus/metrics")


def figure(server, name):
    start = f":tensorflow:serving:{name}{{"
    return sum(float(value) for key, value in figures(server).items() if key.startswith(start))


def png_by_rest(connection, seeds):
    body = {"signature_name": "png", "instances": [{"seed": seed} for seed in seeds]}
    connection.request("POST", "/v1/models/digits:predict", json.dumps(body))
    reply = connection.getresponse()
    document = json.loads(reply.read())
    assert reply.status == 200, document
    images = [Image.open(io.BytesIO(base64.b64decode(row["b64"]))) for row in document["predictions"]]
    return np.stack([np.asarray(image)[..., None] for image in images])


class Client(threading.Thread):
    """Asks for random seeds in random numbers, in turn by gRPC and by REST, until it is told to stop."""

    def __init__(self, server, expected, number, more):
        super().__init__(daemon=True)
        self._server, self._expected, self._more = server, expected, more
        self._rng = np.random.default_rng(number)
        self.seconds, self.images, self.failures, self.versions = [], 0, [], set()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._server.rest, timeout=300)
        with self._server.channel() as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            while self._more():
                try:
                    self._ask(predict, connection)
                except Exception as error:
                    self.failures.append(repr(error))
        connection.close()

    def _ask(self, predict, connection):
        rows = self._rng.integers(len(POOL), size=self._rng.integers(1, 9))
        seeds = [POOL[row] for row in rows]
        started = time.perf_counter()
        if self._rng.random() < 0.5:
            images = png_by_rest(connection, seeds)
        else:
            reply = predict(predict_request(seed=np.array(seeds)), timeout=300)
            images = tf.make_ndarray(reply.outputs["image"])
            self.versions.add(reply.model_spec.version.value)
        self.seconds.append(time.perf_counter() - started)
        np.testing.assert_allclose(images.astype(int), self._expected[rows].astype(int), atol=1)
        self.images += len(seeds)


def run_clients(server, expected, requests):
    """Divides a number of requests among the clients -> (clients, seconds)."""
    left = iter(range(requests))
    started = time.perf_counter()
    clients = [Client(server, expected, k, lambda: next(left, None) is not None) for k in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    failures = [failure for client in clients for failure in client.failures]
    assert not failures, failures[:3]
    assert sum(len(client.seconds) for client in clients) == requests
    return clients, time.perf_counter() - started


def test_the_pools_images_differ(expected):
    assert len({image.tobytes() for image in expected}) == len(POOL)


def test_clients_that_share_batches_get_their_own_images(small_export, expected, tmp_path):
    with serving_in_this_process(small_export.parent, tmp_path) as server:
        clients, _ = run_clients(server, expected, requests=300)
        assert figure(server, "request_count") == 300
        assert figure(server, "batching_session:input_batch_size_sum") == sum(client.images for client in clients)
        runs = figure(server, "batching_session:wrapped_run_count")
        assert runs < 300 and figure(server, "runtime_latency_count") == runs + warmed_up(small_export)


def warmed_up(exported):
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    return sum(1 for _ in tf.data.TFRecordDataset(str(path)))


def add_version(base, small_export, version):
    shutil.copytree(small_export, base / f"{version}.tmp")
    (base / f"{version}.tmp").rename(base / str(version))


@pytest.mark.slow
def test_no_request_fails_while_versions_roll(small_export, expected, tmp_path):
    base = tmp_path / "digits"
    add_version(base, small_export, 1)
    stop = threading.Event()
    with serving_in_this_process(base, tmp_path) as server:
        clients = [Client(server, expected, number, lambda: not stop.is_set()) for number in range(4)]
        for client in clients:
            client.start()
        for version in (2, 3):
            add_version(base, small_export, version)
            states = {version: "AVAILABLE", version - 1: "END"}
            wait_until(lambda states=states: states.items() <= server.states().items(), seconds=120)
            shutil.rmtree(base / str(version - 1))
        wait_until(lambda: all(3 in client.versions for client in clients), seconds=120)
        stop.set()
        for client in clients:
            client.join()
    assert not [client.failures for client in clients if client.failures]
    assert set.union(*[client.versions for client in clients]) == {1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize("batching", [True, False])
def test_throughput_and_latency(exported, trained_model, tmp_path, batching, capsys):
    requests, expected = 2000, to_uint8(trained_model.sample(POOL)).numpy()
    with serving(exported.parent, tmp_path, batching=batching) as server:
        run_clients(server, expected, requests=64)
        clients, seconds = run_clients(server, expected, requests)
        runs = figure(server, "batching_session:wrapped_run_count")
    milliseconds = 1000 * np.array([value for client in clients for value in client.seconds])
    images = sum(client.images for client in clients)
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    with capsys.disabled():
        print(f"\n{CLIENTS} clients, {requests} requests, batching {'on' if batching else 'off'}: ", end="")
        print(f"{images / seconds:.0f} images/s, {requests / seconds:.0f} requests/s, {int(runs)} batches; ", end="")
        print(f"latency p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms")
