"""The development server's configuration files; the ones that the kit carries keep TF Serving's rules."""

import doctest
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from dev_server import batching, config
from dev_server.errors import ConfigurationError
from tests.support.programs import EXPORT

TF_SERVING = EXPORT / "tf_serving"


def written(tmp_path, text):
    path = tmp_path / "file.config"
    path.write_text(text)
    return path


@pytest.mark.parametrize("module", [config, batching])
def test_docstring_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_the_kits_files_can_be_used():
    assert all(model.base_path.is_absolute() for model in config.read_model_configs(TF_SERVING / "models.config"))
    batching = config.read_batching(TF_SERVING / "batching.config")
    assert batching.allowed_sizes[-1] == batching.execution_size <= batching.max_batch_size
    assert batching.timeout_seconds > 0
    assert config.read_monitoring_path(TF_SERVING / "monitoring.config")


def test_every_part_of_a_model_config(tmp_path):
    text = """
    model_config_list {
      config { name: "one" base_path: "/m/one" model_platform: "tensorflow"
               model_version_policy { latest { num_versions: 2 } } }
      config { name: "two" base_path: "/m/two" model_platform: "tensorflow" model_version_policy { all {} } }
      config { name: "three" base_path: "/m/three" model_platform: "tensorflow"
               model_version_policy { specific { versions: 3 versions: 9 } }
               version_labels { key: "stable" value: 3 } version_labels { key: "next" value: 9 } }
    }"""
    one, two, three = config.read_model_configs(written(tmp_path, text))
    assert [c.name for c in (one, two, three)] == ["one", "two", "three"] and one.base_path == Path("/m/one")
    assert three.labels == {"stable": 3, "next": 9}
    present = [9, 10, 1, 3]
    assert one.wanted(present) == {9, 10} and two.wanted(present) == {1, 3, 9, 10} and three.wanted(present) == {3, 9}
    assert one.wanted([4]) == {4} and three.wanted([1]) == set() and two.wanted([]) == set()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "model_config_list is missing"),
        ("custom_model_config {}", "model_config_list is missing"),
        ("model_config_list {}", "holds no config"),
        ("model_config_list {", "1:19 : "),
        ("models {}", 'no field named "models"'),
        ('model_config_list { config { name: "a" } }', "needs a name and a base_path"),
        ('model_config_list { config { name: "a" base_path: "/a" } }', "model_platform of a"),
        ('model_config_list { config { name: "a" base_path: "/a" model_platform: "pytorch" } }', '"pytorch"'),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" '
            "model_version_policy { specific {} } } }",
            "specific names no versions",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } '
            'config { name: "a" base_path: "/b" model_platform: "tensorflow" } }',
            "'a' is given to several",
        ),
    ],
)
def test_a_mistake_in_a_model_config(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as failure:
        config.read_model_configs(path)
    assert message in str(failure.value) and str(path) in str(failure.value)
    assert len(str(failure.value).splitlines()) == 1


def test_batching_defaults_are_tf_servings(tmp_path):
    assert config.read_batching(written(tmp_path, "")) == config.Batching()
    default = config.Batching()
    assert (default.max_batch_size, default.timeout_seconds, default.max_enqueued_batches) == (1000, 0.0, 10)


def test_large_requests_are_split_only_if_it_says_so(tmp_path):
    sizes = "max_batch_size { value: 64 } max_execution_batch_size { value: 8 }"
    assert config.read_batching(written(tmp_path, sizes)).execution_size == 64
    splitting = config.read_batching(written(tmp_path, sizes + " enable_large_batch_splitting { value: true }"))
    assert (splitting.max_batch_size, splitting.execution_size) == (64, 8)


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_batch_size: 4", "max_batch_size"),
        ("max_batch_size { value: 0 }", "max_batch_size: must be 1 or more. Received: 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros: must be 0 or more"),
        ("num_batch_threads { value: 0 }", "num_batch_threads"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches"),
        (
            "max_batch_size { value: 50 } max_execution_batch_size { value: 8 } max_enqueued_batches { value: 6 } "
            "enable_large_batch_splitting { value: true }",
            "max_enqueued_batches: must be 7 or more, for a request of max_batch_size (50). Received: 6",
        ),
        ("max_batch_size { value: 4 } allowed_batch_sizes: 2", "end with the largest batch (4). Received: [2]"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [3, 2, 4]", "must increase"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [0, 4]", "must increase"),
        ("pad_variable_length_inputs: true", "not supported"),
        (
            "max_batch_size { value: 4 } max_execution_batch_size { value: 5 } "
            "enable_large_batch_splitting { value: true }",
            "max_execution_batch_size: must be max_batch_size (4) or less. Received: 5",
        ),
    ],
)
def test_a_mistake_in_batching_parameters(tmp_path, text, message):
    with pytest.raises(ConfigurationError) as failure:
        config.read_batching(written(tmp_path, text))
    assert message in str(failure.value)


def test_monitoring(tmp_path):
    assert config.read_monitoring_path(written(tmp_path, "")) is None
    assert config.read_monitoring_path(written(tmp_path, "prometheus_config { enable: false }")) is None
    enabled = "prometheus_config { enable: true }"
    assert config.read_monitoring_path(written(tmp_path, enabled)) == "/monitoring/prometheus/metrics"
    with pytest.raises(ConfigurationError, match='must begin with "/"'):
        config.read_monitoring_path(written(tmp_path, 'prometheus_config { enable: true path: "metrics" }'))


@pytest.mark.parametrize("read", ["read_model_configs", "read_batching", "read_monitoring_path"])
def test_a_file_that_cannot_be_read(tmp_path, read):
    for path in (tmp_path / "none.config", tmp_path):
        with pytest.raises(ConfigurationError, match=f"cannot read {path}"):
            getattr(config, read)(path)
    path = tmp_path / "bytes.config"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not a text file"):
        getattr(config, read)(path)


def test_the_configs_of_a_message_name_their_source():
    message = text_format.Parse("model_config_list {}", model_server_config_pb2.ModelServerConfig())
    with pytest.raises(ConfigurationError, match="the request: "):
        config.model_configs(message, "the request")
