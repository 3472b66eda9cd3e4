"""Speed, memory and start-up of tf_blurdiff beside PyTorch's diffusers, with the same network on both sides.

    python benchmarks/speed --diffusers_python .venv-bench/bin/python

Each side is a process of its own, with the packages of its own interpreter; only one computes at any time. They run in
turn, round after round, so that a change in the machine's speed falls on all; the figure to quote is the median of the
rounds' ratios, and below 1 tf_blurdiff is the faster. A round's figure is the least of its runs.

Let nothing else run meanwhile: PyTorch's threads wait for each other busily, and lose far more than their share of the
machine to another program. The load is printed. On two cores all parts take about an hour; `--parts` chooses.
"""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the command lines do.

import comparisons
import fresh
import options
from absl import flags
from sides import SideError, Sides
from sizes import FEW_SIZES, SIZES

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError

_PARTS = ("training", "forward", "sampling", "memory", "startup", "limit", "blurring")
_CHOSEN = flags.DEFINE_list("parts", list(_PARTS), f"What to measure: {', '.join(_PARTS)}.")
_PYTHON = flags.DEFINE_string("diffusers_python", ".venv-bench/bin/python", "A Python with torch and diffusers.")
_ALL = flags.DEFINE_boolean("all_sizes", False, "Sampling, memory and start-up at all sizes, not two only.")

_FOLDER = pathlib.Path(__file__).resolve().parent
# The cost of blurring is small against the noise of one round.
_BLURRING_ROUNDS = 2


def main():
    """Prints the chosen parts."""
    unknown = [part for part in _CHOSEN.value if part not in _PARTS]
    if unknown:
        raise UserError(f"parts must be of {', '.join(_PARTS)}. Received: {unknown[0]}")
    sides, count = Sides(sys.executable, _PYTHON.value), options.ROUNDS.value
    needs_both = not {"limit", "blurring"}.issuperset(_CHOSEN.value)
    versions = _versions(sys.executable, ("tensorflow", "keras"))
    versions += _versions(_PYTHON.value, ("torch", "diffusers")) if needs_both else []
    report = options.Report()
    report.line(options.machine(versions))
    sizes = options.chosen_sizes()
    few = options.chosen_sizes(tuple(SIZES) if _ALL.value else FEW_SIZES)
    actions = {
        "training": lambda: comparisons.compare_steps(report, sides, "training step", sizes, count),
        "forward": lambda: comparisons.compare_steps(report, sides, "forward pass", sizes, count),
        "sampling": lambda: comparisons.compare_sampling(report, sides, few, count),
        "memory": lambda: fresh.measure_memory(report, sides, few),
        "startup": lambda: fresh.measure_startup(report, sides, few),
        "limit": lambda: _include(report, "limit.py", sizes, count),
        "blurring": lambda: _include(report, "blurring.py", sizes, _BLURRING_ROUNDS * count),
    }
    try:
        for part in _PARTS:
            if part in _CHOSEN.value:
                actions[part]()
    except SideError as error:
        raise UserError(str(error)) from error


def _versions(python, packages):
    code = f"import importlib.metadata as m; print(*(n + ' ' + m.version(n) for n in {packages}), sep='\\n')"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"{python} cannot be run: {error.strerror}; `make bench` makes such an environment") from error
    if done.returncode:
        raise UserError(f"{python} lacks what is needed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.splitlines()


def _include(report, program, sizes, count):
    """What another program of this folder prints, as it prints it, without its first line, on the machine."""
    names = [argument for size in sizes for argument in ("--sizes", size.name)]
    command = [sys.executable, str(_FOLDER / program), "--rounds", str(count), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for number, line in enumerate(process.stdout):
            if number:
                report.line(line.rstrip("\n"))
        errors = process.stderr.read()
    if process.returncode:
        raise UserError(f"{program} failed: {(errors.strip().splitlines() or ['it said nothing'])[-1]}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(options)
    command_line.run(main)
