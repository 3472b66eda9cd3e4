"""Measures how many images a second an endpoint makes, and how long requests take, the more of them come at once.

    python export/load_test.py --model digits --images 4 --concurrency 1,2,4,8 --requests 100 --out load_test.png

At each level of concurrency that many requests are under way at any time, up to --requests of them or until --seconds
are over. It prints a table and draws both curves. The status is 1 if requests failed, or with --check if images differ.

It is made to keep a server busy: aim it at your own, on this machine unless --allow_remote says otherwise. What sends
the requests needs a core too; on the server's own machine the figures are those of both.
"""

import os
import random
import sys
from pathlib import Path

from absl import flags
from tqdm import tqdm

from endpoint import connection
from endpoint.calls import host_of, is_loopback
from endpoint.command_line import INT64, ClientError, run
from endpoint.load_levels import PERCENTILES, run_level, worst_difference

_CONCURRENCY = flags.DEFINE_list("concurrency", ["1", "2", "4", "8", "16", "32"], "Requests under way at a time.")
_IMAGES = flags.DEFINE_string("images", "4", "Images a request, a number or a range such as 1-16 to draw from.")
_REQUESTS = flags.DEFINE_integer("requests", 200, "Requests at each level, at most.", 1, 100_000)
_SECONDS = flags.DEFINE_float("seconds", 30.0, "Seconds after which a level begins no more requests.", 0.001, 3600.0)
_LABEL = flags.DEFINE_integer("label", None, "For a conditional model: the label of all images.", 0, INT64[-1])
_CHECK = flags.DEFINE_bool("check", False, "Compare every image with the one that its seed gave before the load.")
_ALLOW_REMOTE = flags.DEFINE_bool("allow_remote", False, "Load a server that is not on this machine.")
_OUT = flags.DEFINE_string("out", "load_test.png", "File for the curves; empty for none.")

_MAX_CONCURRENCY, _MAX_LEVELS, _MAX_IMAGES = 256, 16, 1024
_FIGURES = (".png", ".pdf", ".svg")
_CHECKED_SEEDS = 64
_TOLERANCE = 1  # grey levels: kernels round differently in batches of other sizes


def parse_concurrency(texts: list) -> list:
    """The levels of concurrency."""
    levels = [_parse_number(text, "--concurrency", _MAX_CONCURRENCY) for text in texts]
    if not 1 <= len(levels) <= _MAX_LEVELS:
        raise ClientError(f"--concurrency: give 1 to {_MAX_LEVELS} numbers, like 1,2,4. Received: {len(levels)}")
    return levels


def parse_images(text: str) -> tuple:
    """The least and the most images a request: "4" -> (4, 4), "1-16" -> (1, 16)."""
    first, dash, last = text.partition("-")
    least = _parse_number(first, "--images", _MAX_IMAGES)
    most = _parse_number(last, "--images", _MAX_IMAGES) if dash else least
    if most < least:
        raise ClientError(f"--images: the range {text} is empty")
    return least, most


def _parse_number(text: str, flag: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise ClientError(f"{flag}: expected a number from 1 to {most}. Received: {text!r}")
    return int(text)


def inputs_of(seeds: list) -> dict:
    """A request for these seeds."""
    return connection.inputs_for(seeds, None if _LABEL.value is None else [_LABEL.value] * len(seeds))


def draw_requests(rng: random.Random, least: int, most: int):
    """Yields up to --requests requests."""
    num_seeds = _CHECKED_SEEDS if _CHECK.value else 2**31
    for _ in range(_REQUESTS.value):
        yield inputs_of([rng.randrange(num_seeds) for _ in range(rng.randint(least, most))])


def measure(levels: list, least: int, most: int) -> tuple:
    """Runs the levels one after the other -> (what was measured, the worst difference or None)."""
    clients = [connection.connect() for _ in range(max(levels))]
    clients[0](inputs_of(list(range(most))))  # warms up, and finds the mistakes that all requests would share
    reference = {}
    for start in range(0, _CHECKED_SEEDS if _CHECK.value else 0, most):
        seeds = list(range(start, min(start + most, _CHECKED_SEEDS)))
        reference |= zip(seeds, clients[0](inputs_of(seeds)))
    measured, worst = [], 0 if _CHECK.value else None
    for concurrency in levels:
        requests = draw_requests(random.Random(concurrency), least, most)
        with tqdm(total=_REQUESTS.value, desc=f"{concurrency} at a time", leave=False, disable=None) as bar:
            level = run_level(clients[:concurrency], requests, _SECONDS.value, bar.update)
        if _CHECK.value:
            worst = max(worst, worst_difference(level.answers, reference))
        measured.append(level)
    return measured, worst


def table(measured: list) -> str:
    """The figures as a Markdown table."""
    latencies = " | ".join(f"latency p{percentile} (ms)" for percentile in PERCENTILES)
    lines = [
        f"| requests at a time | requests | failed | images/s | {latencies} |",
        "|---" * (4 + len(PERCENTILES)) + "|",
    ]
    for level in measured:
        cells = [level.concurrency, len(level.answers), len(level.errors), f"{level.images_per_second:.1f}"]
        cells += [f"{latency:.0f}" for latency in level.latencies_ms]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw(measured: list, title: str, path: str) -> None:
    """Draws throughput and latency over concurrency."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    levels = [level.concurrency for level in measured]
    throughput.plot(levels, [level.images_per_second for level in measured], "o-")
    for percentile, values in zip(PERCENTILES, zip(*(level.latencies_ms for level in measured))):
        latency.plot(levels, values, "o-", label=f"p{percentile}")
    latency.legend()
    for axes, name in ((throughput, "images/s"), (latency, "latency (ms)")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(levels, map(str, levels))
        axes.set(xlabel="requests at a time", ylabel=name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path)


def check_before(out: str) -> None:
    """Finds the mistakes that would otherwise show after the measurement."""
    host = host_of(connection.address() if "//" in connection.address() else f"//{connection.address()}")
    if not (is_loopback(host) or _ALLOW_REMOTE.value):
        raise ClientError(f"{connection.address()} is not on this machine: give --allow_remote to load it all the same")
    if not out:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ClientError(f"the curves need matplotlib (--out= draws none): {error}") from error
    if Path(out).is_dir():
        raise ClientError(f"--out: {out} is a folder")
    if Path(out).suffix.lower() not in _FIGURES:
        raise ClientError(f"--out must end in {', '.join(_FIGURES)}. Received: {out}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)


def main() -> int:
    """What the flags ask for."""
    levels, (least, most) = parse_concurrency(_CONCURRENCY.value), parse_images(_IMAGES.value)
    out = os.path.expanduser(_OUT.value)
    check_before(out)
    measured, worst = measure(levels, least, most)
    title = f"{connection.description()}, images a request: {_IMAGES.value}"
    print(f"{title}\n\n{table(measured)}\n")
    if out:
        draw(measured, title, out)
        print(f"curves in {out}")
    if worst is not None:
        print(f"the same seed's images differ by {worst} of 255 grey levels at most")
    if errors := [error for level in measured for error in level.errors]:
        print(f"load_test: {len(errors)} requests failed, the first: {errors[0]}", file=sys.stderr)
    return 1 if errors or (worst or 0) > _TOLERANCE else 0


if __name__ == "__main__":
    run(main, flag_modules=[connection])
