"""The programs of export/, run to their end as a user runs them."""

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

EXPORT = Path(__file__).resolve().parents[2] / "export"
ENVIRONMENT = os.environ | {"NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1"}


def run_script(name, *arguments, **environment):
    """Runs a program of export/ to its end, in a fork of a process that has imported what the programs import."""
    program = _forks()
    order = [str(EXPORT / name), [*map(str, arguments)], ENVIRONMENT | environment]
    program.stdin.write(json.dumps(order) + "\n")
    program.stdin.flush()
    return subprocess.CompletedProcess([name, *arguments], *json.loads(program.stdout.readline()))


@functools.cache
def _forks():
    command = [sys.executable, str(Path(__file__).with_name("program_forks.py")), str(EXPORT)]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(program.stdin.close)
    return program


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
