"""A closed loop of requests at one level of concurrency: who sends when, and what is measured of it."""

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .calls import Image, Inputs
from .command_line import ClientError
from .image_grid import decode

PERCENTILES = (50, 90, 99)
Call = Callable[[Inputs], list[Image]]


@dataclass(frozen=True)
class Answer:
    """What came of one request: images, or the reason why not; the latency in seconds."""

    seeds: list[int]
    latency: float
    images: list[Image]
    error: str | None = None


@dataclass(frozen=True)
class Level:
    """What was measured with so many requests under way at a time, in the `seconds` until the last was answered."""

    concurrency: int
    seconds: float
    answers: list[Answer]

    @property
    def errors(self) -> list[str]:
        """The reasons of the requests that failed."""
        return [answer.error for answer in self.answers if answer.error is not None]

    @property
    def images_per_second(self) -> float:
        """Images that arrived, of the requests that did not fail."""
        return sum(len(answer.images) for answer in self.answers) / self.seconds

    @property
    def latencies_ms(self) -> list[float]:
        """The latency in ms at `PERCENTILES`, of the requests that did not fail; NaN if there is none."""
        return percentiles([1000 * answer.latency for answer in self.answers if answer.error is None])


def percentiles(values: list[float]) -> list[float]:
    """The values at `PERCENTILES`, linear between two of them."""
    if len(values) < 2:
        return (values or [math.nan]) * len(PERCENTILES)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return [cuts[percentile - 1] for percentile in PERCENTILES]


def run_level(
    clients: list[Call], requests: Iterable[Inputs], seconds: float, progress: Callable[[], object] = lambda: None
) -> Level:
    """Lets each client, in a thread of its own, send the next request as soon as its last one is answered.

    Args:
        clients: callables, inputs -> images. As many requests are under way as there are clients.
        requests: an iterable of inputs; it ends the level, or
        seconds: after which no request is begun. Those under way are waited for.
        progress: called after each request.
    """
    requests, answers, lock = iter(requests), [], threading.Lock()
    begin = time.perf_counter()

    def send_requests(call):
        while time.perf_counter() - begin < seconds:
            with lock:
                inputs = next(requests, None)
            if inputs is None:
                return
            answer = ask(call, inputs)
            with lock:
                answers.append(answer)
                progress()

    # Daemons: Ctrl-C does not wait for their requests.
    threads = [threading.Thread(target=send_requests, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Level(len(clients), time.perf_counter() - begin, answers)


def ask(call: Call, inputs: Inputs) -> Answer:
    """One request, timed."""
    seeds, begin = inputs["seed"].tolist(), time.perf_counter()
    try:
        images, error = call(inputs), None
    except ClientError as failure:
        images, error = [], str(failure)
    latency = time.perf_counter() - begin
    if error is None and len(images) != len(seeds):
        images, error = [], f"asked for {len(seeds)} images, received {len(images)}"
    return Answer(seeds, latency, images, error)


def worst_difference(answers: list[Answer], reference: dict[int, bytes | np.ndarray]) -> int:
    """The largest difference in grey levels between an image and `reference[its seed]`; 256 for another size."""
    known = {seed: _pixels(image) for seed, image in reference.items()}
    pairs = ((seed, image) for answer in answers for seed, image in zip(answer.seeds, answer.images))
    return max((_difference(_pixels(image), known[seed]) for seed, image in pairs), default=0)


def _pixels(image: bytes | np.ndarray) -> np.ndarray:
    return np.asarray(decode(image), int)


def _difference(received: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(received - expected).max()) if received.shape == expected.shape else 256
