"""A development server that speaks TF Serving's own protocol. It is NOT TF Serving.

It answers by gRPC and REST as tensorflow_model_server does, with several models and versions, version labels, new
versions taken up while it runs, batching and figures for Prometheus, so that clients and configuration files can be
tried where no TF Serving is at hand. It runs the models in Python and on the loopback interface only: serve for others
with TF Serving itself.

    python export/local_server.py --model_name digits --model_base_path served/digits
"""

import asyncio
import os
from pathlib import Path

from absl import flags

from dev_server.checks import check_folder, check_labels, check_ports
from dev_server.config import (
    Batching,
    ModelConfig,
    RestOptions,
    ServerConfig,
    read_batching,
    read_model_configs,
    read_monitoring_path,
)
from dev_server.errors import ConfigurationError
from dev_server.model_store import ModelStore
from endpoint.command_line import run
from endpoint.silence import silent_stderr

_PORT = flags.DEFINE_integer("port", 8500, "Port for gRPC; 0 for none.", 0, 65535)
_REST_API_PORT = flags.DEFINE_integer("rest_api_port", 8501, "Port for REST; 0 for none.", 0, 65535)
_REST_API_TIMEOUT = flags.DEFINE_integer(
    "rest_api_timeout_in_ms", 30_000, "Milliseconds that the run of a REST request may take; 0 for any time.", 0
)
_REST_API_CORS = flags.DEFINE_bool(
    "rest_api_enable_cors_support", False, "Whether web pages of any origin may read what REST answers."
)
_MODEL_NAME = flags.DEFINE_string("model_name", "default", "The name clients ask for.")
_MODEL_BASE_PATH = flags.DEFINE_string(
    "model_base_path", None, "Folder with a folder for each version; the newest is served."
)
_MODEL_CONFIG_FILE = flags.DEFINE_string(
    "model_config_file", None, "Several models: a tensorflow.serving.ModelServerConfig; instead of the two flags above."
)
_MODEL_CONFIG_POLL = flags.DEFINE_float(
    "model_config_file_poll_wait_seconds", 0, "How often that file is read again; 0 for never.", 0
)
_FILE_SYSTEM_POLL = flags.DEFINE_float(
    "file_system_poll_wait_seconds", 1, "How often the folders are looked at for new versions; 0 for never.", 0
)
_LABELS_MAY_WAIT = flags.DEFINE_bool(
    "allow_version_labels_for_unavailable_models", False, "Whether a new label may name a version that is not loaded."
)
_ENABLE_BATCHING = flags.DEFINE_bool("enable_batching", False, "Whether requests that come together run together.")
_BATCHING_FILE = flags.DEFINE_string(
    "batching_parameters_file", None, "A tensorflow.serving.BatchingParameters; TF Serving's defaults without it."
)
_MONITORING_FILE = flags.DEFINE_string(
    "monitoring_config_file", None, "A tensorflow.serving.MonitoringConfig: figures for Prometheus on the REST port."
)


def configured_models() -> list[ModelConfig]:
    """The models of the flags or of the file they name, each with a folder that holds a version."""
    if _MODEL_CONFIG_FILE.value:
        configs = read_model_configs(_MODEL_CONFIG_FILE.value)
    elif _MODEL_BASE_PATH.value:
        configs = [ModelConfig(_MODEL_NAME.value, Path(os.path.expanduser(_MODEL_BASE_PATH.value)))]
    else:
        raise ConfigurationError("--model_base_path is required (or --model_config_file)")
    for config in configs:
        check_folder(config)
    if not _LABELS_MAY_WAIT.value:
        check_labels(configs)
    return configs


def configured_batching() -> Batching | None:
    """How requests are joined, or None if each runs by itself."""
    if _BATCHING_FILE.value and not _ENABLE_BATCHING.value:
        raise ConfigurationError("--batching_parameters_file is given without --enable_batching")
    if not _ENABLE_BATCHING.value:
        return None
    return read_batching(_BATCHING_FILE.value) if _BATCHING_FILE.value else Batching()


def configured_server() -> ServerConfig:
    """What the flags and the files that they name ask for."""
    batching = configured_batching()
    monitoring_path = read_monitoring_path(_MONITORING_FILE.value) if _MONITORING_FILE.value else None
    check_ports(_PORT.value, _REST_API_PORT.value)
    return ServerConfig(
        models=configured_models(),
        grpc_port=_PORT.value,
        rest_port=_REST_API_PORT.value,
        rest=RestOptions(monitoring_path, _REST_API_TIMEOUT.value / 1000 or None, _REST_API_CORS.value),
        batching=batching,
        labels_may_wait=_LABELS_MAY_WAIT.value,
        file_system_poll_seconds=_FILE_SYSTEM_POLL.value,
        model_config_file=Path(_MODEL_CONFIG_FILE.value) if _MODEL_CONFIG_FILE.value else None,
        model_config_poll_seconds=_MODEL_CONFIG_POLL.value,
    )


def main() -> None:
    """Starts the server that the flags ask for, and prints a line when it is ready."""
    config = configured_server()

    def announce(models: ModelStore) -> None:
        served = [f"{m.name} version {' and '.join(map(str, models.available(m.name)))}" for m in config.models]
        endpoints = [f"gRPC on localhost:{config.grpc_port}"] if config.grpc_port else []
        endpoints += [f"REST on http://localhost:{config.rest_port}"] if config.rest_port else []
        print(f"ready: {', '.join(served)}, {' and '.join(endpoints)} (not TF Serving)", flush=True)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As compose.yaml does.
    with silent_stderr():
        from dev_server.server import serve  # TensorFlow: seconds that a mistake in a flag need not cost
    asyncio.run(serve(config, announce))


if __name__ == "__main__":
    run(main, mistakes=(ConfigurationError,))
