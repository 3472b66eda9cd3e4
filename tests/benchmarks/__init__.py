"""The benchmarks are programs, not a package: each finds the others in its own folder."""

import sys

from tests.support import commands

BENCHMARKS = commands.ROOT / "benchmarks"
sys.path += [str(BENCHMARKS / folder) for folder in ("speed", "gpu", "quality", "exports")]
