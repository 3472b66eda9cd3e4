"""The server's figures in Prometheus' text format, under the names and with the buckets of TF Serving.

prometheus_client is not used: it adds `_total` to a counter's name and series of its own, and TF Serving has neither.
All of it is used in the event loop only, so nothing is locked.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import asyncio
import bisect
import contextlib
import time
from collections.abc import Iterator

from .errors import ServingError

_PREFIX = ":tensorflow:serving:"


class Counter:
    """A number for each combination of label values, which only grows."""

    kind = "counter"

    def __init__(self, name: str, *labels: str):
        self.name, self._labels, self._values = _PREFIX + name, labels, {}

    def add(self, *label_values: str) -> None:
        """Counts one."""
        self._values[label_values] = self._values.get(label_values, 0) + 1

    def lines(self) -> Iterator[str]:
        """The samples' lines."""
        for label_values, value in sorted(self._values.items()):
            yield f"{self.name}{_braces(self._labels, label_values)} {value}"


class Histogram:
    """How many values were at most as large as each bucket's limit, and their sum.

    Args:
        name: after the prefix.
        labels: the labels' names.
        limits: the buckets' upper limits, increasing, without infinity.
    """

    kind = "histogram"

    def __init__(self, name: str, *labels: str, limits: list[float]):
        self.name, self._labels, self._limits = _PREFIX + name, labels, limits
        self._cells = {}  # label values -> (a count for each bucket, [the sum])

    def observe(self, value: float, *label_values: str) -> None:
        """Counts a value."""
        counts, total = self._cells.setdefault(label_values, ([0] * (len(self._limits) + 1), [0.0]))
        counts[bisect.bisect_left(self._limits, value)] += 1
        total[0] += value

    def lines(self) -> Iterator[str]:
        """The samples' lines."""
        names = [f"{limit:g}" for limit in self._limits] + ["+Inf"]
        for label_values, (counts, (total,)) in sorted(self._cells.items()):
            cumulative = 0
            for name, count in zip(names, counts):
                cumulative += count
                yield f"{self.name}_bucket{_braces((*self._labels, 'le'), (*label_values, name))} {cumulative}"
            yield f"{self.name}_sum{_braces(self._labels, label_values)} {total:.12g}"
            yield f"{self.name}_count{_braces(self._labels, label_values)} {cumulative}"


class ServerMetrics:
    """The figures of one server. Times are in microseconds."""

    def __init__(self):
        times, sizes = _exponential(10, 1.8, 33), _exponential(1, 2, 14)
        self.request_count = Counter("request_count", "model_name", "status")
        self.request_latency = Histogram("request_latency", "model_name", "API", "entrypoint", limits=times)
        self.runtime_latency = Histogram("runtime_latency", "model_name", "API", "runtime", limits=times)
        self.queuing_latency = Histogram(
            "batching_session:queuing_latency", "thread_pool_name", limits=_exponential(100, 1.2, 52)
        )
        self.wrapped_run_count = Counter("batching_session:wrapped_run_count")
        self.input_batch_size = Histogram("batching_session:input_batch_size", limits=sizes)
        self.processed_batch_size = Histogram("batching_session:processed_batch_size", limits=sizes)
        self.padding_size = Histogram("batching_session:padding_size", "execution_batch_size", limits=sizes)

    @contextlib.contextmanager
    def request(self, model_name: str, api: str, entrypoint: str, known: bool) -> Iterator[None]:
        """Counts what happens within as a request, with its status, and its time if it is answered well.

        A model that is not known is not counted: clients invent any number of names.
        """
        started, code = time.perf_counter(), "INTERNAL"
        try:
            yield
            code = "OK"
        except ServingError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            if known:
                self.request_count.add(model_name, code)
            if known and code == "OK":
                seconds = time.perf_counter() - started
                self.request_latency.observe(seconds * 1e6, model_name, api, entrypoint)

    def text(self) -> str:
        """The whole page."""
        lines = []
        for metric in vars(self).values():
            lines += [f"# TYPE {metric.name} {metric.kind}", *metric.lines()]
        return "\n".join(lines) + "\n"


def _exponential(first: float, factor: float, count: int) -> list:
    return [first * factor**power for power in range(count)]


def _braces(names, values) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
