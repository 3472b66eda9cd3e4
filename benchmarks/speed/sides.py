"""The parent's end of the conversation with a side, a process of its own. Standard library only."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile

_FOLDER = pathlib.Path(__file__).resolve().parent


class SideError(Exception):
    """One line on a side that cannot be started, could not do what it was asked, or has ended."""


class Side:
    """A started side program; also a context manager that ends it.

    Args:
        name: of the side, for messages.
        program: file in this folder, or its whole path.
        python: the interpreter whose packages it uses.
        environment: variables that it has beside this process's.
    """

    def __init__(self, name, program, python, environment=None):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        command = [python, str(_FOLDER / program)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            own = {**os.environ, **(environment or {})}
            self._process = subprocess.Popen(command, text=True, bufsize=1, env=own, **pipes)
        except OSError as error:
            raise SideError(f"cannot start the side {name}: {python}: {error.strerror}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def kill(self):
        """Ends the process at once: who waits for its answer gets a SideError."""
        self._process.kill()

    def close(self):
        """Ends the process and waits for its end."""
        with contextlib.suppress(BrokenPipeError):  # What a process that has died did not read.
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def ask(self, do, **command):
        """Sends one command and waits for its answer.

        Raises:
            SideError: the command failed or the process has ended; the message says why.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideError(f"the side {self.name} ended with status {self._process.wait()}: {self._last_error()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(f"the side {self.name} cannot {do}: {answer['error']}")
        return answer

    def _last_error(self):
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class Sides:
    """Starts the sides by name: "tf_blurdiff", "diffusers", "SavedModel"."""

    def __init__(self, own_python, diffusers_python):
        self._pythons = {
            "tf_blurdiff": (own_python, "side_tf_blurdiff.py"),
            "diffusers": (diffusers_python, "side_diffusers.py"),
            "SavedModel": (own_python, "side_savedmodel.py"),
        }

    def start(self, name):
        """A new process."""
        python, program = self._pythons[name]
        return Side(name, program, python)

    def python(self, name):
        """The interpreter of a side."""
        return self._pythons[name][0]
