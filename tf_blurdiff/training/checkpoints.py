"""Checkpoints: the values of variables in files, `ckpt-STEP.*`, each whole or not there."""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_blurdiff.errors import UserError
from tf_blurdiff.files import on_disk

# What TensorFlow writes for a checkpoint; a copy under a name of the user's own is no part of one.
_FILE = re.compile(r"(ckpt-\d+)(\.data-.*|\.index.*|_temp.*)").fullmatch


class Checkpoints:
    """The checkpoints of one folder.

    Args:
        folder: which `save` makes if it is missing.
        variables: what they hold, the same in every process that uses the folder.
        keep: how many to keep, the newest.
    """

    def __init__(self, folder: pathlib.Path, variables: Sequence[tf.Variable], keep: int) -> None:
        self.folder = folder
        self._keep = keep
        # Variables one by one: TensorFlow does not find those that a Keras model keeps in a list of its own.
        self._checkpoint = tf.train.Checkpoint(variables=variables)

    def steps(self) -> list[int]:
        """The numbers of the checkpoints that are there, rising."""
        return steps_in(self.folder)

    def save(self, step: int, keep_too: int | None = None) -> None:
        """Writes one and removes the oldest; a failure leaves those that were there.

        Args:
            step: its number.
            keep_too: the number of one that stays, however old.

        Raises:
            OSError: if it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._checkpoint.write(str(self.folder / f"ckpt-{step}"))
            # Before older ones go: the machine may lose its power.
            on_disk(*self.folder.glob(f"ckpt-{step}.*"), self.folder)
        except (tf.errors.OpError, OSError) as error:
            self._remove(step)
            raise OSError(None, getattr(error, "message", None) or str(error)) from error
        # One with a higher number is of a run that went further and was damaged: it does not count as new.
        for old in [other for other in self.steps() if other <= step][: -self._keep]:
            if old != keep_too:
                self._remove(old)

    def restore_newest(self, warn: Callable[[str], None]) -> int | None:
        """Reads the newest that is whole.

        Args:
            warn: called with a line of text for every one that is not.

        Returns:
            Its number, or None if there is no checkpoint.

        Raises:
            UserError: if there are some, but none can be read.
        """
        for step in reversed(self.steps()):
            path = self.folder / f"ckpt-{step}"
            try:
                self._checkpoint.read(str(path)).assert_consumed()
                return step
            except Exception as error:  # TensorFlow's reader raises IndexError and others, as the damage has it.
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                warn(f"{path} cannot be read ({reason}); trying the one before")
        if self.steps():
            raise UserError(
                f"no checkpoint in {self.folder} can be read; expected one that is whole and of this network. "
                "Use another run directory to begin again"
            )
        return None

    def remove_parts(self) -> None:
        """Removes what a process left that was killed while it wrote."""
        whole = {f"ckpt-{step}" for step in self.steps()}
        for path in self.folder.glob("ckpt-*"):
            written = _FILE(path.name)
            if written and written[1] not in whole:
                _remove(path)

    def _remove(self, step):
        # The index first: without it the rest does not count.
        for path in (self.folder / f"ckpt-{step}.index", *self.folder.glob(f"ckpt-{step}[._]*")):
            _remove(path)


def steps_in(folder: pathlib.Path) -> list[int]:
    """The numbers of a folder's checkpoints, rising; found by their files."""
    names = (path.stem.removeprefix("ckpt-") for path in folder.glob("ckpt-*.index"))
    return sorted(int(name) for name in names if name.isdecimal())


def _remove(path):
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
