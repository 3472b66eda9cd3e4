"""The development server's HTTP: bodies in chunks, connections, other origins (CORS), and the time limit."""

import concurrent.futures
import gzip
import http.client
import json
import socket
import subprocess
import threading

import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from dev_server import rest, served_model
from tests.support.servers import call, expected_images, figures, predict_request

MODEL = "/v1/models/digits"
PREDICT = f"{MODEL}:predict"
ALLOWED = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


# Bodies


def test_chunked_requests_on_one_connection(toy_server):
    connection = http.client.HTTPConnection("127.0.0.1", toy_server.rest, timeout=60)
    connection.connect()
    first = connection.sock
    for seed in (7, 8):
        parts = iter([b'{"instances": [', str(seed).encode(), b"]}"])  # http.client sends an iterator in chunks
        connection.request("POST", PREDICT, parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        response = connection.getresponse()
        np.testing.assert_array_equal(json.loads(response.read())["predictions"], expected_images([seed]))
        assert response.status == 200 and connection.sock is first
    connection.close()


def test_curl_sends_what_it_reads_in_chunks(toy_server):
    seeds = [1] * 999 + [-500]  # refused by the model, so the last chunk has arrived too
    for body, answer in [({"instances": [3]}, "predictions"), ({"instances": seeds}, "error")]:
        url = f"http://127.0.0.1:{toy_server.rest}{PREDICT}"
        command = ["curl", "-sS", "--noproxy", "*", "-T", "-", "-X", "POST", "-m", "60", url]
        done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True)
        assert (done.returncode, list(json.loads(done.stdout or "{}"))) == (0, [answer]), done


def test_a_compressed_body_is_read(toy_server):
    connection = http.client.HTTPConnection("127.0.0.1", toy_server.rest, timeout=60)
    connection.request("POST", PREDICT, gzip.compress(b'{"instances": [4]}'), {"Content-Encoding": "gzip"})
    response = connection.getresponse()
    assert response.status == 200
    np.testing.assert_array_equal(json.loads(response.read())["predictions"], expected_images([4]))
    connection.close()


# Connections


POST = b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: here\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
TOO_LARGE = 64 * 2**20 + 1


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"nonsense\r\n\r\n", 400),
        (b"BREW /v1/models/digits HTTP/1.1\r\nHost: here\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n", 400),
        (POST + b"Content-Length: many\r\n\r\n", 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: +3\r\n\r\nabc", 400),
        (POST + b"Content-Length: 3\r\nContent-Length: 2\r\n\r\nabc", 400),
        (POST + b"Content-Length: 99999999999\r\n\r\n", 413),
        (POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\nten\r\n", 400),
        (CHUNKED + b"\r\n-3\r\nabc\r\n", 400),
        (CHUNKED + b"\r\n0x3\r\nabc\r\n", 400),
        (CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\n0\r\n" + b"a: b\r\n" * 1000 + b"\r\n", 400),
        (CHUNKED + b"\r\n%X\r\n" % TOO_LARGE + b"a" * TOO_LARGE, 413),
        (CHUNKED + b"Content-Encoding: gzip\r\n\r\n%X\r\n%b\r\n0\r\n\r\n", 413),
    ],
    ids=range(19),
)
def test_what_is_no_proper_http_is_refused_and_the_connection_closed(toy_server, request_bytes, status):
    if request_bytes.endswith(b"%X\r\n%b\r\n0\r\n\r\n"):  # a few bytes that become many
        bomb = gzip.compress(bytes(2 * TOO_LARGE))
        request_bytes = request_bytes % (len(bomb), bomb)
    with socket.create_connection(("127.0.0.1", toy_server.rest), timeout=60) as connection:
        connection.sendall(request_bytes)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert f" {status} ".encode() in received.splitlines()[0]
    assert b"Traceback" not in received


def test_a_body_that_does_not_come_is_not_waited_for_for_ever(toy_server, monkeypatch):
    monkeypatch.setattr(rest, "_BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", toy_server.rest), timeout=60) as connection:
        connection.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 408 ") and received.endswith(b'{"error": "the body does not come"}')


def test_a_connection_is_kept_through_errors_and_a_client_that_hangs_up_harms_nobody(toy_server):
    with socket.create_connection(("127.0.0.1", toy_server.rest)) as rude:
        rude.sendall(b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
    connection = http.client.HTTPConnection("127.0.0.1", toy_server.rest)
    connection.connect()
    first = connection.sock
    for path, status in [("/v1/models/other:predict", 404), (PREDICT, 200), (PREDICT, 200)]:
        connection.request("POST", path, '{"instances": [1]}')
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is first
    connection.close()


def test_the_head_of_an_answer_alone_can_be_asked_for(open_toy_server):
    status, _, content = headers_of(open_toy_server.rest, "HEAD", "/monitoring/prometheus/metrics")
    assert (status, content) == (200, b"")
    assert headers_of(open_toy_server.rest, "HEAD", MODEL)[0] == 400


# Other origins


def headers_of(port, method, path, body=None, **headers):
    """One request -> (status, the headers of ALLOWED in the answer, the body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, {name: response.headers[name] for name in ALLOWED if name in response.headers}, content


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
    toy_server, open_toy_server, method, path, body, status
):
    for headers in ({}, {"Origin": "https://page.example"}):
        received = headers_of(toy_server.rest, method, path, body, **headers)
        assert (received[0], received[1]) == (status, {})
        assert headers_of(open_toy_server.rest, method, path, body, **headers) == (status, ALLOWED, received[2])


def test_a_preflight_request_is_answered_without_a_body(toy_server, open_toy_server):
    for path in (PREDICT, MODEL, "/v1/anything"):
        assert headers_of(open_toy_server.rest, "OPTIONS", path, **PREFLIGHT) == (200, ALLOWED, b"")
        assert headers_of(toy_server.rest, "OPTIONS", path, **PREFLIGHT) == (200, {}, b"")
        assert headers_of(open_toy_server.rest, "OPTIONS", path) == (400, ALLOWED, b"")


@pytest.mark.parametrize("method, path, status", [("GET", "/elsewhere", 404), ("OPTIONS", "/elsewhere", 404)])
def test_only_the_api_is_for_other_origins(open_toy_server, method, path, status):
    assert headers_of(open_toy_server.rest, method, path, **PREFLIGHT)[:2] == (status, {})
    assert headers_of(open_toy_server.rest, "GET", "/monitoring/prometheus/metrics", **PREFLIGHT)[:2] == (200, {})


def test_the_root_is_the_gallery_of_the_first_model(toy_server):
    connection = http.client.HTTPConnection("127.0.0.1", toy_server.rest, timeout=60)
    connection.request("GET", "/?count=4")
    response = connection.getresponse()
    response.read()
    assert (response.status, response.headers["Location"]) == (302, "/?count=4&model=digits")
    connection.request("GET", response.headers["Location"])
    response = connection.getresponse()
    assert response.status == 200 and response.headers["Content-Type"].startswith("text/html")
    assert b"<title>Images from seeds</title>" in response.read()
    connection.close()


# The time limit


def test_a_run_that_takes_too_long_is_given_up_and_goes_on(open_toy_server):
    late = ':tensorflow:serving:request_count{model_name="digits",status="DEADLINE_EXCEEDED"}'
    before = int(figures(open_toy_server).get(late, 0))
    status, reply = call(open_toy_server.rest, "POST", PREDICT, {"instances": [20_000], "signature_name": "count"})
    assert (status, reply) == (504, {"error": "Timed out waiting for notification"})
    # A mistake is found before anything runs.
    assert call(open_toy_server.rest, "POST", PREDICT, {"instances": ["x"]})[0] == 400
    with open_toy_server.channel() as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        response = predict(predict_request("count", seed=np.array([20_000])))  # gRPC has its client's limits
        assert list(response.outputs["count"].int64_val) == [20_000]
    assert int(figures(open_toy_server)[late]) == before + 1


def test_a_long_run_holds_nobody_up(toy_server, monkeypatch):
    run, begun, go_on = served_model.ServedModel._call, threading.Event(), threading.Event()

    def run_when_told(self, signature_name, inputs, wanted):
        if signature_name == "count":
            begun.set()
            assert go_on.wait(20)
        return run(self, signature_name, inputs, wanted)

    monkeypatch.setattr(served_model.ServedModel, "_call", run_when_told)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        long = {"instances": [3], "signature_name": "count"}
        answer = threads.submit(call, toy_server.rest, "POST", PREDICT, long)
        assert begun.wait(60) and call(toy_server.rest, "POST", PREDICT, {"instances": [4]})[0] == 200
        assert not answer.done()
        go_on.set()
        assert answer.result(60) == (200, {"predictions": [3]})
