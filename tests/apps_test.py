"""The programs of docs/apps.md: the Python one as it stands on the page, the web page in Node and in a browser."""

import contextlib
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

import tf_blurdiff as bd
from tests.support import commands
from tests.support.endpoints import predictions, rest_endpoint
from tests.support.programs import EXPORT
from tests.support.servers import Toy, server_in_this_process
from tf_blurdiff.data.pixels import to_uint8

PAGE = (EXPORT / "gallery.html").read_text()
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")


@pytest.mark.slow
def test_the_python_program_saves_what_the_model_samples(tmp_path, trained_run):
    (program,) = re.findall(r"```python\n(.*?)```", (commands.ROOT / "docs" / "apps.md").read_text(), re.DOTALL)
    model_path = str(trained_run / "model.keras")
    commands.run_python(program.replace("runs/digits/model.keras", model_path), cwd=tmp_path, timeout=300)
    images = to_uint8(bd.load_model(model_path).sample(seeds=range(16))).numpy()
    saved = np.asarray(Image.open(tmp_path / "app.png"))[::8, ::8]
    height, width = images.shape[1:3]
    tiles = saved.reshape(4, height, 4, width).swapaxes(1, 2).reshape(16, height, width)
    np.testing.assert_allclose(tiles.astype(int), images[..., 0], atol=1)


# The page's logic, in Node


def run_logic(code):
    """Runs JavaScript after the page's logic; returns what it printed as JSON."""
    (logic,) = re.findall(r'<script id="logic">(.*?)</script>', PAGE, re.DOTALL)
    program = f"{logic}\n(async () => {{ {code} }})().then((x) => console.log(JSON.stringify(x)));"
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


needs_node = pytest.mark.skipif(not NODE, reason="no node to run JavaScript with")


@needs_node
def test_requests_cover_the_seeds_once_and_in_order():
    search = "?url=http://h:1/&model=digits&seed=-3&count=8&batch=3&label=2&guidance=1.5"
    settings, batches = run_logic(f"const s = parseSettings({search!r}, 'http://page'); return [s, batches(s)];")
    assert settings["url"] == "http://h:1" and settings["inputs"] == {"label": 2, "guidance_scale": 1.5}
    assert batches == [[-3, -2, -1], [0, 1, 2], [3, 4]]
    largest = f"const s = parseSettings('?seed={2**53 - 16}', 'http://page'); return batches(s)[0].map(String);"
    assert run_logic(largest)[-1] == str(2**53 - 1)
    settings = run_logic("return parseSettings('?url=&label=&guidance=', 'http://page');")
    assert settings["url"] == "http://page" and settings["inputs"] == {} and settings["signature"] == "png"


@needs_node
@pytest.mark.parametrize(
    "search, message",
    [
        ("seed=x", "seed must be a whole number"),
        ("seed=", "seed must be"),
        ("seed=1.5", "seed must be"),
        (f"seed={2**53 - 15}", "seed must be"),  # the last of 16 would be 2^53
        ("count=0", "count must be a whole number from 1 to 1000"),
        ("constructor=1", "constructor must be one of"),
        ("count=1001", "count must be"),
        ("batch=0", "batch must be"),
        ("label=-1", "label must be"),
        ("guidance=big", "guidance must be a number"),
        ("guidance=Infinity", "guidance must be a number"),
        ("url=localhost:8501", "url must begin with http"),
        ("url=javascript:alert(1)", "url must begin with http"),
    ],
)
def test_a_mistake_in_the_address_is_named(search, message):
    refused = run_logic(f"try {{ return parseSettings({search!r}, 'http://page'); }} catch (e) {{ return e.message; }}")
    assert message in refused


@needs_node
@pytest.mark.parametrize(
    "answer, message",
    [
        ((404, {"error": "Servable not found"}), "404: Servable not found"),
        ((200, b"<html>"), "without JSON"),
        ((200, {"predictions": [[[0]], [[1]]]}), "is png the right signature?"),
        ((200, {"predictions": [{"b64": "AAAA"}]}), "does not hold 2 PNG files"),
        ((200, {"predictions": [{"b64": "AAAA"}, {"b64": "x onerror=alert(1)"}]}), "does not hold 2 PNG files"),
    ],
)
def test_an_answer_without_images_is_an_error(answer, message):
    with rest_endpoint(lambda path, document: answer) as (port, _):
        code = f"const s = parseSettings('?model=digits&url=http://127.0.0.1:{port}', '');"
        refused = run_logic(f"{code} return fetchImages(s, [0, 1]).catch((e) => e.message);")
    assert message in refused


# The page in a browser, given out by the server that passes its requests on


class Proxy(http.server.SimpleHTTPRequestHandler):
    """Files of export/, and /v1/ from an endpoint: one origin for both."""

    def __init__(self, *args, endpoint, **kwargs):
        self.endpoint = endpoint
        super().__init__(*args, directory=str(EXPORT), **kwargs)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = urllib.request.Request(f"http://127.0.0.1:{self.endpoint}{self.path}", body)
        try:
            response = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            self.send_response(response.status)
            self.end_headers()
            self.wfile.write(response.read())

    def log_message(self, format, *args):
        pass


@contextlib.contextmanager
def proxy(endpoint):
    handler = functools.partial(Proxy, endpoint=endpoint)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def page_in_browser(address, folder):
    """The page's document when its requests are answered.

    Chromium does not wait for pictures that are being decoded, which on a busy machine take longer: once more, then.
    """
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}"]
    command = [BROWSER, *flags, "--virtual-time-budget=20000", "--dump-dom", address]
    for _ in range(3):
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        if not re.search(r"\d+ of \d+ images \.\.\.", shown):
            break
    return shown


needs_browser = pytest.mark.skipif(not BROWSER, reason="no chromium or google-chrome to show the page in")


@needs_browser
def test_the_page_shows_the_images_of_its_own_origin(tmp_path):
    answer = lambda path, document: (200, predictions(document))
    with rest_endpoint(answer) as (port, received), proxy(port) as page:
        shown = page_in_browser(f"http://127.0.0.1:{page}/gallery.html?model=digits&seed=5&count=3&batch=2", tmp_path)
    assert "3 images, seeds 5 to 7" in shown
    sources = re.findall(r'<img[^>]* alt="digits, seed (\d+)"[^>]* src="data:image/png;base64,([^"]*)"', shown)
    expected = predictions({"instances": [{"seed": seed} for seed in (5, 6, 7)]})["predictions"]
    assert sources == [(str(seed), file["b64"]) for seed, file in zip((5, 6, 7), expected)]
    assert [document["instances"] for _, document in received[-2:]] == [[{"seed": 5}, {"seed": 6}], [{"seed": 7}]]


@needs_browser
def test_the_page_shows_the_images_of_another_origin_that_allows_it(tmp_path):
    Toy().save(tmp_path / "toy" / "1")
    with server_in_this_process(tmp_path / "toy", enable_cors=True) as server:
        page = (EXPORT / "gallery.html").as_uri()  # as a file it has no origin at all
        address = f"{page}?url=http://127.0.0.1:{server.rest}&model=digits&seed=5&count=3"
        shown = page_in_browser(address, tmp_path / "profile")
    assert "3 images, seeds 5 to 7" in shown and shown.count('src="data:image/png;base64,') == 3


@needs_browser
def test_the_page_shows_what_is_wrong(tmp_path):
    with rest_endpoint(lambda path, document: (404, {"error": "<b>no model</b>"})) as (port, _), proxy(port) as page:
        # The endpoint is another origin, and does not allow that.
        other = page_in_browser(f"http://127.0.0.1:{page}/gallery.html?url=http://127.0.0.1:{port}", tmp_path)
        refused = page_in_browser(f"http://127.0.0.1:{page}/gallery.html", tmp_path)
        wrong = page_in_browser(f"http://127.0.0.1:{page}/gallery.html?count=many&guidance=%20", tmp_path)
        slip = page_in_browser(f"http://127.0.0.1:{page}/gallery.html?seeds=5", tmp_path)
    assert "the server answers 404: &lt;b&gt;no model&lt;/b&gt;" in refused  # as text, not as HTML
    assert "--rest_api_enable_cors_support" in other and "<img" not in re.sub(r"(?s)<script.*?</script>", "", other)
    assert re.search(r'id="error"[^>]*>count must be a whole number from 1 to 1000. Received: many<', wrong)
    assert re.search(r'id="error"[^>]*>seeds must be one of url, model, signature, seed, count,', slip)
