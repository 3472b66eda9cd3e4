"""The flags that the programs of this folder share, and what they say of the machine."""

import datetime
import os
import platform

from absl import flags
from sizes import SIZES

from tf_blurdiff.files import writable_file
from tf_blurdiff.networks.precision import processor_lacks

ROUNDS = flags.DEFINE_integer("rounds", 4, "Rounds after the warm-up.", lower_bound=1)
SIZE_NAMES = flags.DEFINE_multi_enum("sizes", None, list(SIZES), "Only this size; may be given again. Default: all.")
OUT = flags.DEFINE_string("out", None, "A file for what is printed.")

# What is measured in: the dtype, and the network's policy. An emulated bfloat16 takes ten times as long as float32.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
if processor_lacks("mixed_bfloat16"):
    del PRECISIONS["bfloat16"]


def chosen_sizes(default=tuple(SIZES)):
    """The `Size`s that the flag names, else the default's."""
    return [SIZES[name] for name in (SIZE_NAMES.value or default)]


class Report:
    """Prints lines as they come, and keeps them in the file that the flag names."""

    def __init__(self):
        self._file = writable_file(OUT.value, f"--out {OUT.value}").open("w") if OUT.value else None

    def line(self, text=""):
        """Adds a line."""
        print(text, flush=True)
        if self._file:
            print(text, file=self._file, flush=True)

    def title(self, text):
        """Adds a heading."""
        self.line(f"\n## {text}\n")

    def header(self, *columns):
        """Begins a table."""
        self.row(*columns)
        self.line("|" + "---|" * len(columns))

    def row(self, *cells):
        """Adds a row to it."""
        self.line(f"| {' | '.join(map(str, cells))} |")


def machine(versions):
    """One line: processor, threads, load of the last minute, versions ("name version"), date."""
    now = datetime.datetime.now(datetime.UTC).date()
    hardware = f"{_processor()}, {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    hardware += "" if "bfloat16" in PRECISIONS else ", no bfloat16"
    return f"{hardware}; Python {platform.python_version()}; {', '.join(versions)}; {now}"


def _processor():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
