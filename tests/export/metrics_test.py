"""The development server's figures, in Prometheus' text format."""

import asyncio
import re

import pytest
from prometheus_client import parser

from dev_server import metrics as prometheus
from dev_server.errors import ServingError

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})\{{((?:{LABEL})?(?:,{LABEL})*)\}} ([0-9.e+-]+)")


def parsed(text):
    """Every line by the format's grammar -> {(name, labels): value}."""
    assert text.endswith("\n")
    types, samples = {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            _, keyword, name, kind = line.split()
            assert keyword == "TYPE" and name not in types and kind in ("counter", "histogram")
            types[name] = kind
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert re.sub("_(bucket|sum|count)$", "", match[1]) in types or match[1] in types, line
        assert (match[1], match[2]) not in samples, line
        samples[match[1], match[2]] = float(match[3])
    return samples


class Clock:
    """The time, as metrics reads it, that goes on when it is told to."""

    now = 0.0

    def perf_counter(self):
        return self.now


def answer(metrics, clock, micros, error=None, known=True):
    with metrics.request("digits", "Predict", "GRPC", known):
        clock.now += micros / 1e6
        if error:
            raise error


def test_a_request_is_counted_and_timed_in_tf_servings_buckets(monkeypatch):
    metrics, clock = prometheus.ServerMetrics(), Clock()
    monkeypatch.setattr(prometheus, "time", clock)
    for micros in (9, 9.9, 31, 5000):
        answer(metrics, clock, micros)
    answer(metrics, clock, 8, known=False)
    errors = {"INVALID_ARGUMENT": ServingError("INVALID_ARGUMENT", "no"), "CANCELLED": asyncio.CancelledError()}
    errors["INTERNAL"] = KeyError("key")
    for error in errors.values():
        with pytest.raises(type(error)):
            answer(metrics, clock, 1e6, error)
    samples = parsed(metrics.text())
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
    assert samples[count, 'model_name="digits",status="OK"'] == 4
    for code in errors:
        assert samples[count, f'model_name="digits",status="{code}"'] == 1
    labels = 'model_name="digits",API="Predict",entrypoint="GRPC"'
    buckets = {k[1].split("le=")[1].strip('"'): v for k, v in samples.items() if k[0] == f"{latency}_bucket"}
    assert list(buckets)[:4] == ["10", "18", "32.4", "58.32"] and len(buckets) == 34
    assert [buckets[le] for le in ("10", "18", "32.4", "+Inf")] == [2, 2, 3, 4]
    assert samples[f"{latency}_count", labels] == 4
    assert samples[f"{latency}_sum", labels] == pytest.approx(5049.9)


def test_a_histograms_buckets_hold_their_limits_and_grow():
    histogram = prometheus.Histogram("sizes", limits=[1, 2, 4])
    for value in (1, 2, 3, 4, 5, 100):
        histogram.observe(value)
    assert list(histogram.lines()) == [
        ':tensorflow:serving:sizes_bucket{le="1"} 1',
        ':tensorflow:serving:sizes_bucket{le="2"} 2',
        ':tensorflow:serving:sizes_bucket{le="4"} 4',
        ':tensorflow:serving:sizes_bucket{le="+Inf"} 6',
        ":tensorflow:serving:sizes_sum{} 115",
        ":tensorflow:serving:sizes_count{} 6",
    ]


def test_names_that_clients_choose_cannot_break_the_page():
    metrics = prometheus.ServerMetrics()
    metrics.request_count.add('a"} 1\n# \\', "OK")
    (((name, labels), value),) = parsed(metrics.text()).items()
    assert (name, value) == (":tensorflow:serving:request_count", 1)
    assert labels == r'model_name="a\"} 1\n# \\",status="OK"'


def test_prometheus_own_parser_reads_the_page():
    metrics = prometheus.ServerMetrics()
    with metrics.request('d"i\\g', "predict", "REST", known=True):
        pass
    metrics.queuing_latency.observe(3.0, "pool")
    metrics.wrapped_run_count.add()
    families = {family.name: family for family in parser.text_string_to_metric_families(metrics.text())}
    assert families[":tensorflow:serving:request_count"].samples[0].labels == {"model_name": 'd"i\\g', "status": "OK"}
    assert families[":tensorflow:serving:request_latency"].type == "histogram"
