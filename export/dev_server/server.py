"""The running server: loads the models, opens the ports, watches the folders, and ends with a signal."""

import asyncio
import contextlib
import functools
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from . import served_model
from .batching import BatchScheduler
from .config import ModelConfig, ServerConfig, read_model_configs
from .errors import ConfigurationError, ServingError
from .grpc_services import start_grpc_server
from .metrics import ServerMetrics
from .model_store import ModelSpec, ModelStore
from .rest import start_rest_server

_GRACE_SECONDS = 30.0


async def serve(config: ServerConfig, announce: Callable[[ModelStore], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: what is served, and how.
        announce: called once, when requests are answered.

    Raises:
        ConfigurationError: a model cannot be loaded, or a port not be listened on.
    """
    async with running(config) as models:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        announce(models)
        await stopping.wait()


@contextlib.asynccontextmanager
async def running(config: ServerConfig) -> AsyncIterator[ModelStore]:
    """A server that answers within the context, at whose end the requests that run are answered.

    Raises:
        ConfigurationError: a model cannot be loaded, or a port not be listened on.
    """
    metrics = ServerMetrics()
    models = await load_models(config, metrics)
    watchers, stops = [asyncio.create_task(repeat(models.update, config.file_system_poll_seconds))], []
    if config.model_config_file:
        file = ModelConfigFile(models, config.model_config_file, config.models)
        watchers.append(asyncio.create_task(repeat(file.reread, config.model_config_poll_seconds)))
    try:
        await _open_ports(config, models, metrics, stops)
        yield models
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*[stop() for stop in stops])


async def _open_ports(config: ServerConfig, models: ModelStore, metrics: ServerMetrics, stops: list) -> None:
    """Starts to answer; what stops it again is added to `stops`."""
    try:
        if config.rest_port:
            rest = await start_rest_server(models, metrics, config.rest_port, config.rest, _GRACE_SECONDS)
            stops.append(rest.cleanup)
        if config.grpc_port:
            grpc_server = await start_grpc_server(models, metrics, config.grpc_port)
            stops.append(functools.partial(grpc_server.stop, _GRACE_SECONDS))
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"cannot listen: {error}") from error


async def load_models(config: ServerConfig, metrics: ServerMetrics) -> ModelStore:
    """Loads the versions to be served; of each model one must load, else ConfigurationError."""
    scheduler = BatchScheduler(config.batching, metrics) if config.batching else None
    load = functools.partial(served_model.load, metrics=metrics, scheduler=scheduler)
    models = ModelStore(load, config.labels_may_wait)
    models.configure(config.models)
    await models.update()
    for model in config.models:
        if not models.available(model.name):
            try:
                number, _, error = models.statuses(ModelSpec(model.name))[0]
            except ServingError as gone:
                raise ConfigurationError(f"cannot load from {model.base_path}: {gone}") from gone
            raise ConfigurationError(f"cannot load {model.base_path / str(number)}: {error}")
    return models


async def repeat(action: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Calls a function every so many seconds, never if they are 0; reports an error once, until it changes."""
    reported = None
    while seconds:
        await asyncio.sleep(seconds)
        try:
            await action()
            reported = None
        except Exception as error:  # the next time may be better
            if repr(error) != reported:
                print(f"local_server: {error or type(error).__name__}", file=sys.stderr, flush=True)
            reported = repr(error)


class ModelConfigFile:
    """The model config file, whose `configs` are served; what it says is served when that has changed."""

    def __init__(self, models: ModelStore, path: Path, configs: list[ModelConfig]):
        self._models, self._path, self._configs = models, path, configs

    async def reread(self) -> None:
        """Serves what the file says now; a mistake in it is an error once, and changes nothing."""
        configs = read_model_configs(self._path)
        if configs != self._configs:
            self._models.configure(configs)
            self._configs = configs
            await self._models.update()
