"""The server's figures in Prometheus' text format, under the names and with the buckets of TF Serving.

prometheus_client is not used: it adds `_total` to a counter's name and series of its own, and TF Serving has neither.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import bisect
import threading

_PREFIX = ":tensorflow:serving:"


class Counter:
    """A number for each combination of label values, which only grows."""

    kind = "counter"

    def __init__(self, name: str, *labels: str):
        self.name, self._labels = _PREFIX + name, labels
        self._lock, self._values = threading.Lock(), {}

    def add(self, *label_values: str) -> None:
        """Counts one."""
        with self._lock:
            self._values[label_values] = self._values.get(label_values, 0) + 1

    def lines(self):
        """The samples' lines."""
        with self._lock:
            values = dict(self._values)
        for label_values, value in sorted(values.items()):
            yield f"{self.name}{_braces(self._labels, label_values)} {value}"


class Histogram:
    """How many values were at most as large as each bucket's limit, and their sum.

    Args:
        name: after the prefix.
        labels: the labels' names.
        limits: the buckets' upper limits, increasing, without infinity.
    """

    kind = "histogram"

    def __init__(self, name: str, *labels: str, limits):
        self.name, self._labels, self._limits = _PREFIX + name, labels, list(limits)
        self._lock, self._cells = threading.Lock(), {}

    def observe(self, value: float, *label_values: str) -> None:
        """Counts a value."""
        with self._lock:
            counts, total = self._cells.setdefault(label_values, ([0] * (len(self._limits) + 1), [0.0]))
            counts[bisect.bisect_left(self._limits, value)] += 1
            total[0] += value

    def lines(self):
        """The samples' lines."""
        with self._lock:
            cells = {key: (list(counts), total[0]) for key, (counts, total) in self._cells.items()}
        names = [f"{limit:g}" for limit in self._limits] + ["+Inf"]
        for label_values, (counts, total) in sorted(cells.items()):
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

    def record_request(self, model_name: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        """Counts a request that was answered; its time only if it was answered well."""
        self.request_count.add(model_name, code)
        if code == "OK":
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
