"""The development server's configuration files, in TF Serving's text formats, as plain data. No TensorFlow here.

What cannot be used raises ConfigurationError with the file, the key, the value and what is allowed.
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from .config_protos import BatchingParameters, MonitoringConfig
from .errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One model: where its versions are and which of them are to be served.

    Args:
        name: the name clients ask for.
        base_path: the folder with a folder for each version.
        policy: "latest" (the `num_versions` highest), "all" or "specific" (those of `versions`).
        labels: names for version numbers.
    """

    name: str
    base_path: Path
    policy: str = "latest"
    num_versions: int = 1
    versions: tuple = ()
    labels: dict = dataclasses.field(default_factory=dict)

    def wanted(self, present: Iterable[int]) -> set[int]:
        """Those of the versions present that are to be served.

        >>> sorted(ModelConfig("digits", Path("served"), num_versions=2).wanted([3, 1, 10]))
        [3, 10]
        """
        if self.policy == "specific":
            return set(present) & set(self.versions)
        return set(present) if self.policy == "all" else set(sorted(present)[-self.num_versions :])


@dataclasses.dataclass(frozen=True)
class Batching:
    """How requests are joined; the defaults are TF Serving's.

    Args:
        max_batch_size: the largest request, in rows.
        execution_size: the most rows that run at once; below `max_batch_size` only if large requests may be split.
        timeout_seconds: how long the first request of a batch waits for others.
        max_enqueued_batches: the most batches that wait, for each signature of each version.
        num_threads: batches that run at the same time.
        allowed_sizes: sizes to which a batch is padded; none for no padding.
        thread_pool_name: a label of the queue's figures.
    """

    max_batch_size: int = 1000
    execution_size: int = 1000
    timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    num_threads: int = os.cpu_count() or 1
    allowed_sizes: tuple = ()
    thread_pool_name: str = "model_server_batch_threads"


@dataclasses.dataclass(frozen=True)
class RestOptions:
    """How REST requests are answered.

    Args:
        monitoring_path: where the figures are shown; None shows none.
        timeout_seconds: how long the run of a request may take; None is without end.
        enable_cors: whether pages of any origin may read the answers.
    """

    monitoring_path: str | None = None
    timeout_seconds: float | None = None
    enable_cors: bool = False


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """What a server is started with.

    Args:
        models: what is served.
        grpc_port, rest_port: on the loopback interface; 0 leaves one side out.
        rest: how REST requests are answered.
        batching: how requests are joined; None runs each by itself.
        labels_may_wait: whether a new label may name a version that is not loaded.
        file_system_poll_seconds: how often the folders are looked at for new versions; 0 for never.
        model_config_file: read again every `model_config_poll_seconds`, never if they are 0.
    """

    models: list[ModelConfig]
    grpc_port: int
    rest_port: int
    rest: RestOptions
    batching: Batching | None
    labels_may_wait: bool
    file_system_poll_seconds: float
    model_config_file: Path | None
    model_config_poll_seconds: float


def read_model_configs(path: Path | str) -> list[ModelConfig]:
    """A file with a tensorflow.serving.ModelServerConfig -> a list of `ModelConfig`."""
    return model_configs(_parse(path, model_server_config_pb2.ModelServerConfig()), str(path))


def model_configs(message: Message, source: str) -> list[ModelConfig]:
    """A tensorflow.serving.ModelServerConfig -> a list of `ModelConfig`."""
    if message.WhichOneof("config") != "model_config_list":
        raise ConfigurationError(f"{source}: model_config_list is missing; nothing else is served")
    configs = [_model_config(entry, source) for entry in message.model_config_list.config]
    names = [config.name for config in configs]
    if not names:
        raise ConfigurationError(f"{source}: model_config_list holds no config")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"{source}: name: {repeated[0]!r} is given to several models")
    return configs


def _model_config(entry, source: str) -> ModelConfig:
    if not entry.name or not entry.base_path:
        raise ConfigurationError(f"{source}: a config needs a name and a base_path. Received: {_one_line(entry)}")
    if entry.model_platform != "tensorflow":
        raise ConfigurationError(
            f'{source}: model_platform of {entry.name}: must be "tensorflow". Received: "{entry.model_platform}"'
        )
    policy = entry.model_version_policy.WhichOneof("policy_choice") or "latest"
    versions = tuple(entry.model_version_policy.specific.versions)
    if policy == "specific" and not versions:
        raise ConfigurationError(f"{source}: model_version_policy of {entry.name}: specific names no versions")
    return ModelConfig(
        entry.name,
        Path(entry.base_path),
        policy,
        entry.model_version_policy.latest.num_versions or 1,
        versions,
        dict(entry.version_labels),
    )


def read_batching(path: Path | str) -> Batching:
    """A file with a tensorflow.serving.BatchingParameters -> `Batching`."""
    message = _parse(path, BatchingParameters())

    def number(key, default, least=1):
        value = getattr(message, key).value if message.HasField(key) else default
        if value < least:
            raise ConfigurationError(f"{path}: {key}: must be {least} or more. Received: {value}")
        return value

    if message.pad_variable_length_inputs:
        raise ConfigurationError(f"{path}: pad_variable_length_inputs: true is not supported by this server")
    largest = number("max_batch_size", Batching.max_batch_size)
    splits = message.enable_large_batch_splitting.value
    execution = number("max_execution_batch_size", largest) if splits else largest
    if execution > largest:
        message = f"must be max_batch_size ({largest}) or less. Received: {execution}"
        raise ConfigurationError(f"{path}: max_execution_batch_size: {message}")
    enqueued = number("max_enqueued_batches", Batching.max_enqueued_batches)
    if execution * enqueued < largest:
        limit = f"must be {-(-largest // execution)} or more, for a request of max_batch_size ({largest})"
        raise ConfigurationError(f"{path}: max_enqueued_batches: {limit}. Received: {enqueued}")
    sizes = tuple(message.allowed_batch_sizes)
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != execution):
        raise ConfigurationError(
            f"{path}: allowed_batch_sizes: must increase and end with the largest batch ({execution}). "
            f"Received: {list(sizes)}"
        )
    return Batching(
        largest,
        execution,
        number("batch_timeout_micros", 0, least=0) / 1e6,
        enqueued,
        number("num_batch_threads", Batching.num_threads),
        sizes,
        message.thread_pool_name.value or Batching.thread_pool_name,
    )


def read_monitoring_path(path: Path | str) -> str | None:
    """A file with a tensorflow.serving.MonitoringConfig -> the URL path of the figures, or None if they are off."""
    config = _parse(path, MonitoringConfig()).prometheus_config
    url_path = config.path or "/monitoring/prometheus/metrics"
    if not url_path.startswith("/"):
        raise ConfigurationError(f'{path}: path: must begin with "/". Received: "{url_path}"')
    return url_path if config.enable else None


def _parse(path: Path | str, message: Message) -> Message:
    try:
        return text_format.Parse(Path(path).read_text(), message)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigurationError(f"cannot read {path}: {reason}") from error
    except text_format.ParseError as error:
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error


def _one_line(message) -> str:
    return text_format.MessageToString(message, as_one_line=True) or "an empty one"
