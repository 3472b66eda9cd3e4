"""Starting the development server as a process and asking it, for tests."""

import asyncio
import contextlib
import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from dev_server.config import ModelConfig, RestOptions, ServerConfig
from dev_server.server import running
from tests.support.programs import ENVIRONMENT, EXPORT

HEIGHT, WIDTH, CHANNELS = 48, 64, 3
SEED = tf.TensorSpec([None], tf.int64, name="seed")
LABEL = tf.TensorSpec([None], tf.int64, name="label")


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

    @tf.function(input_signature=[tf.TensorSpec([None, 2, None, 1], tf.uint8, name="image")])
    def invert(self, image):
        return {"image": 255 - image}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="point")])
    def double(self, point):
        return {"y": 2.0 * point}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="file")])
    def length(self, file):
        return {"length": tf.strings.length(file)}

    @tf.function(input_signature=[SEED])
    def mean(self, seed):
        return {"mean": tf.reduce_mean(seed)}

    @tf.function(input_signature=[SEED])
    def count(self, seed):
        """Counts to the highest seed, step by step: 20,000 take a tenth of a second or more."""
        last = tf.reduce_max(seed)
        counted = tf.while_loop(lambda n: n < last, lambda n: [n + 1], [tf.constant(0, tf.int64)])[0]
        return {"count": tf.fill(tf.shape(seed), counted)}

    def save(self, folder):
        """Writes a SavedModel with all of these as signatures."""
        names = ("png", "labelled", "half", "invert", "double", "length", "mean", "count")
        signatures = {"serving_default": self.image} | {name: getattr(self, name) for name in names}
        tf.saved_model.save(self, str(folder), signatures=signatures)


def expected_images(seeds):
    return Toy().image(tf.constant(list(seeds), tf.int64))["image"].numpy()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """A development server that runs: its ports and, if it has one of its own, its process and what that says."""

    def __init__(self, rest, grpc_port, process=None, ready="", stop=None):
        self.process, self.rest, self.grpc, self.ready, self.stop = process, rest, grpc_port, ready, stop

    def channel(self):
        return grpc.insecure_channel(
            f"127.0.0.1:{self.grpc}", [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
        )

    def states(self, model="digits"):
        """The versions' states, as a dictionary."""
        reply = call(self.rest, "GET", f"/v1/models/{model}")[1]
        return {int(entry["version"]): entry["state"] for entry in reply["model_version_status"]}

    def resident_megabytes(self):
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def running_server(*flags, quiet=True):
    """Starts a server, and stops it: it must end with status 0, having said nothing more on stderr if it is quiet."""
    rest, grpc_port = free_ports(2)
    command = [sys.executable, str(EXPORT / "local_server.py"), f"--port={grpc_port}", f"--rest_api_port={rest}"]
    process = subprocess.Popen(
        [*command, *map(str, flags)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        ready = process.stdout.readline()
        assert ready.startswith("ready: "), process.communicate()
        yield Server(rest, grpc_port, process, ready)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, ""), errors
        assert "Traceback" not in errors, errors
        assert not (quiet and errors), errors
    finally:
        process.kill()
        process.wait()


@functools.cache
def event_loop():
    """The loop of all servers of this process, which runs in a thread: grpc.aio wants one loop only."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


@contextlib.contextmanager
def server_in_this_process(base_path, batching=None, ports=None, **rest_options):
    """As `running_server`, without the seconds of TensorFlow's import: serves the newest version as `digits`."""
    ports = ports or dict(zip(("rest", "grpc"), free_ports(2)))
    config = ServerConfig(
        models=[ModelConfig("digits", Path(base_path))],
        grpc_port=ports["grpc"],
        rest_port=ports["rest"],
        rest=RestOptions(**rest_options),
        batching=batching,
        labels_may_wait=False,
        file_system_poll_seconds=0.2,
        model_config_file=None,
        model_config_poll_seconds=0,
    )
    context = running(config)
    in_loop(context.__aenter__())
    stop = functools.cache(lambda: in_loop(context.__aexit__(None, None, None)))
    try:
        yield Server(ports["rest"], ports["grpc"], stop=stop)
    finally:
        stop()


def in_loop(coroutine):
    """What a coroutine gives in the loop of the servers."""
    return asyncio.run_coroutine_threadsafe(coroutine, event_loop()).result(120)


def call(port, method, path, body=None):
    """One REST request -> (status, the reply's JSON). A body that is no string is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body if body is None or isinstance(body, str | bytes) else json.dumps(body))
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def figures(server, path="/monitoring/prometheus/metrics"):
    """The page for Prometheus: the samples' names with their labels -> values, as text."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.rest}{path}", timeout=60) as reply:
        assert reply.headers["Content-Type"] == "text/plain"
        lines = reply.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def predict_request(signature="", name="digits", version=None, version_label=None, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    if version_label is not None:
        request.model_spec.version_label = version_label
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def wait_until(true, seconds=60):
    """Waits for something that another thread or process will do."""
    end = time.monotonic() + seconds
    while not (result := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return result
