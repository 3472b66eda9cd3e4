"""The development server's figures, in Prometheus' text format."""

import re

import pytest

from dev_server import metrics as prometheus

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


def test_a_request_is_counted_and_timed_in_tf_servings_buckets():
    metrics = prometheus.ServerMetrics()
    for micros in (9, 10, 31, 5000):
        metrics.record_request("digits", "Predict", "GRPC", "OK", micros / 1e6)
    metrics.record_request("digits", "Predict", "GRPC", "INVALID_ARGUMENT", 1.0)
    samples = parsed(metrics.text())
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
    assert samples[count, 'model_name="digits",status="OK"'] == 4
    assert samples[count, 'model_name="digits",status="INVALID_ARGUMENT"'] == 1
    labels = 'model_name="digits",API="Predict",entrypoint="GRPC"'
    buckets = {k[1].split("le=")[1].strip('"'): v for k, v in samples.items() if k[0] == f"{latency}_bucket"}
    assert list(buckets)[:4] == ["10", "18", "32.4", "58.32"] and len(buckets) == 34
    assert [buckets[le] for le in ("10", "18", "32.4", "+Inf")] == [2, 2, 3, 4]
    assert samples[f"{latency}_count", labels] == 4
    assert samples[f"{latency}_sum", labels] == pytest.approx(5050)


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
    parser = pytest.importorskip("prometheus_client.parser")
    metrics = prometheus.ServerMetrics()
    metrics.record_request('d"i\\g', "predict", "REST", "OK", 0.5)
    metrics.queuing_latency.observe(3.0, "pool")
    metrics.wrapped_run_count.add()
    families = {family.name: family for family in parser.text_string_to_metric_families(metrics.text())}
    assert families[":tensorflow:serving:request_count"].samples[0].labels == {"model_name": 'd"i\\g', "status": "OK"}
    assert families[":tensorflow:serving:request_latency"].type == "histogram"
