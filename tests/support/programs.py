"""The programs of export/, run to their end as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

EXPORT = Path(__file__).resolve().parents[2] / "export"
ENVIRONMENT = os.environ | {"NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1"}


def run_script(name, *arguments, **environment):
    """Runs a program of export/ to its end."""
    command = [sys.executable, str(EXPORT / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | environment, timeout=120)


def run_without(modules, name, *arguments):
    """Runs a program of export/ where those modules cannot be imported."""
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({modules!r}))\n"
        f"sys.argv = {[str(EXPORT / name), *map(str, arguments)]!r}; sys.path.insert(0, {str(EXPORT)!r})\n"
        f"runpy.run_path({str(EXPORT / name)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)


def assert_one_line(done, program, message):
    """That a program ended with status 2 and one line of its own that says why."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith(f"{program}: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
