"""The client against the development server, and against servers that answer something else."""

import base64
import contextlib
import http.server
import io
import json
import subprocess
import threading

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.programs import EXPORT, assert_one_line, run_script
from tests.support.servers import CHANNELS, HEIGHT, WIDTH, expected_images, free_ports


@pytest.fixture
def ports(toy_server):
    """The running server's (REST, gRPC) ports."""
    return toy_server.rest, toy_server.grpc


def tiles(path, count):
    """The images of a grid, row by row."""
    gap = 2
    grid = np.asarray(Image.open(path))[gap:, gap:]
    assert grid.shape[0] % (HEIGHT + gap) == 0 and grid.shape[1] % (WIDTH + gap) == 0
    rows, columns = grid.shape[0] // (HEIGHT + gap), grid.shape[1] // (WIDTH + gap)
    images = grid.reshape(rows, HEIGHT + gap, columns, WIDTH + gap, CHANNELS).swapaxes(1, 2)
    assert (images[:, :, HEIGHT:] == 255).all() and (images[:, :, :, WIDTH:] == 255).all()
    return images[:, :, :HEIGHT, :WIDTH].reshape(-1, HEIGHT, WIDTH, CHANNELS)[:count]


def test_client_by_rest(ports, tmp_path):
    out, folder = tmp_path / "grid.png", tmp_path / "images"
    url = f"http://127.0.0.1:{ports[0]}/"
    arguments = ["--url", url, "--model=digits", "--seeds=-2:3,40", "--batch_size=4"]
    done = run_script("client.py", *arguments, "--out", out, "--out_dir", folder)
    assert done.returncode == 0, done
    seeds = [-2, -1, 0, 1, 2, 40]
    expected = expected_images(seeds)
    np.testing.assert_array_equal(tiles(out, 6), expected)
    assert {path.name for path in folder.iterdir()} == {f"seed_{seed}.png" for seed in seeds}
    for seed, image in zip(seeds, expected):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"seed_{seed}.png")), image)


def test_client_by_grpc_takes_a_reply_of_more_than_4_mb(ports, tmp_path):
    count, out = 500, tmp_path / "grid.png"
    assert count * HEIGHT * WIDTH * CHANNELS > 4 * 1024**2
    arguments = [f"--grpc=127.0.0.1:{ports[1]}", "--model=digits", f"--seeds=0:{count}", f"--batch_size={count}"]
    done = run_script("client.py", *arguments, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(tiles(out, count), expected_images(range(count)))


@contextlib.contextmanager
def scripted_server(answers):
    """A REST server that gives (status, body) answers one after the other and keeps the requests' instances."""
    answers, received = iter(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body)["instances"])
            status, reply = next(answers)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

        def log_message(self, format, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port, received
        server.shutdown()


def predictions(count):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 128).save(buffer, "PNG")
    return {"predictions": [{"b64": base64.b64encode(buffer.getvalue()).decode()}] * count}


def test_client_batches_sends_labels_and_waits_for_the_server(tmp_path):
    answers = [(503, {"error": "loading"}), (503, {"error": "loading"}), (200, predictions(2)), (200, predictions(1))]
    with scripted_server(answers) as (port, received):
        arguments = ["--seeds=5,6,5", "--labels=0:3", "--batch_size=2", "--wait=60", "--out_dir", tmp_path]
        done = run_script("client.py", f"--url=http://127.0.0.1:{port}", *arguments)
    assert done.returncode == 0, done
    first, second = [{"seed": 5, "label": 0}, {"seed": 6, "label": 1}], [{"seed": 5, "label": 2}]
    assert received == [first, first, first, second]
    assert {p.name for p in tmp_path.iterdir()} == {f"seed_{s}_label_{k}.png" for s, k in ((5, 0), (6, 1), (5, 2))}


def a_huge_png():
    """A few kilobytes, in base64, that Pillow would make 200 million pixels of."""
    file = io.BytesIO()
    Image.new("1", (15_000, 15_000)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "answer, message",
    [
        ((200, b"<html>"), "without JSON"),
        ((200, {"predictions": 1}), "holds no images"),
        ((200, {"predictions": [1]}), "holds no images"),
        ((200, {"outputs": []}), "no 'predictions'"),
        ((200, predictions(3)), "asked for 1 images, received 3"),
        ((200, {"predictions": [{"b64": "AAAA"}]}), "no PNG image"),
        ((200, {"predictions": [{"b64": a_huge_png()}]}), "no PNG image"),
        ((500, {"error": "out of memory"}), "500: out of memory"),
        ((503, {"error": "loading"}), "503: loading"),
    ],
)
def test_client_reports_a_server_that_answers_something_else(tmp_path, answer, message):
    with scripted_server([answer]) as (port, _):
        flags = [f"--url=http://127.0.0.1:{port}", "--seeds=1", f"--out={tmp_path}/grid.png"]
        done = run_script("client.py", *flags)
    assert_one_line(done, "client", message)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--seeds=one"], "--seeds: 'one'"),
        (["--seeds=5:5"], "empty"),
        (["--seeds=3:"], "--seeds: '3:'"),
        (["--seeds=0:99999999999"], "more than"),
        ([f"--seeds={2**63}"], "64-bit"),
        ([f"--seeds=-1:{2**63 - 1}"], "more than"),
        ([f"--label={2**63}"], "--label: the model's labels have no names; expected numbers"),
        ([f"--model_version={2**63}"], "--model_version"),
        (["--guidance_scale=1e39"], "--guidance_scale must be a number, in 32 bits. Received: 1e+39"),
        (["--labels=1,2,3", "--seeds=0:2"], "--labels: give one label"),
        (["--labels=1"], "keys must be equal to: seed"),
        (["--model=other"], "404: Servable not found"),
        (["--url=localhost:8501"], "must begin with http://"),
        (["--url=http://127.0.0.1:{unused}"], "no server at http://127.0.0.1:{unused}"),
        (["--batch_size=0"], "--batch_size"),
        (["--out=/dev/null/grid.png"], "/dev/null"),
        (["7"], "unknown arguments"),
    ],
)
def test_a_mistake_in_a_client_call_is_one_message_and_status_2(ports, tmp_path, flags, message):
    names = {"unused": free_ports(1)[0], "tmp": tmp_path}
    defaults = [f"--url=http://127.0.0.1:{ports[0]}", "--model=digits", f"--out={tmp_path}/grid.png"]
    done = run_script("client.py", *defaults, *[flag.format(**names) for flag in flags])
    assert_one_line(done, "client", message.format(**names))


def compose_service():
    return yaml.safe_load((EXPORT / "tf_serving" / "compose.yaml").read_text())["services"]["serving"]


def test_compose_mounts_what_its_flags_name():
    service = compose_service()
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    sources = {inside: (EXPORT / "tf_serving" / outside).resolve() for outside, inside in mounts.items()}
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    for flag in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        folder, name = flags[flag].rsplit("/", 1)
        assert (sources[folder] / name).is_file()
    assert sources["/models"] == EXPORT.parent / "served"
    assert "latest" not in service["image"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("model, healthy", [("digits", True), ("other", False)])
def test_compose_health_check_against_the_development_server(ports, model, healthy):
    program, *command = compose_service()["healthcheck"]["test"]
    assert program == "CMD" and "/v1/models/digits " in command[-1]
    command[-1] = command[-1].replace("8501", str(ports[0])).replace("/models/digits", f"/models/{model}")
    assert (subprocess.run(command, capture_output=True).returncode == 0) == healthy
