"""The Makefile: the list of its targets, and which Python it makes environments with."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.support import commands

MAKEFILE = commands.ROOT / "Makefile"
# A Python that says it is of another version, and may lack a module.
FAKE = """#!/bin/sh
shift
exec {python} -S -c \
    'import sys; sys.version_info = ({version}, 1); sys.modules.update({missing}); exec(sys.argv[1])' "$1"
"""


def make(*arguments, cwd, **variables):
    """Runs make with a PATH that has nothing but what stands in the folder."""
    environment = {"PATH": str(cwd), **variables}
    return subprocess.run([shutil.which("make"), *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def python(folder, name, version, missing="{}"):
    path = folder / name
    path.write_text(FAKE.format(python=sys.executable, version=version.replace(".", ", "), missing=missing))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A checkout as far as make looks at it before it runs anything."""
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("pyproject.toml", "setup.py"):
        (tmp_path / name).touch()
    return tmp_path


def chosen(folder, target="setup", **variables):
    result = make("-n", target, cwd=folder, **variables)
    assert result.returncode == 0, result.stderr
    return re.findall(r'^"(.*)" -m venv --clear (\S+)$', result.stdout, re.MULTILINE)


def test_the_newest_that_can_make_environments_is_taken(folder):
    python(folder, "python3.11", "3.11")
    assert chosen(folder) == [("python3.11", ".venv")]
    python(folder, "python3.12", "3.12")
    assert chosen(folder, "bench") == [("python3.12", ".venv"), ("python3.12", ".venv-bench")]
    python(folder, "python3.13", "3.13", missing='{"ensurepip": None}')  # Debian without its python3-venv.
    assert chosen(folder) == [("python3.12", ".venv")]
    python(folder, "python3.13", "3.13")
    assert chosen(folder) == [("python3.13", ".venv")]


def test_a_variable_chooses_another(folder):
    python(folder, "python3.13", "3.13")
    mine = python(folder, "my python", "3.12")
    assert chosen(folder, PYTHON=mine) == [(mine, ".venv")]


@pytest.mark.parametrize("version, missing", [("3.10", "{}"), ("3.14", "{}"), ("3.12", '{"ensurepip": None}')])
def test_a_variable_with_one_that_will_not_do_is_refused(folder, version, missing):
    python(folder, "python3.13", "3.13")
    result = make("-n", "setup", cwd=folder, PYTHON=python(folder, "mine", version, missing))
    assert result.returncode == 2
    assert re.fullmatch(
        r".*PYTHON must be Python 3\.11, 3\.12 or 3\.13 .* Received: \S*/mine\.  Stop\.\n", result.stderr
    )


def test_one_line_says_what_is_missing(folder):
    python(folder, "python3.12", "3.12", missing='{"venv": None}')
    result = make("setup", cwd=folder)
    assert result.returncode == 2
    assert re.fullmatch(r".*needs Python 3\.11, 3\.12 or 3\.13 .*PYTHON=/path/to/python .*\n", result.stderr)


def test_an_environment_keeps_its_python(folder):
    (folder / ".venv" / "bin").mkdir(parents=True)
    python(folder / ".venv" / "bin", "python", "3.11")
    newer = python(folder, "python3.13", "3.13")
    assert chosen(folder) == []
    result = make("-n", "setup", cwd=folder, PYTHON=newer)
    assert result.returncode == 2
    assert re.fullmatch(r".*\.venv has another Python than PYTHON=\S+; remove \.venv .*\n", result.stderr)


def test_without_a_target_it_lists_them_all(folder):
    (folder / "awk").symlink_to(shutil.which("awk"))
    result = make(cwd=folder)
    assert result.returncode == 0, result.stderr
    (targets,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert re.findall(r"^make (\S+) +\S", result.stdout, re.MULTILINE) == targets.split()
