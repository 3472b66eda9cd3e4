"""The command `tf_blurdiff`, which becomes one of the package's command lines or one of the programs of export/.

It stands beside the package and imports nothing of it: a client must not wait for TensorFlow.
"""

import difflib
import importlib.util
import os
import pathlib
import re
import sys

MODULES = {
    "train": "train a model from a config",
    "distill": "make a model that samples in few steps from one of many",
    "sample": "draw images from a model",
    "evaluate": "score a model's images",
    "train_classifier": "train a classifier to score images with",
    "export": "write a SavedModel for TF Serving",
    "visualize": "draw processes, trajectories and solvers",
    "launch": "start several workers on this machine",
}
PROGRAMS = {
    "serve": ("local_server.py", "serve exports on this machine, for development"),
    "client": ("client.py", "fetch images from an endpoint"),
    "load_test": ("load_test.py", "measure an endpoint under load"),
}
_NEEDED = {"serve": ("aiohttp", "grpc"), "client": ("requests",), "load_test": ("requests",)}


def main() -> None:
    """Becomes the process of the command that is named first; its own words follow."""
    if len(sys.argv) < 2 or sys.argv[1] in ("--help", "-help", "-h", "help"):
        print(_help())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name, *words = sys.argv[1:]
    if name == "--version":
        print(re.findall(r'^__version__ = "(.*)"', (_package() / "__init__.py").read_text(), re.MULTILINE)[0])
    elif name in MODULES:
        _become("-m", f"tf_blurdiff.{name}", *words)
    elif name in PROGRAMS:
        missing = [module for module in _NEEDED[name] if importlib.util.find_spec(module) is None]
        if missing:
            _fail(f"{name} needs {', '.join(missing)}: pip install 'tf_blurdiff[serving]'")
        _become(str(_kit() / PROGRAMS[name][0]), *words)
    else:
        known = [*MODULES, *PROGRAMS]
        near = difflib.get_close_matches(name, known, 1)
        _fail(f"unknown command: {name}; {f'did you mean {near[0]}?' if near else 'expected ' + ', '.join(known)}")


def _help():
    described = {**MODULES, **{name: meaning for name, (_, meaning) in PROGRAMS.items()}}
    lines = [f"  {name:17} {meaning}" for name, meaning in described.items()]
    return "\n".join(
        [
            "usage: tf_blurdiff COMMAND ...",
            "",
            *lines,
            "",
            "tf_blurdiff COMMAND --help describes one; --version tells it",
        ]
    )


def _package():
    spec = importlib.util.find_spec("tf_blurdiff")  # Which does not import it.
    assert spec is not None and spec.origin is not None
    return pathlib.Path(spec.origin).parent


def _kit():
    """The folder of the programs: in the package where it was installed, beside it in a checkout."""
    installed = _package() / "kit"
    return installed if installed.is_dir() else _package().parent / "export"


def _become(*words):
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *words])


def _fail(message):
    print(f"tf_blurdiff: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
