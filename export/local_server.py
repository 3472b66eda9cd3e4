"""A development server that speaks TF Serving's own protocol. It is NOT TF Serving.

It answers by gRPC and REST as tensorflow_model_server does, with several models and versions, version labels, new
versions taken up while it runs, batching and figures for Prometheus, so that clients and configuration files can be
tried where no TF Serving is at hand. It runs the models in Python and on the loopback interface only: serve for others
with TF Serving itself.

    python export/local_server.py --model_name digits --model_base_path served/digits
"""

import functools
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from absl import app, flags

from dev_server.batching import BatchScheduler
from dev_server.config import Batching, ModelConfig, read_batching, read_model_configs, read_monitoring_path
from dev_server.errors import ConfigurationError, ServingError
from dev_server.metrics import ServerMetrics
from dev_server.model_store import ModelSpec, ModelStore, versions_on_disk
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
_GRACE_SECONDS = 30.0


def configured_models() -> list:
    """The models of the flags or of the file they name, each with a folder that holds a version."""
    if _MODEL_CONFIG_FILE.value:
        configs = read_model_configs(_MODEL_CONFIG_FILE.value)
    elif _MODEL_BASE_PATH.value:
        configs = [ModelConfig(_MODEL_NAME.value, Path(_MODEL_BASE_PATH.value))]
    else:
        raise ConfigurationError("--model_base_path is required (or --model_config_file)")
    for config in configs:
        check_folder(config)
    return configs


def check_folder(config: ModelConfig) -> None:
    """Finds what is missing before TensorFlow is loaded, which takes seconds."""
    where = f"base path of model {config.name}"
    present = versions_on_disk(config.base_path)
    if present is None:
        raise ConfigurationError(f"{where}: no folder {config.base_path}")
    if not present:
        raise ConfigurationError(f"{where}: {config.base_path} holds no version (a folder named by an integer, like 1)")
    wanted = config.wanted(present)
    if not wanted:
        raise ConfigurationError(
            f"{where}: {config.base_path} holds none of the versions {list(config.versions)}, but {sorted(present)}"
        )
    newest = present[max(wanted)]
    if not (newest / "saved_model.pb").is_file():
        raise ConfigurationError(f"{newest} holds no saved_model.pb")


def configured_batching() -> Batching | None:
    """How requests are joined, or None if each runs by itself."""
    if _BATCHING_FILE.value and not _ENABLE_BATCHING.value:
        raise ConfigurationError("--batching_parameters_file is given without --enable_batching")
    if not _ENABLE_BATCHING.value:
        return None
    return read_batching(_BATCHING_FILE.value) if _BATCHING_FILE.value else Batching()


def check_ports(*ports: int) -> None:
    """Refuses a port that is taken before the models are loaded, which can take a while."""
    wanted = [port for port in ports if port]
    if not wanted:
        raise ConfigurationError("--port and --rest_api_port are both 0: nothing to serve")
    if len(set(wanted)) < len(wanted):
        raise ConfigurationError(f"--port and --rest_api_port must differ. Received: {wanted[0]} for both")
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ConfigurationError(f"port {port} cannot be used: {error.strerror}") from error


def _load(name: str, version: int, path: Path, metrics: ServerMetrics, scheduler: BatchScheduler | None):
    from dev_server.served_model import load  # TensorFlow: seconds that a mistake in a flag need not cost

    return load(name, version, path, metrics, scheduler)


def load_models(configs: list, batching: Batching | None, metrics: ServerMetrics) -> ModelStore:
    """Loads the versions to be served; of each model one must load."""
    scheduler = BatchScheduler(batching, metrics) if batching else None
    models = ModelStore(functools.partial(_load, metrics=metrics, scheduler=scheduler), _LABELS_MAY_WAIT.value)
    try:
        models.configure(configs)
    except ServingError as error:
        raise ConfigurationError(
            f"{error}. At the start no version is: --allow_version_labels_for_unavailable_models"
        ) from error
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As compose.yaml does.
    with silent_stderr():
        from dev_server import served_model  # noqa: F401
    models.update()
    for config in configs:
        if not models.available(config.name):
            number, _, error = models.statuses(ModelSpec(config.name))[0]
            raise ConfigurationError(f"cannot load {config.base_path / str(number)}: {error}")
    return models


class Repeating(threading.Thread):
    """Calls a function every so many seconds, never if they are 0, until it is stopped."""

    def __init__(self, action, seconds: float):
        super().__init__(daemon=True)
        self._action, self._seconds, self._stopping = action, seconds, threading.Event()

    def run(self):
        """The thread's work."""
        reported = None
        while self._seconds and not self._stopping.wait(self._seconds):
            try:
                self._action()
                reported = None
            except Exception as error:  # the next time may be better
                if repr(error) != reported:
                    print(f"local_server: {error or type(error).__name__}", file=sys.stderr, flush=True)
                reported = repr(error)

    def stop(self, grace_seconds: float):
        """Waits for a call that runs."""
        self._stopping.set()
        self.join(grace_seconds)


class ConfigFile:
    """The model config file, read again when its text has changed."""

    def __init__(self, models: ModelStore, path: str):
        self._models, self._path = models, Path(path)
        self._text = self._path.read_bytes()

    def reread(self) -> None:
        """Serves what the file says now; a mistake in it is reported once and changes nothing."""
        text = self._path.read_bytes()
        if text != self._text:
            self._text = text
            self._models.configure(read_model_configs(self._path))
            self._models.update()


def serve(models: ModelStore, metrics: ServerMetrics, monitoring_path: str | None, ready_message: str) -> None:
    """Serves until SIGTERM or SIGINT; the requests that run then are answered."""
    from dev_server.grpc_services import start_grpc_server
    from dev_server.rest import RestOptions, RestServer

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        rest_server = None
        if _REST_API_PORT.value:
            options = RestOptions(monitoring_path, _REST_API_TIMEOUT.value / 1000 or None, _REST_API_CORS.value)
            rest_server = RestServer(models, metrics, _REST_API_PORT.value, options)
        grpc_server = start_grpc_server(models, metrics, _PORT.value) if _PORT.value else None
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"cannot listen: {error}") from error
    watchers = [Repeating(models.update, _FILE_SYSTEM_POLL.value)]
    if _MODEL_CONFIG_FILE.value:
        file = ConfigFile(models, _MODEL_CONFIG_FILE.value)
        watchers.append(Repeating(file.reread, _MODEL_CONFIG_POLL.value))
    for thread in [*watchers, *filter(None, [rest_server])]:
        thread.start()
    print(ready_message, flush=True)
    stopping.wait()
    grpc_stopped = grpc_server.stop(_GRACE_SECONDS) if grpc_server else None
    if rest_server:
        rest_server.stop(_GRACE_SECONDS)
    if grpc_stopped:
        grpc_stopped.wait()
    for watcher in watchers:
        watcher.stop(_GRACE_SECONDS)


def main(argv) -> None:
    """The command line."""
    try:
        if len(argv) > 1:
            raise ConfigurationError(f"unknown arguments: {' '.join(argv[1:])}")
        batching = configured_batching()
        monitoring_path = read_monitoring_path(_MONITORING_FILE.value) if _MONITORING_FILE.value else None
        check_ports(_PORT.value, _REST_API_PORT.value)
        configs = configured_models()
        metrics = ServerMetrics()
        models = load_models(configs, batching, metrics)
        versions = [f"{c.name} version {' and '.join(map(str, models.available(c.name)))}" for c in configs]
        endpoints = [f"gRPC on localhost:{_PORT.value}"] if _PORT.value else []
        endpoints += [f"REST on http://localhost:{_REST_API_PORT.value}"] if _REST_API_PORT.value else []
        ready_message = f"ready: {', '.join(versions)}, {' and '.join(endpoints)} (not TF Serving)"
        serve(models, metrics, monitoring_path, ready_message)
    except ConfigurationError as error:
        print(f"local_server: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parse_flags(argv) -> list:
    """absl's own parser prints the whole usage and ends with status 1, for a mistake in a flag and for --help."""
    if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
        print(f"{__doc__.strip()}\n\nflags:\n{flags.FLAGS.module_help(argv[0])}")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"local_server: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
