"""The development server's start: what is wrong is one line before anything is loaded; and its end."""

import asyncio
import concurrent.futures
import os
import socket

import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from dev_server.config import Batching
from dev_server.errors import ConfigurationError
from dev_server.server import repeat
from tests.support.event_loop import in_event_loop
from tests.support.programs import assert_one_line, run_script
from tests.support.servers import (
    call,
    expected_images,
    figures,
    free_ports,
    predict_request,
    server_in_this_process,
    wait_until,
)

LABELLED = """model_config_list {{ config {{ name: "digits" base_path: "{tmp}/full" model_platform: "tensorflow"
    version_labels {{ key: "stable" value: 1 }} }} }}"""


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--model_base_path is required"),
        (["--model_base_path={tmp}/nothing"], "no folder"),
        (["--model_base_path=~/nothing"], f"no folder {os.path.expanduser('~')}/nothing"),
        (["--model_base_path={tmp}"], "holds no version"),
        (["--model_base_path={tmp}/empty"], "holds no saved_model.pb"),
        (["--model_base_path={tmp}", "--rest_api_port={taken}"], "cannot be used"),
        (["--model_base_path={tmp}", "--port={taken}"], "cannot be used"),
        (["--model_base_path={tmp}", "--port=0", "--rest_api_port=0"], "nothing to serve"),
        (["--model_base_path={tmp}", "--port={free}", "--rest_api_port={free}"], "must differ"),
        (["--port=many"], "--port"),
        (["--port=65536"], "--port"),
        (["--no_such_flag=1"], "no_such_flag"),
        (["served/digits"], "unknown arguments"),
        (["--model_config_file={tmp}/none"], "cannot read {tmp}/none"),
        (["--model_config_file={tmp}/models.config"], "version 1 of model digits, which is not currently available"),
        (["--model_base_path={tmp}/full", "--batching_parameters_file=x"], "without --enable_batching"),
        (["--model_base_path={tmp}/full", "--monitoring_config_file={tmp}/none"], "cannot read {tmp}/none"),
        (["--model_base_path={tmp}/full", "--enable_batching", "--batching_parameters_file={tmp}"], "cannot read"),
    ],
)
def test_a_mistake_at_the_start_is_one_message_and_status_2(tmp_path, flags, message):
    for name in ("empty", "full"):
        (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / "full" / "1" / "saved_model.pb").write_bytes(b"not looked into before all flags are")
    (tmp_path / "models.config").write_text(LABELLED.format(tmp=tmp_path))
    grpc, rest, free = free_ports(3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"tmp": tmp_path, "taken": taken.getsockname()[1], "free": free}
        flags = [f"--port={grpc}", f"--rest_api_port={rest}", *[flag.format(**names) for flag in flags]]
        done = run_script("local_server.py", *flags)
    assert_one_line(done, "local_server", message.format(**names))


def test_help_says_what_it_is_not():
    done = run_script("local_server.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "It is NOT TF Serving" in done.stdout and "--[no]enable_batching" in done.stdout


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a model")
    with pytest.raises(ConfigurationError, match=f"cannot load {tmp_path}/1: ") as refused:
        server_in_this_process(tmp_path).__enter__()
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("side", ["rest", "grpc"])
def test_a_port_that_was_taken_meanwhile_ends_the_start_and_frees_the_other(toy_path, toy_server, side):
    ports = dict(zip(("rest", "grpc"), free_ports(2)))
    taken = ports | {side: getattr(toy_server, side)}  # by a server of the same kind, which might share it
    with pytest.raises(ConfigurationError, match="cannot listen"):
        server_in_this_process(toy_path, ports=taken).__enter__()
    with server_in_this_process(toy_path, ports=ports) as server:
        assert server.states() == {10: "AVAILABLE"}


@in_event_loop
async def test_what_is_repeated_goes_on_after_an_error_which_is_told_once(capsys):
    errors = iter([ValueError("one"), ValueError("one"), ValueError("two"), None, ValueError("two")])
    ended = asyncio.Event()

    async def act():
        error = next(errors, "end")
        if error == "end":
            ended.set()
        elif error:
            raise error

    task = asyncio.create_task(repeat(act, 0.001))
    await ended.wait()
    task.cancel()
    assert capsys.readouterr().err.splitlines() == [f"local_server: {word}" for word in ("one", "two", "two")]
    await repeat(act, 0)  # never, and no end without it


def test_requests_that_run_are_answered_when_the_server_stops(toy_path):
    batching = Batching(16, 16, timeout_seconds=1.5, num_threads=1)
    with (
        concurrent.futures.ThreadPoolExecutor() as threads,
        server_in_this_process(toy_path, batching, monitoring_path="/figures") as server,
        server.channel() as channel,
    ):
        by_rest = threads.submit(call, server.rest, "POST", "/v1/models/digits:predict", {"instances": [4]})
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        by_grpc = threads.submit(predict, predict_request(seed=np.array([4])), timeout=60)
        waiting = ":tensorflow:serving:batching_session:input_batch_size_count{}"
        wait_until(lambda: figures(server, "/figures").get(waiting) == "2")
        assert not by_rest.done() and not by_grpc.done()
        server.stop()
        assert by_rest.result(60) == (200, {"predictions": expected_images([4]).tolist()})
        assert by_grpc.result(60).outputs["image"].int_val == expected_images([4]).ravel().tolist()
