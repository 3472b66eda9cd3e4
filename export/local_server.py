"""A development server that speaks TF Serving's own protocol. It is NOT TF Serving.

It answers Predict, GetModelMetadata and GetModelStatus by gRPC, and the same by REST, as tensorflow_model_server does,
so that clients can be written and tried where no TF Serving is at hand. It runs the model in Python, on the loopback
interface only, one version of one model, with no batching: serve for others with TF Serving itself.

    python export/local_server.py --model_name digits --model_base_path served/digits
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from absl import app, flags

_PORT = flags.DEFINE_integer("port", 8500, "Port for gRPC; 0 for none.", 0, 65535)
_REST_API_PORT = flags.DEFINE_integer("rest_api_port", 8501, "Port for REST; 0 for none.", 0, 65535)
_MODEL_NAME = flags.DEFINE_string("model_name", "default", "The name clients ask for.")
_MODEL_BASE_PATH = flags.DEFINE_string(
    "model_base_path", None, "Folder with a folder for each version; the newest is served."
)
_GRACE_SECONDS = 30.0


class StartupError(Exception):
    """The server cannot start; the message says why."""


def newest_version(base_path: Path) -> tuple:
    """The highest integer version folder of a base path -> (version, path). Other names are skipped."""
    if not base_path.is_dir():
        raise StartupError(f"--model_base_path: no folder {base_path}")
    names = [p.name for p in base_path.iterdir() if p.name.isascii() and p.name.isdecimal() and p.is_dir()]
    if not names:
        raise StartupError(f"--model_base_path: {base_path} holds no version (a folder named by an integer, like 1)")
    newest = max(names, key=int)
    if not (base_path / newest / "saved_model.pb").is_file():
        raise StartupError(f"{base_path / newest} holds no saved_model.pb")
    return int(newest), base_path / newest


def check_ports(*ports: int) -> None:
    """Refuses a port that is taken before the model is loaded, which can take a while."""
    wanted = [port for port in ports if port]
    if not wanted:
        raise StartupError("--port and --rest_api_port are both 0: nothing to serve")
    if len(set(wanted)) < len(wanted):
        raise StartupError(f"--port and --rest_api_port must differ. Received: {wanted[0]} for both")
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise StartupError(f"port {port} cannot be used: {error.strerror}") from error


@contextlib.contextmanager
def _silent_stderr():
    """TensorFlow's library logs to file descriptor 2 while it loads, whatever TF_CPP_MIN_LOG_LEVEL says."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def load_models(name: str, base_path: Path):
    """Loads the newest version below the base path."""
    version, path = newest_version(base_path)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():
        from served_model import Models, ServedModel  # TensorFlow: seconds that a mistake in a flag need not cost
    try:
        return Models(ServedModel(name, version, path)), version
    except Exception as error:  # TensorFlow and protobuf raise many kinds for a broken SavedModel
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise StartupError(f"cannot load {path}: {reason}") from error


def serve(models, port: int, rest_api_port: int, ready_message: str) -> None:
    """Serves until SIGTERM or SIGINT; the requests that run then are answered."""
    from grpc_api import start_grpc_server
    from rest_api import RestServer

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        rest_server = RestServer(models, rest_api_port) if rest_api_port else None
        grpc_server = start_grpc_server(models, port) if port else None
    except (OSError, RuntimeError) as error:
        raise StartupError(f"cannot listen: {error}") from error
    if rest_server:
        rest_server.start()
    print(ready_message, flush=True)
    stopping.wait()
    grpc_stopped = grpc_server.stop(_GRACE_SECONDS) if grpc_server else None
    if rest_server:
        rest_server.stop(_GRACE_SECONDS)
    if grpc_stopped:
        grpc_stopped.wait()


def main(argv) -> None:
    """The command line."""
    try:
        if len(argv) > 1:
            raise StartupError(f"unknown arguments: {' '.join(argv[1:])}")
        if not _MODEL_BASE_PATH.value:
            raise StartupError("--model_base_path is required")
        check_ports(_PORT.value, _REST_API_PORT.value)
        models, version = load_models(_MODEL_NAME.value, Path(_MODEL_BASE_PATH.value))
        endpoints = [f"gRPC on localhost:{_PORT.value}"] if _PORT.value else []
        endpoints += [f"REST on http://localhost:{_REST_API_PORT.value}"] if _REST_API_PORT.value else []
        ready_message = f"ready: {_MODEL_NAME.value} version {version}, {' and '.join(endpoints)} (not TF Serving)"
        serve(models, _PORT.value, _REST_API_PORT.value, ready_message)
    except StartupError as error:
        print(f"local_server: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parse_flags(argv) -> list:
    """absl's own parser prints the whole usage and ends with status 1 for a mistake in a flag."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"local_server: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
