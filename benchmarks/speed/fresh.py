"""The tables of memory and start-up: every figure from a process of its own."""

import contextlib
import dataclasses
import subprocess
import tempfile
import time

from options import Report

from tf_blurdiff.errors import UserError

_WHATS = {"tf_blurdiff": ("training step", "sampling"), "diffusers": ("training step", "sampling")}
_WHATS["SavedModel"] = ("sampling",)
_TRAINING = (
    ("tf_blurdiff", "training step"), ("tf_blurdiff", "training step, rematerialized"), ("diffusers", "training step")
)  # fmt: skip
_TRAINING_RUNS = 5
# How often a process is started; the least time counts.
_STARTS = 2


@contextlib.contextmanager
def _exports(sides, sizes):
    # What `export` answers, by size, once for all processes.
    with tempfile.TemporaryDirectory() as folder, sides.start("tf_blurdiff") as ours:
        yield {size.name: ours.ask("export", size=size.name, precision="float32", folder=folder) for size in sizes}


def _prepared(side, what, size, exports):
    if side.name == "SavedModel":
        side.ask("load", size=size.name, precision="float32", **exports[size.name])
    name = size.name if side.name == "SavedModel" else size.full_name
    return side.ask("prepare", what=what, size=name, precision="float32")["key"]


def measure_memory(report: Report, sides, sizes):
    """Resident memory after the imports, and at its peak; of training also with three times the batch."""
    report.title("Memory, MiB: each peak from a process of its own, nothing subtracted, float32")
    report.header("image", "batch", "by", "what", "after import", "peak", "peak, batch x 3", "an image more")
    with _exports(sides, sizes) as exports:
        for size in sizes:
            larger = dataclasses.replace(size, batch=3 * size.batch)
            for name, what in _TRAINING:
                (start, peak), (_, high) = (_start_and_peak(sides, name, what, one, None) for one in (size, larger))
                image = f"{(high - peak) / (larger.batch - size.batch):.1f}"
                report.row(size.name, size.batch, name, what, f"{start:.0f}", f"{peak:.0f}", f"{high:.0f}", image)
            for name in _WHATS:
                start, peak = _start_and_peak(sides, name, "sampling", size, exports)
                report.row(size.name, size.batch, name, "sampling once", f"{start:.0f}", f"{peak:.0f}", "", "")


def _start_and_peak(sides, name, what, size, exports):
    with sides.start(name) as side:
        start = side.ask("describe")["resident_mib"]
        side.ask("run", key=_prepared(side, what, size, exports), count=1 if what == "sampling" else _TRAINING_RUNS)
        return start, side.ask("memory")["peak_mib"]


def measure_startup(report: Report, sides, sizes):
    """Seconds from the start of a process."""
    report.title(f"Start-up, seconds from the start of a process, the least of {_STARTS}, float32")
    report.header("what", "tf_blurdiff", "diffusers", "SavedModel")
    ours, theirs = sides.python("tf_blurdiff"), sides.python("diffusers")
    report.row("import", _least([ours, "-c", f"import tf_blurdiff; {_END}"]), _least([theirs, "-c", _THEIR_IMPORT]), "")
    report.row("python -m tf_blurdiff.train --help", _least([ours, "-m", "tf_blurdiff.train", "--help"]), "", "")
    with _exports(sides, sizes) as exports:
        for size in sizes:
            for what, label in (("training step", "first training step"), ("sampling", "first sampled batch")):
                names = [name for name, whats in _WHATS.items() if what in whats]
                times = {name: [] for name in names}
                for _ in range(_STARTS):
                    for name in names:
                        times[name].append(_seconds_to_first(sides, name, what, size, exports))
                cells = [f"{min(times[name]):.2f}" if name in times else "" for name in _WHATS]
                report.row(f"{size.name}: {label}", *cells)


# Ends at once, so that what a library does on the way out is not counted, as in the other rows.
_END = "import os; os._exit(0)"
_THEIR_IMPORT = f"import torch; from diffusers import UNet2DModel; {_END}"


def _seconds_to_first(sides, name, what, size, exports):
    start = time.perf_counter()
    with sides.start(name) as side:
        side.ask("run", key=_prepared(side, what, size, exports), count=1)
        return time.perf_counter() - start


def _least(command):
    times = []
    for _ in range(1 + _STARTS):  # The first brings the files into memory.
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        times.append(time.perf_counter() - start)
        if done.returncode:
            raise UserError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return f"{min(times[1:]):.2f}"
