"""What can be found wrong before TensorFlow and the models are loaded, which takes seconds or minutes."""

import socket

from .config import ModelConfig
from .errors import ConfigurationError
from .model_store import versions_on_disk


def check_folder(config: ModelConfig) -> None:
    """That a model's base path holds a version that can be served. Raises ConfigurationError."""
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


def check_labels(configs: list[ModelConfig]) -> None:
    """That no version has a label, which at the start none is loaded to take. Raises ConfigurationError."""
    for config in configs:
        for number in config.labels.values():
            raise ConfigurationError(
                f"Request to assign label to version {number} of model {config.name}, which is not currently available "
                "for inference. At the start no version is: --allow_version_labels_for_unavailable_models"
            )


def check_ports(*ports: int) -> None:
    """That the ports, of which 0 is none, can be listened on. Raises ConfigurationError."""
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
