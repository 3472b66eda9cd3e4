"""The development server's HTTP: bodies in chunks, connections, other origins (CORS), and the time limit."""

import http.client
import io
import json
import re
import socket
import subprocess
import threading
from email.message import Message

import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from dev_server import http_body, time_limit
from dev_server.errors import ServingError
from tests.support.servers import Toy, call, expected_images, predict_request, running_server

MODEL = "/v1/models/digits"
PREDICT = f"{MODEL}:predict"
ALLOWED = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "digits"
    Toy().save(base / "1")
    return base


@pytest.fixture(scope="module")
def server(base_path):
    with running_server(f"--model_base_path={base_path}", "--model_name=digits") as server:
        yield server


# Bodies


def read(data, **headers):
    """What `read_body` makes of these bytes, and what it leaves of them."""
    message, stream = Message(), io.BytesIO(data)
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            message[name.replace("_", "-")] = value
    return http_body.read_body(message, stream), stream.read()


@pytest.mark.parametrize(
    "data, body",
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n1;name=value\r\nd\r\n0\r\n\r\n", b"abcd"),
        (b"A\r\n0123456789\r\n0000\r\nTrailer: one\r\nAnother: two\r\n\r\n", b"0123456789"),
        (b"4\r\n\r\n0\r\r\n0\r\n\r\n", b"\r\n0\r"),
    ],
)
def test_chunks_are_joined_and_the_next_request_is_left(data, body):
    assert read(data + b"GET / HTTP", Transfer_Encoding="Chunked") == (body, b"GET / HTTP")


def test_a_body_of_a_given_length():
    assert read(b"abcd", Content_Length="3") == (b"abc", b"d")
    assert read(b"abcd") == (b"", b"abcd")
    assert read(b"abcd", Content_Length=["3", "3"]) == (b"abc", b"d")


CHUNKED = {"Transfer_Encoding": "chunked"}


@pytest.mark.parametrize(
    "data, headers, status, message",
    [
        (b"", CHUNKED, 400, "breaks off"),
        (b"3\r\nab", CHUNKED, 400, "of the 3 bytes"),
        (b"3\r\nabcd\r\n0\r\n\r\n", CHUNKED, 400, "of the 3 bytes"),
        (b"0\r\n", CHUNKED, 400, "breaks off"),
        (b"x\r\n", CHUNKED, 400, "bad size of a chunk: b'x'"),
        (b"-3\r\nabc\r\n", CHUNKED, 400, "bad size"),
        (b"0x3\r\nabc\r\n", CHUNKED, 400, "bad size"),
        (b"\r\n", CHUNKED, 400, "bad size"),
        (b"1;" + b"x" * 5000 + b"\r\na\r\n", CHUNKED, 400, "too long a line"),
        (b"FFFFFFFFF\r\n", CHUNKED, 413, "too large"),
        (b"3FFFFFF\r\n" + b"a" * 0x3FFFFFF + b"\r\n2\r\nab\r\n", CHUNKED, 413, "too large"),
        (b"0\r\n" + b"a: b\r\n" * 101, CHUNKED, 431, "trailers"),
        (b"0\r\n\r\n", CHUNKED | {"Content_Length": "5"}, 400, "both"),
        (b"", {"Transfer_Encoding": "gzip, chunked"}, 501, "gzip, chunked"),
        (b"", {"Transfer_Encoding": ["chunked", "chunked"]}, 501, "must be chunked"),
        (b"abc", {"Content_Length": ["3", "2"]}, 400, "3, 2"),
        (b"abc", {"Content_Length": "+3"}, 400, "bad Content-Length"),
    ],
    ids=range(17),
)
def test_a_body_whose_end_is_not_known_is_refused(data, headers, status, message):
    with pytest.raises(http_body.BodyError, match=re.escape(message)) as refused:
        read(data, **headers)
    assert refused.value.status == status


def test_chunked_requests_on_one_connection(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest, timeout=60)
    connection.connect()
    first = connection.sock
    for seed in (7, 8):
        parts = iter([b'{"instances": [', str(seed).encode(), b"]}"])  # http.client sends an iterator in chunks
        connection.request("POST", PREDICT, parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        response = connection.getresponse()
        np.testing.assert_array_equal(json.loads(response.read())["predictions"], expected_images([seed]))
        assert response.status == 200 and connection.sock is first
    connection.close()


def test_curl_sends_what_it_reads_in_chunks(server):
    seeds = [1] * 999 + [-500]  # refused by the model, so the last chunk has arrived too
    for body, answer in [({"instances": [3]}, "predictions"), ({"instances": seeds}, "error")]:
        url = f"http://127.0.0.1:{server.rest}{PREDICT}"
        command = ["curl", "-sS", "--noproxy", "*", "-T", "-", "-X", "POST", "-m", "60", url]
        done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True)
        assert (done.returncode, list(json.loads(done.stdout or "{}"))) == (0, [answer]), done


# Connections


@pytest.mark.parametrize(
    "request_text, status",
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nten\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_what_is_no_proper_http_is_refused_and_the_connection_closed(server, request_text, status):
    with socket.create_connection(("127.0.0.1", server.rest)) as connection:
        connection.sendall(request_text)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert f" {status} ".encode() in head.splitlines()[0]
    assert list(json.loads(body)) == ["error"]


def test_a_connection_is_kept_through_errors_and_a_client_that_hangs_up_harms_nobody(server):
    with socket.create_connection(("127.0.0.1", server.rest)) as rude:
        rude.sendall(b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    connection = http.client.HTTPConnection("127.0.0.1", server.rest)
    connection.connect()
    first = connection.sock
    for path, status in [("/v1/models/other:predict", 404), (PREDICT, 200), (PREDICT, 200)]:
        connection.request("POST", path, '{"instances": [1]}')
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is first
    connection.close()


# Other origins


def headers_of(port, method, path, body=None, **headers):
    """One request -> (status, the headers of ALLOWED in the answer, the body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, {name: response.headers[name] for name in ALLOWED if name in response.headers}, content


@pytest.fixture(scope="module")
def open_server(base_path, tmp_path_factory):
    """For pages of all origins, with the figures, and impatient with REST requests."""
    file = tmp_path_factory.mktemp("config") / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    flags = ["--rest_api_enable_cors_support", "--rest_api_timeout_in_ms=1", f"--monitoring_config_file={file}"]
    with running_server(f"--model_base_path={base_path}", "--model_name=digits", *flags) as server:
        yield server


PREFLIGHT = {"Origin": "http://page.example", "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("GET", MODEL, None, 200),
        ("GET", "/V1/models/nobody", None, 404),
        ("POST", PREDICT, b"no JSON", 400),
        ("PUT", MODEL, b"{}", 400),
    ],
)
def test_answers_can_be_read_by_pages_of_any_origin_if_the_server_is_told_so(
    server, open_server, method, path, body, status
):
    for headers in ({}, {"Origin": "https://page.example"}):
        received = headers_of(server.rest, method, path, body, **headers)
        assert (received[0], received[1]) == (status, {})
        assert headers_of(open_server.rest, method, path, body, **headers) == (status, ALLOWED, received[2])


def test_a_preflight_request_is_answered_without_a_body(server, open_server):
    for path in (PREDICT, MODEL, "/v1/anything"):
        assert headers_of(open_server.rest, "OPTIONS", path, **PREFLIGHT) == (200, ALLOWED, b"")
        assert headers_of(server.rest, "OPTIONS", path, **PREFLIGHT) == (200, {}, b"")
        assert headers_of(open_server.rest, "OPTIONS", path) == (400, ALLOWED, b"")


@pytest.mark.parametrize("method, path, status", [("GET", "/", 404), ("OPTIONS", "/elsewhere", 404)])
def test_only_the_api_is_for_other_origins(open_server, method, path, status):
    assert headers_of(open_server.rest, method, path, **PREFLIGHT)[:2] == (status, {})
    assert headers_of(open_server.rest, "GET", "/monitoring/prometheus/metrics", **PREFLIGHT)[:2] == (200, {})


# The time limit


def test_a_run_that_takes_too_long_is_given_up_and_goes_on(open_server):
    status, reply = call(open_server.rest, "POST", PREDICT, {"instances": [20_000], "signature_name": "count"})
    assert (status, reply) == (504, {"error": "Timed out waiting for notification"})
    # A mistake is found before anything runs.
    assert call(open_server.rest, "POST", PREDICT, {"instances": ["x"]})[0] == 400
    with open_server.channel() as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        response = predict(predict_request("count", seed=np.array([20_000])))  # gRPC has its client's limits
        assert list(response.outputs["count"].int64_val) == [20_000]
    figures = headers_of(open_server.rest, "GET", "/monitoring/prometheus/metrics")[2].decode()
    assert 'request_count{model_name="digits",status="DEADLINE_EXCEEDED"} 1' in figures


def test_a_limit_lets_pass_what_comes_in_time():
    assert [time_limit.run_within(seconds, lambda: 7) for seconds in (None, 60.0)] == [7, 7]
    for seconds in (None, 60.0):
        with pytest.raises(KeyError, match="own"):
            time_limit.run_within(seconds, lambda: {}["own"])
        with pytest.raises(TimeoutError, match="its own"):
            time_limit.run_within(seconds, late_by_itself)


def late_by_itself():
    raise TimeoutError("its own")


def test_what_comes_too_late_has_run_to_its_end():
    gate, ended = threading.Event(), threading.Event()

    def run():
        gate.wait(60)
        ended.set()

    with pytest.raises(ServingError, match="Timed out waiting for notification") as refused:
        time_limit.run_within(0.0, run)
    assert refused.value.code == "DEADLINE_EXCEEDED" and not ended.is_set()
    gate.set()
    assert ended.wait(60)
