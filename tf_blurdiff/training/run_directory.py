"""A run directory: whose it is, which config it was begun with, and its metrics.

config.yaml   checkpoints/   model.keras   best.keras   samples/step_*.png   tensorboard/   metrics.jsonl   README.md
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import Any

from tf_blurdiff import files
from tf_blurdiff.config import Config
from tf_blurdiff.config import loading as configs
from tf_blurdiff.errors import UserError
from tf_blurdiff.training.checkpoints import steps_in

# What a run may change on the way: how far it goes, what it shows and what it runs on, but not what it learns.
_MAY_CHANGE = re.compile(
    r"train\.(steps|log_every|sample_every|checkpoint_every|keep_checkpoints|strategy|replicas|compile)"
    r"|data\.(cache_gb|cache_dir|max_corrupt)|sample\..*"
).fullmatch


@contextlib.contextmanager
def locked(run_dir: pathlib.Path) -> Iterator[None]:
    """Makes the folder and holds it: a second process is refused. The system lets go when this process ends."""
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run directory {run_dir} is a file; expected a folder, or a name for a new one")
    with writing(run_dir, "the lock"):
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(run_dir / ".lock", "a+")  # noqa: SIM115 (closed below; to open it is what may fail)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"run directory {run_dir} is in use by {holder}: stop that first, or use another") from None
        except OSError as error:
            raise UserError(
                f"run directory {run_dir} cannot be locked: its file system says {error.strerror}"
            ) from error
        with writing(run_dir, "the lock"):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def writing(
    run_dir: pathlib.Path, what: str, errors: tuple[type[Exception], ...] = (OSError,)
) -> contextlib.AbstractContextManager[None]:
    """Turns a failure to write `what` into a UserError that says what is still whole; as `files.writing`."""
    return files.writing(
        f"run directory {run_dir} ({what})",
        "; checkpoints that were there are whole. Make room or give permission; the same command then goes on",
        errors,
    )


def resolved(config: Config, run_dir: pathlib.Path) -> Config:
    """The config with what it leaves open decided: by the run, if it was begun."""
    return configs.resolved(config, _begun_with(run_dir))


def check_config(config: Config, run_dir: pathlib.Path, advice: str = "") -> None:
    """Raises a UserError if the run was begun with another config, naming the keys that differ.

    What the config leaves open, the run decides. The advice ends the message.
    """
    begun_with = _begun_with(run_dir)
    if begun_with is None:
        return  # Nothing is there yet that another config could spoil.
    changed = configs.changed_keys(begun_with, configs.resolved(config, begun_with))
    refused = [f"{key} ({old} there, {new} here)" for key, (old, new) in changed.items() if not _MAY_CHANGE(key)]
    if refused:
        raise UserError(
            f"run directory {run_dir} was begun with another config: {', '.join(refused)}; "
            f"expected the same config, or another run directory{advice}"
        )


def _begun_with(run_dir):
    """The config of a run that has a checkpoint; else None."""
    path = run_dir / "config.yaml"
    if not path.exists() or not steps_in(run_dir / "checkpoints"):
        return None
    config = configs.load_config(path)
    return configs.resolved(config, config)


class MetricsLog:
    """metrics.jsonl: one JSON object a line, each with its step.

    Args:
        path: of the file, which need not be there.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """The lines up to the first that is not whole."""
        rows = []
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            for line in self.path.read_text(errors="replace").splitlines():
                rows.append(json.loads(line))
        return rows

    def drop_after(self, step: int) -> None:
        """Removes what a run wrote after its last checkpoint: it will be written again."""
        if self.path.exists():
            kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
            files.write_atomically(self.path, lambda path: path.write_text("".join(kept)))

    def best(self, name: str) -> tuple[float, int | None]:
        """(value, step) of the smallest value of that name; (inf, None) without one."""
        found = [(row[name], row["step"]) for row in self.rows() if row.get(name) is not None]
        return min(found, default=(float("inf"), None))
