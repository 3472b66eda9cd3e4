"""The command `tf_blurdiff`: what each of its words becomes."""

import os
import subprocess
import sys

import pytest

import tf_blurdiff as bd
import tf_blurdiff_command
from tests.support import commands


def became(monkeypatch, *words):
    """The words of the process that the command becomes, after Python's own."""
    seen = []

    def execv(program, arguments):
        assert program == arguments[0] == sys.executable
        seen.extend(arguments[1:])

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["tf_blurdiff", *words])
    tf_blurdiff_command.main()
    return seen


@pytest.mark.parametrize("name", tf_blurdiff_command.MODULES)
def test_a_command_line_of_the_package(monkeypatch, name):
    assert became(monkeypatch, name, "--model", "a b", "--", "x") == [
        "-m", f"tf_blurdiff.{name}", "--model", "a b", "--", "x",
    ]  # fmt: skip
    assert (commands.ROOT / "tf_blurdiff" / f"{name}.py").is_file()


def test_every_command_line_of_the_package_is_one_of_it():
    modules = (commands.ROOT / "tf_blurdiff").glob("[a-z]*.py")
    assert {path.stem for path in modules if "command_line.run(" in path.read_text()} == set(
        tf_blurdiff_command.MODULES
    )


@pytest.mark.parametrize("name", tf_blurdiff_command.PROGRAMS)
def test_a_program_of_the_kit(monkeypatch, name):
    program, *words = became(monkeypatch, name, "--port=0")
    assert words == ["--port=0"] and program == str(commands.ROOT / "export" / tf_blurdiff_command.PROGRAMS[name][0])
    assert os.path.isfile(program)


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["sampel"], 2, "tf_blurdiff: unknown command: sampel; did you mean sample?\n"),
        (["zzz"], 2, "tf_blurdiff: unknown command: zzz; expected train, distill, sample, "),
        (["client"], 2, "tf_blurdiff: client needs requests: pip install 'tf_blurdiff[serving]'\n"),
        (["serve"], 2, "tf_blurdiff: serve needs aiohttp, grpc: pip install 'tf_blurdiff[serving]'\n"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, words, status, message):
    find, missing = tf_blurdiff_command.importlib.util.find_spec, ("aiohttp", "grpc", "requests")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(SystemExit) as ended:
        became(monkeypatch, *words)
    assert ended.value.code == status and message in capsys.readouterr().err


@pytest.mark.parametrize("words, status", [(["--help"], 0), ([], 2)])
def test_it_lists_its_commands(monkeypatch, capsys, words, status):
    with pytest.raises(SystemExit) as ended:
        became(monkeypatch, *words)
    output = capsys.readouterr().out
    assert ended.value.code == status
    assert all(f"\n  {name} " in output for name in [*tf_blurdiff_command.MODULES, *tf_blurdiff_command.PROGRAMS])


def test_the_package_as_a_program_is_the_command():
    words = [sys.executable, "-m", "tf_blurdiff", "client", "--url"]
    done = subprocess.run(words, cwd=commands.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("client: ") and done.stderr.count("\n") == 1


def test_it_tells_the_version_once():
    for program in ("tf_blurdiff", "tf_blurdiff_command"):
        words = [sys.executable, "-m", program, "--version"]
        done = subprocess.run(words, cwd=commands.ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{bd.__version__}\n", "")


def test_it_does_not_wait_for_tensorflow():
    code = "import sys, tf_blurdiff_command as command; command._kit(); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=commands.ROOT)
