"""The load test: its limits, what it measures of a made-up endpoint, what it notices."""

import itertools
import math
import threading

import numpy as np
import pytest
from PIL import Image

from endpoint import calls, load_levels
from tests.support.endpoints import png_of, predictions, rest_endpoint
from tests.support.programs import assert_one_line, run_script, run_without


def measure(port, folder, *flags):
    where = [f"--url=http://127.0.0.1:{port}", "--model=digits", f"--out={folder}/curves.png"]
    return run_script("load_test.py", *where, "--requests=6", *flags)


def rows_of(output):
    """The table's numbers."""
    lines = [line for line in output.splitlines() if line.startswith("| ") and line[2].isdigit()]
    return [[float(cell) for cell in line.strip("| ").split("|")] for line in lines]


def test_percentiles_are_numpys(rng):
    for count in (2, 3, 10, 250):
        values = rng.exponential(size=count)
        expected = np.percentile(values, load_levels.PERCENTILES)
        np.testing.assert_allclose(load_levels.percentiles(list(values)), expected)
    assert load_levels.percentiles([3.0]) == [3.0] * 3
    assert all(map(math.isnan, load_levels.percentiles([])))


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_level_keeps_so_many_requests_under_way(concurrency):
    together = threading.Barrier(concurrency, timeout=60)  # breaks unless so many are there at a time
    under_way, most, lock = 0, 0, threading.Lock()

    def call(inputs):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait()
        with lock:
            under_way -= 1
        if inputs["seed"][0] % 4 == 3:
            raise load_levels.ClientError("busy")
        return ["an image"] * len(inputs["seed"])

    requests = [{"seed": np.array([number, number])} for number in range(12)]
    told = []
    level = load_levels.run_level([call] * concurrency, requests, seconds=1e6, progress=lambda: told.append(1))
    assert most == concurrency and len(told) == 12
    assert sorted(answer.seeds[0] for answer in level.answers) == list(range(12))
    assert level.errors == ["busy"] * 3
    assert level.images_per_second == pytest.approx(9 * 2 / level.seconds)


def test_a_level_ends_with_its_seconds_and_times_each_request(monkeypatch):
    ticks = itertools.count()  # the clock goes on by 1 s whenever it is read
    monkeypatch.setattr(load_levels.time, "perf_counter", lambda: float(next(ticks)))
    level = load_levels.run_level([lambda inputs: ["image"]], [{"seed": np.array([0])}] * 20, seconds=7.0)
    # begin 0; then each request reads the clock three times: may it begin, its begin, its end.
    assert [answer.latency for answer in level.answers] == [1.0, 1.0]
    assert level.seconds == 8.0
    assert level.latencies_ms == [1000.0] * 3


def test_a_reply_of_another_length_is_a_failure():
    answer = load_levels.ask(lambda inputs: ["image"], {"seed": np.array([1, 2])})
    assert answer.images == [] and answer.error == "asked for 2 images, received 1"


def test_the_worst_difference_is_of_pixels():
    colour, pixels = np.zeros((1, 2, 3), np.uint8), np.full((6, 8, 1), 9, np.uint8)
    other = colour.copy()
    other[0, 1, 2] = 7
    reference = {0: png_of(9), 1: png_of(30), 2: colour}
    cases = [([png_of(9)], 0), ([pixels], 0), ([png_of(9), png_of(26)], 4), ([png_of(9), png_of(30), other], 7)]
    for images, expected in [*cases, ([colour], 256), ([], 0)]:
        answer = load_levels.Answer(list(range(len(images))), 1.0, images)
        assert load_levels.worst_difference([answer], reference) == expected


def test_it_prints_a_table_and_draws_the_curves(tmp_path):
    with rest_endpoint(lambda path, document: (200, predictions(document))) as (port, received):
        done = measure(port, tmp_path, "--concurrency=1,3", "--images=2", "--check", "--signature=png_steps_10")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "signature png_steps_10" in done.stdout and "differ by 0 of 255" in done.stdout
    rows = rows_of(done.stdout)
    assert [row[:3] for row in rows] == [[1, 6, 0], [3, 6, 0]]
    assert all(row[3] > 0 and 0 <= row[4] <= row[5] <= row[6] for row in rows)
    assert len(received) == 1 + 64 // 2 + 2 * 6  # the first, the known images, the two levels
    assert {len(document["instances"]) for _, document in received} == {2}
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.format == "PNG" and len(curves.convert("RGB").getcolors(100_000)) > 10


def test_a_range_of_images_and_a_label_are_asked_for(tmp_path):
    with rest_endpoint(lambda path, document: (200, predictions(document))) as (port, received):
        flags = ["--concurrency=1", "--images=2-4", "--requests=40", "--label=3", "--guidance_scale=1.5", "--out="]
        done = measure(port, tmp_path, *flags)
    assert done.returncode == 0, done
    requests = [document["instances"] for _, document in received[1:]]
    assert {len(rows) for rows in requests} == {2, 3, 4}
    assert {(row["label"], row["guidance_scale"]) for rows in requests for row in rows} == {(3, 1.5)}
    seeds = [row["seed"] for rows in requests for row in rows]
    assert len(set(seeds)) == len(seeds)  # nothing that a cache could answer
    assert not list(tmp_path.iterdir())


def test_requests_that_fail_are_counted_and_the_status_is_1(tmp_path):
    numbers = itertools.count()
    busy = lambda path, document: (503, {"error": "queue full"}) if next(numbers) % 3 == 2 else None
    with rest_endpoint(lambda *request: busy(*request) or (200, predictions(request[1]))) as (port, _):
        done = measure(port, tmp_path, "--concurrency=2")
    assert done.returncode == 1
    assert rows_of(done.stdout)[0][:3] == [2, 6, 2]
    assert done.stderr == "load_test: 2 requests failed, the first: the server answers 503: queue full\n"


def test_images_that_depend_on_their_batch_are_noticed(tmp_path):
    numbers = itertools.count()
    shifting = lambda path, document: (200, predictions(document, shift=3 * (next(numbers) > 20)))
    with rest_endpoint(shifting) as (port, _):
        done = measure(port, tmp_path, "--concurrency=1", "--check")
    assert done.returncode == 1 and "differ by 3 of 255" in done.stdout


def test_a_first_request_that_fails_is_the_end(tmp_path):
    with rest_endpoint(lambda path, document: (404, {"error": "no such model"})) as (port, received):
        assert_one_line(measure(port, tmp_path), "load_test", "404: no such model")
    assert len(received) == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--url=http://192.0.2.1:8501"], "http://192.0.2.1:8501 is not on this machine"),
        (["--url=http://localhost.example.org"], "not on this machine"),
        (["--url=http://127.0.0.1@example.org"], "not on this machine"),
        (["--url=http://["], "not on this machine"),
        (["--grpc=192.0.2.1:8500"], "192.0.2.1:8500 is not on this machine"),
        (["--concurrency="], "--concurrency"),
        (["--concurrency=0"], "from 1 to 256"),
        (["--concurrency=1,257"], "from 1 to 256"),
        (["--concurrency=1,x"], "'x'"),
        ([f"--concurrency={','.join('1' * 17)}"], "1 to 16 numbers"),
        (["--images=0"], "from 1 to 1024"),
        (["--images=1025"], "from 1 to 1024"),
        (["--images=3-"], "--images"),
        (["--images=9-3"], "9-3 is empty"),
        (["--requests=100001"], "--requests"),
        (["--seconds=3601"], "--seconds"),
        (["--out={folder}"], "is a folder"),
        (["--out={folder}/curves.jpg"], "--out must end in .png, .pdf, .svg. Received: "),
        ([f"--label={2**63}"], "--label"),
        (["more"], "unknown arguments: more"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_sent(tmp_path, flags, message):
    with rest_endpoint(lambda path, document: (200, predictions(document))) as (port, received):
        done = measure(port, tmp_path, *[flag.format(folder=tmp_path) for flag in flags])
    assert_one_line(done, "load_test", message)
    assert not received


def test_without_matplotlib_it_says_so_before_it_measures(tmp_path):
    with rest_endpoint(lambda path, document: (200, predictions(document))) as (port, received):
        done = run_without(["matplotlib"], "load_test.py", f"--url=http://127.0.0.1:{port}")
    assert_one_line(done, "load_test", "--out=")
    assert not received


@pytest.mark.parametrize(
    "address, here",
    [
        ("http://localhost:8501", True),
        ("http://127.8.9.1/x", True),
        ("//[::1]:8500", True),
        ("//localhost:8500", True),
        ("http://10.0.0.1", False),
        ("//0.0.0.0:8500", False),
        ("http://example.org#localhost", False),
        ("http:localhost", False),
        ("", False),
    ],
)
def test_what_this_machine_is(address, here):
    assert calls.is_loopback(calls.host_of(address)) == here
