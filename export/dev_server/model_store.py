"""The models' versions: found on disk, loaded beside those that serve, handed out to requests, unloaded.

A version goes from START through LOADING to AVAILABLE, and through UNLOADING to END; one that cannot be loaded goes
from LOADING to END with an error. As TF Serving's default policy has it, no version is unloaded before one of those
that replace it is AVAILABLE, and none before the requests that run on it have ended.
"""

import asyncio
import contextlib
import gc
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .config import ModelConfig
from .errors import ServingError


class ModelSpec(NamedTuple):
    """What a request asks for: the highest version, or the one of a number or a label."""

    name: str
    version: int | None = None
    label: str | None = None


class _Version:
    """One version of one model and where it is in its life."""

    def __init__(self, number: int):
        self.number = number
        self.state, self.error = "START", None
        self.model = None
        self.users = 0
        self.files = None  # what its folder held when it was loaded


class ModelStore:
    """The versions of all models. Its methods are called in the event loop, which loading does not hold up.

    Args:
        load: (name, version, path) -> a model; the ServingError that it raises is that version's.
        labels_may_wait: whether a label may name a version that is not AVAILABLE yet, if it is new.
    """

    def __init__(self, load: Callable[[str, int, Path], Awaitable[Any]], labels_may_wait: bool = False):
        self._load_model, self._labels_may_wait = load, labels_may_wait
        self._configs, self._labels = {}, {}
        self._versions = {}  # a name -> numbers -> _Version
        self._updating = asyncio.Lock()

    def configure(self, configs: list[ModelConfig]) -> None:
        """Replaces what is to be served; `update` then loads and unloads. Raises ServingError for a label."""
        labels = {}
        for config in configs:
            for label, number in config.labels.items():
                self._check_label(config.name, label, number)
                labels[config.name, label] = number
        self._configs, self._labels = {config.name: config for config in configs}, labels

    def _check_label(self, name: str, label: str, number: int) -> None:
        version = self._versions.get(name, {}).get(number)
        available = version is not None and version.state == "AVAILABLE"
        moved = self._labels.get((name, label), number) != number
        if not available and (moved or not self._labels_may_wait):
            raise ServingError(
                "FAILED_PRECONDITION",
                f"Request to assign label to version {number} of model {name}, "
                "which is not currently available for inference",
            )

    async def update(self) -> None:
        """One look at the folders: loads what is to be served, then begins to unload what is not."""
        async with self._updating:
            configs = self._configs
            for config in configs.values():
                present = await asyncio.to_thread(versions_on_disk, config.base_path)
                if present is None:
                    continue  # a folder that cannot be read for the moment takes nothing away
                wanted = config.wanted(present)
                for number in sorted(wanted, reverse=True):
                    await self._load(config.name, number, present[number])
                self._unload_all_but(config.name, wanted)
            for name in set(self._versions) - set(configs):
                self._unload_all_but(name, set())

    @contextlib.contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Any]:
        """The model of a request, which is not unloaded within the context. Raises ServingError if there is none."""
        version = self._find(spec)
        version.users += 1
        try:
            yield version.model
        finally:
            version.users -= 1
            if version.state == "UNLOADING" and version.users == 0:
                # Later, when the request's own frames no longer hold the model.
                asyncio.get_running_loop().call_soon(_drop, version)

    def _find(self, spec: ModelSpec) -> _Version:
        if not spec.name:
            raise ServingError("INVALID_ARGUMENT", "ModelSpec has no name specified.")
        number = spec.version
        if spec.label is not None:
            number = self._labels.get((spec.name, spec.label))
            if number is None:
                raise ServingError("INVALID_ARGUMENT", f"Unrecognized servable version label: {spec.label}")
        versions = self._versions.get(spec.name, {}).values()
        found = [v for v in versions if v.state == "AVAILABLE" and number in (None, v.number)]
        if not found:
            asked = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {asked}")
        return max(found, key=lambda version: version.number)

    def statuses(self, spec: ModelSpec) -> list[tuple[int, str, ServingError | None]]:
        """(number, state, error) of each version, the highest first. TF Serving, too, passes over a label."""
        versions = self._versions.get(spec.name, {}).values()
        found = [(v.number, v.state, v.error) for v in versions if spec.version in (None, v.number)]
        if not found:
            missing = "any versions" if spec.version is None else f"version {spec.version}"
            raise ServingError("NOT_FOUND", f"Could not find {missing} of model {spec.name}")
        return sorted(found, reverse=True, key=lambda status: status[0])

    def available(self, name: str) -> list[int]:
        """The numbers of the versions that serve, the highest first."""
        versions = self._versions.get(name, {}).values()
        return sorted((v.number for v in versions if v.state == "AVAILABLE"), reverse=True)

    def names(self) -> list[str]:
        """Of the models that are configured, in their order."""
        return list(self._configs)

    def knows(self, name: str) -> bool:
        """Whether a model of that name is or was served."""
        return name in self._versions

    async def _load(self, name: str, number: int, path: Path) -> None:
        """Loads a version unless it is loaded; one that failed is tried again when its files have changed."""
        version = self._versions.setdefault(name, {}).setdefault(number, _Version(number))
        if version.state in ("LOADING", "AVAILABLE", "UNLOADING"):
            return
        files = await asyncio.to_thread(_files_below, path)
        if version.error is not None and files == version.files:
            return
        version.state, version.error, version.files = "LOADING", None, files
        try:
            version.model = await self._load_model(name, number, path)
        except ServingError as error:
            version.state, version.error = "END", error.with_traceback(None)
        else:
            version.state = "AVAILABLE"

    def _unload_all_but(self, name: str, wanted: set) -> None:
        versions = self._versions.get(name, {})
        if wanted and not any(versions[number].state == "AVAILABLE" for number in wanted):
            return
        for number, version in versions.items():
            if number not in wanted and version.state == "AVAILABLE":
                version.state = "UNLOADING"
                if version.users == 0:
                    _drop(version)


def _drop(version: _Version) -> None:
    version.model = None
    gc.collect()  # a loaded SavedModel holds cycles
    version.state = "END"


def versions_on_disk(base_path: Path) -> dict[int, Path] | None:
    """Numbers -> the folders below a base path that are named by them; None if it cannot be read."""
    try:
        folders = [path for path in base_path.iterdir() if path.is_dir()]
    except OSError:
        return None
    numbered = {int(path.name): path for path in folders if re.fullmatch("[0-9]{1,19}", path.name)}
    return {number: path for number, path in numbered.items() if number < 2**63}


def _files_below(path: Path) -> list:
    """What changes when a folder is still being written: names, sizes, times."""
    found = []
    for file in sorted(path.rglob("*")):
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return found
