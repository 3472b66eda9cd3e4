"""What no honest client sends: every request gets a clean answer, and the server goes on as if nothing had been."""

import copy
import http.client
import json
import socket
import string

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.support.servers import Toy, call, expected_images, predict_request, running_server

PREDICT = "/v1/models/digits:predict"
BATCHING = "max_batch_size { value: 16 } max_enqueued_batches { value: 1000 }"
HTTP_ANSWERS = {200, 400, 404, 411, 413, 414, 431, 501, 503, 505}
GRPC_ANSWERS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNAVAILABLE"}
BODIES = [
    {"instances": [1, 2]},
    {"instances": [{"seed": 1}, {"seed": -3}], "signature_name": "png"},
    {"inputs": {"seed": [5, 6], "label": [7, 8]}, "signature_name": "labelled"},
    {"inputs": [[[[1], [2]], [[3], [4]]]], "signature_name": "invert"},
    {"instances": [[0.5, 1.5]], "signature_name": "double"},
    {"instances": [{"b64": "AAEC"}], "signature_name": "length"},
]
JUNK = [
    None, True, "", "seed", "\ud800", "\x00", -1, 0.1, 2**63, -(2**63), 10**400, 1e308, float("nan"), float("-inf"),
    [], {}, [[]], [None], {"b64": "?"}, {"b64": 1}, {"seed": 1}, [[1], [2, 3]], [1] * 17, "x" * 5000,
]  # fmt: skip
MESSAGES = [
    predict_request(seed=np.array([1, 2])),
    predict_request("png", version=1, seed=np.array([3])),
    predict_request("labelled", seed=np.array([1]), label=np.array([2])),
    predict_request("invert", image=np.zeros((1, 2, 3, 1), np.uint8)),
    predict_request("double", point=np.zeros((2, 2), np.float32)),
    predict_request("length", file=np.array([b"\x00\xff", b""])),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("hostile")
    Toy().save(base / "digits" / "1")
    (base / "batching.config").write_text(BATCHING)
    flags = ["--enable_batching", f"--batching_parameters_file={base}/batching.config"]
    with running_server(f"--model_base_path={base}/digits", "--model_name=digits", *flags) as server:
        yield server


def is_well(server):
    status, reply = call(server.rest, "POST", PREDICT, {"instances": [4]})
    return status == 200 and np.array_equal(reply["predictions"], expected_images([4]))


# Mutations


def mutated_value(rng, value):
    """A JSON value with one place in it replaced, removed, doubled or renamed."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return value
        key = keys[rng.integers(len(keys))]
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        kind = rng.integers(4)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, list):
            place.append(place[key])
        elif kind == 2 and isinstance(place, dict):
            place[str(rng.choice(["sead", "instances", "inputs", "signature_name", "b64", ""]))] = place.pop(key)
        else:
            place[key] = JUNK[rng.integers(len(JUNK))]
        return value


def mutated_bytes(rng, data):
    """Bytes with a few of them changed, inserted, removed, repeated or cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        position, kind = int(rng.integers(len(data) + 1)), rng.integers(5)
        if kind == 0:
            data[position : position + 1] = rng.bytes(1)
        elif kind == 1:
            data[position:position] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del data[position : position + int(rng.integers(1, 9))]
        elif kind == 3:
            data[position:position] = data[: int(rng.integers(64))]
        else:
            del data[position:]
    return bytes(data)


def json_body(rng):
    value = mutated_value(rng, BODIES[rng.integers(len(BODIES))])
    body = json.dumps(value).encode()
    return mutated_bytes(rng, body) if rng.random() < 0.5 else body


def message(rng):
    """A gRPC message: well formed with one part changed, or bytes that may be anything."""
    request = predict_pb2.PredictRequest()
    request.CopyFrom(MESSAGES[rng.integers(len(MESSAGES))])
    kind = rng.integers(8)
    if kind == 0:
        for proto in request.inputs.values():
            proto.dtype = int(rng.integers(0, 130))
    elif kind == 1:
        for proto in request.inputs.values():
            proto.tensor_shape.dim.add(size=int(rng.choice([-1, 0, 2, 2**20, 2**40, 2**62])))
    elif kind == 2:
        for proto in request.inputs.values():
            proto.tensor_content = rng.bytes(int(rng.integers(64)))
    elif kind == 3:
        name = "".join(rng.choice(list(string.printable), size=5))
        request.inputs[name].CopyFrom(tf.make_tensor_proto(rng.normal(size=rng.integers(1, 4, size=2))))
    elif kind == 4:
        request.output_filter.append(str(rng.choice(["image", "image_bytes", "x"])))
    else:
        return mutated_bytes(rng, request.SerializeToString())
    return request.SerializeToString()


# Sending


class Rest:
    """A connection that is kept, and opened again when the server has closed it."""

    def __init__(self, server):
        self._port, self._connection = server.rest, None

    def __call__(self, rng):
        body = json_body(rng)
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        self._connection.request("POST", PREDICT, body)
        reply = self._connection.getresponse()
        document = json.loads(reply.read())
        if reply.will_close:
            self._connection = None
        assert reply.status in HTTP_ANSWERS, (reply.status, document, body)
        assert list(document) in ([["error"]] if reply.status != 200 else [["predictions"], ["outputs"]]), body
        assert reply.status == 200 or is_clean(document["error"]), (document, body)


class Grpc:
    """Sends bytes as Predict's message."""

    def __init__(self, channel):
        self._predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

    def __call__(self, rng):
        data = message(rng)
        try:
            predict_pb2.PredictResponse.FromString(self._predict(data, timeout=120))
        except grpc.RpcError as error:
            unreadable = error.code().name == "INTERNAL" and "cannot be read" in error.details()
            assert error.code().name in GRPC_ANSWERS or unreadable, (error, data)
            assert is_clean(error.details()), (error, data)


def is_clean(text):
    return not any(word in text for word in ("Traceback", 'File "', "Error("))


def attack(server, count, seed=0):
    """Sends mutated requests, half by REST and half by gRPC."""
    rng = np.random.default_rng(seed)
    with server.channel() as channel:
        senders = [Rest(server), Grpc(channel)]
        for index in range(count):
            senders[index % 2](rng)


def test_mutated_requests(server):
    attack(server, 500)
    assert is_well(server)


@pytest.mark.slow
def test_many_mutated_requests_leave_no_memory_behind(server):
    attack(server, 2_000, seed=1)
    before = server.resident_megabytes()
    attack(server, 10_000, seed=2)
    after = server.resident_megabytes()
    print(f"resident memory: {before:.0f} MB before 10,000 requests, {after:.0f} MB after")
    assert after - before < 20
    assert is_well(server)


@pytest.mark.parametrize("open_, close", [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [500, 5_000, 500_000])
@pytest.mark.parametrize("closed", [True, False])
def test_deep_json(server, open_, close, depth, closed):
    value = open_ * depth + b"1" + close * depth * closed
    for body in (value, b'{"instances": ' + value + b"}", b'{"signature_name": ' + value + b"}"):
        status, reply = call(server.rest, "POST", PREDICT, body)
        assert status == 400 and is_clean(reply["error"]) and len(reply["error"]) < 1000


@pytest.mark.parametrize(
    "seeds, code",
    [
        (np.array([2**63 - 1, -1]), "OK"),
        (np.array([-(2**63)]), "INVALID_ARGUMENT"),  # the model's own check
        (np.zeros(17, np.int64), "INVALID_ARGUMENT"),
        (np.zeros(2**22, np.int64), "INVALID_ARGUMENT"),
        (np.zeros(0, np.int64), "OK"),
        (np.zeros((1, 1), np.int64), "INVALID_ARGUMENT"),
        (np.int64(1), "INVALID_ARGUMENT"),
        (np.array([1], np.uint64), "INVALID_ARGUMENT"),
        (np.array([np.nan]), "INVALID_ARGUMENT"),
    ],
)
def test_extreme_seeds_and_sizes(server, seeds, code):
    with server.channel() as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        try:
            answer = predict_pb2.PredictResponse.FromString(predict(predict_request(seed=seeds).SerializeToString()))
            received = "OK"
            assert len(tf.make_ndarray(answer.outputs["image"])) == len(seeds)
        except grpc.RpcError as error:
            received = error.code().name
    assert received == code


def test_inputs_of_different_lengths_are_refused(server):
    body = {"inputs": {"seed": [1, 2], "label": [1]}, "signature_name": "labelled"}
    status, reply = call(server.rest, "POST", PREDICT, body)
    assert (status, "equal 0th-dimension size" in reply["error"]) == (400, True)
    status, reply = call(server.rest, "POST", PREDICT, {"inputs": [1, 2], "signature_name": "mean"})
    assert (status, "0 dimensions" in reply["error"]) == (400, True)


def test_slow_clients_hold_nobody_up(server):
    head = b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: here\r\nContent-Length: 18\r\n\r\n"
    body = b'{"instances": [4]}'
    slow = []
    try:
        for index in range(40):
            slow.append(socket.create_connection(("127.0.0.1", server.rest), timeout=60))
            slow[-1].sendall(head[: index + 3] if index % 2 else head + body[:index])
        assert is_well(server)
        late = slow[10]
        late.sendall(body[10:])
        assert late.recv(12) == b"HTTP/1.1 200"
    finally:
        for connection in slow:
            connection.close()
    assert is_well(server)


def test_connections_that_carry_no_http_or_are_reset(server):
    rng = np.random.default_rng(0)
    for port in (server.rest, server.grpc):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(rng.bytes(200) + b"\r\n\r\n")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    assert is_well(server)
