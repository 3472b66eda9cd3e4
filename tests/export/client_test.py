"""The client beside the development server's tests: trying again, deadlines, signatures, versions, what it needs."""

import contextlib
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2

from endpoint import calls, image_grid
from endpoint.command_line import ClientError
from endpoint.image_grid import check_grid
from tests.support.endpoints import grey_levels, grpc_endpoint, png_of, predictions, rest_endpoint
from tests.support.programs import assert_one_line, run_script, run_without
from tests.support.servers import free_ports


def answers_then_images(answers):
    """First these answers, then images."""
    answers = iter(answers)
    return lambda path, document: next(answers, None) or (200, predictions(document))


def client(port, folder, *flags, **environment):
    flags = [f"--url=http://127.0.0.1:{port}", "--model=digits", f"--out_dir={folder}", *flags]
    return run_script("client.py", *flags, **environment)


@pytest.mark.parametrize(
    "answer", [(503, {"error": "queue full"}), (503, b"<html>"), (429, {"error": "out of memory"}), (429, b"slow down")]
)
def test_what_may_work_later_is_sent_again(tmp_path, answer):
    with rest_endpoint(answers_then_images([answer, answer])) as (port, received):
        done = client(port, tmp_path, "--seeds=5,6", "--wait=60")
    assert done.returncode == 0, done
    assert len(received) == 3 and len({str(request) for request in received}) == 1
    assert grey_levels(tmp_path) == {"seed_5.png": 5, "seed_6.png": 6}


@pytest.mark.parametrize("status", [302, 400, 404, 500, 501, 504])
def test_what_cannot_work_is_sent_once(tmp_path, status):
    with rest_endpoint(answers_then_images([(status, {"error": "a reason"})])) as (port, received):
        done = client(port, tmp_path, "--wait=60")
    assert_one_line(done, "client", f"{status}: a reason")
    assert len(received) == 1


def test_without_wait_nothing_is_sent_again(tmp_path):
    with rest_endpoint(answers_then_images([(503, {"error": "queue full"})])) as (port, received):
        assert_one_line(client(port, tmp_path), "client", "503: queue full")
    assert len(received) == 1


class Clock:
    """time and random for `patiently`: nothing waits, every pause is drawn at one end of its range."""

    def __init__(self, longest_pauses):
        self.now, self.pauses, self.longest_pauses = 0.0, [], longest_pauses

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def uniform(self, low, high):
        return high if self.longest_pauses else low


@pytest.mark.parametrize(
    "longest_pauses, expected",
    [(True, [0.25, 0.5, 1, 2, 4, 8, 8, 8, 8]), (False, [0.125, 0.25, 0.5, 1, 2, *[4] * 9])],
)
def test_pauses_double_and_end_with_the_patience(monkeypatch, longest_pauses, expected):
    clock = Clock(longest_pauses)
    monkeypatch.setattr(calls, "time", clock)
    monkeypatch.setattr(calls, "random", clock)

    def refuse(inputs):
        raise calls.TryAgain("not yet")

    with pytest.raises(calls.TryAgain, match="not yet"):
        calls.patiently(refuse, {}, wait=40.0)
    assert clock.pauses == expected
    # One more would have been too long.
    assert clock.now <= 40.0 < clock.now + (8 if longest_pauses else 4)


def abort_then(codes, response):
    codes = iter(codes)

    def predict(request, context):
        if code := next(codes, None):
            context.abort(code, "a reason")
        return response

    return predict


def png_response(*files):
    outputs = {"image_bytes": tf.make_tensor_proto(list(files))}
    return predict_pb2.PredictResponse(outputs=outputs)


def ask_by_grpc(port, wait=60.0, **endpoint):
    """The client's own calls; the program around them, which loads TensorFlow, is the development server's tests'."""
    call = calls.GrpcClient(f"127.0.0.1:{port}", calls.Endpoint("digits", **endpoint))
    return calls.patiently(call, {"seed": np.array([5, 6])}, wait)


def test_by_grpc_unavailable_is_sent_again_and_a_version_is_asked_for():
    codes = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    files = [png_of(5), png_of(6)]
    with grpc_endpoint(abort_then(codes, png_response(*files))) as (port, received):
        assert ask_by_grpc(port, signature="png_steps_10", version=3) == files
    assert len(received) == 3
    for request in received:
        spec = request.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("digits", 3, "png_steps_10")
        assert tf.make_ndarray(request.inputs["seed"]).tolist() == [5, 6]


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"])
def test_by_grpc_what_cannot_work_is_sent_once(code):
    predict, refused = abort_then([grpc.StatusCode[code]], png_response()), f"{code}: a reason"
    with grpc_endpoint(predict) as (port, received), pytest.raises(calls.ClientError, match=refused):
        ask_by_grpc(port)
    assert len(received) == 1


def test_by_grpc_nothing_listens():
    (port,) = free_ports(1)
    with pytest.raises(calls.TryAgain, match=f"127.0.0.1:{port} does not answer: "):
        ask_by_grpc(port, wait=0.0)


def test_a_deadline_is_kept():
    over = threading.Event()
    with grpc_endpoint(lambda request, context: over.wait(60)) as (port, received):
        with pytest.raises(calls.ClientError, match=r"no answer within 0\.3 s"):
            ask_by_grpc(port, deadline=0.3)
        over.set()
    assert len(received) == 1
    over.clear()
    with rest_endpoint(lambda path, document: over.wait(60) and (200, {})) as (port, received):
        call = calls.RestClient(f"http://127.0.0.1:{port}", calls.Endpoint("digits", deadline=0.3))
        with pytest.raises(calls.ClientError, match=r"no answer within 0\.3 s"):
            calls.patiently(call, {"seed": np.array([5])}, 60.0)
        over.set()
    assert len(received) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_come_as_numbers(tmp_path, rng, channels):
    images = rng.integers(0, 256, (2, 6, 8, channels), dtype="uint8")
    # The same numbers, as TensorFlow writes them and as TF Serving does: one by one.
    packed = tf.make_tensor_proto(images)
    single = tf.make_tensor_proto(images)
    single.ClearField("tensor_content")
    single.int_val.extend(images.ravel().tolist())
    for tensor in (packed, single):
        response = predict_pb2.PredictResponse(outputs={"image": tensor})
        with grpc_endpoint(lambda request, context, response=response: response) as (port, _):
            received = ask_by_grpc(port, signature="serving_default")
        decoded = [np.asarray(image_grid.decode(image)).reshape(images.shape[1:]) for image in received]
        np.testing.assert_array_equal(decoded, images)
    with rest_endpoint(lambda path, document: (200, {"predictions": images.tolist()})) as (port, requests):
        done = client(port, tmp_path, "--seeds=5,6", "--signature=steps_10", "--model_version=2")
    assert done.returncode == 0, done
    path, document = requests[0]
    assert path == "/v1/models/digits/versions/2:predict" and document["signature_name"] == "steps_10"
    for seed, image in zip((5, 6), images):
        saved = tf.io.decode_png((tmp_path / f"seed_{seed}.png").read_bytes())
        np.testing.assert_array_equal(saved, image)


@pytest.mark.parametrize(
    "rows", [[[[[1.5]]]], [[[[256]]]], [[[[1], [2]], [[3]]]], [[[]]], [{"label": 1}], [{"image": {"b64": 1}}], [None]]
)
def test_rows_that_are_no_images(tmp_path, rows):
    with rest_endpoint(lambda path, document: (200, {"predictions": rows})) as (port, _):
        done = client(port, tmp_path, "--seeds=1", "--wait=60")
    assert_one_line(done, "client", "holds no images")


def test_by_rest_it_needs_five_packages_only(tmp_path):
    others = ["tensorflow", "tensorflow_serving", "keras", "grpc", "matplotlib", "tf_blurdiff"]
    with rest_endpoint(answers_then_images([])) as (port, _):
        flags = [f"--url=http://127.0.0.1:{port}", "--seeds=7", "--out_dir", tmp_path, "--out", tmp_path / "7.png"]
        done = run_without(others, "client.py", *flags)
    assert done.returncode == 0, done
    assert grey_levels(tmp_path)["seed_7.png"] == 7


def test_no_proxy_is_asked_for_this_machine(tmp_path):
    proxy = f"http://127.0.0.1:{free_ports(1)[0]}"
    with rest_endpoint(answers_then_images([])) as (port, _):
        done = client(port, tmp_path, "--seeds=7", HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="")
    assert done.returncode == 0, done


def test_where_images_cannot_be_saved_none_are_asked_for(tmp_path):
    (tmp_path / "file").write_text("")
    with rest_endpoint(answers_then_images([])) as (port, received):
        for flag in (f"--out={tmp_path}", f"--out={tmp_path}/file/grid.png", f"--out_dir={tmp_path}/file"):
            done = run_script("client.py", f"--url=http://127.0.0.1:{port}", flag)
            assert_one_line(done, "client", str(tmp_path))
        done = run_script("client.py", f"--url=http://127.0.0.1:{port}", f"--out={tmp_path}/grid.gif")
        assert_one_line(done, "client", "--out must end in .png, .jpg, .jpeg, .webp. Received: ")
    assert not received


@pytest.mark.parametrize(
    "name, mode, message",
    [
        ("x.webp", "L", "--out: the grid is 16642x16642 pixels, and WEBP holds 16,383 a side; expected fewer seeds"),
        ("x.png", "L", None),
        ("x.jpg", "L", None),
        ("x.jpg", "RGBA", "--out: JPEG has no transparency; expected a .png or .webp"),
    ],
)
def test_a_grid_that_the_format_cannot_hold_is_refused_at_the_first_image(name, mode, message):
    image = Image.new(mode, (258, 258))
    with pytest.raises(ClientError, match=message) if message else contextlib.nullcontext():
        check_grid(image, 64 * 64, Path(name))
    check_grid(Image.new("L", (258, 258)), 63 * 63, Path(name))


def test_a_tilde_is_the_home_folder(tmp_path):
    (tmp_path / "here").mkdir()
    with rest_endpoint(answers_then_images([])) as (port, _):
        flags = (f"--url=http://127.0.0.1:{port}", "--seeds=7,7", "--out=~/g.png", "--out_dir=~/single")
        done = run_script("client.py", *flags, HOME=str(tmp_path / "here"))
    assert done.returncode == 0 and "\n1 images in " in done.stdout, done
    assert sorted(path.name for path in (tmp_path / "here").rglob("*.png")) == ["g.png", "seed_7.png"]


def test_a_scale_must_be_a_number():
    assert_one_line(run_script("client.py", "--guidance_scale=nan"), "client", "--guidance_scale")


@pytest.mark.parametrize("program", ["client.py", "load_test.py"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_no_failure(program, flag):
    done = run_script(program, flag)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("--url", "--grpc", "--signature", "--deadline", "--out"):
        assert f"{name}:" in done.stdout
