"""What compiling costs and gives: the first step of digits.yaml's training and the next, under some of XLA's flags.

Not compiled; compiled as it is; and with less trying out of kernels. Each is a process with nothing on disk to go by;
they run side by side, so that the seconds are of a busy machine, and the milliseconds of a GPU that is shared.
"""

import functools
import json
import os
import pathlib

import programs
from part import Part

_WAYS = {
    "not compiled": ("off", ""),
    "compiled": ("on", ""),
    "compiled, convolutions tried out without checks": ("on", "--xla_gpu_autotune_level=2"),
    "compiled, no kernel tried out": ("on", "--xla_gpu_autotune_level=0"),
    "compiled, products by cuBLAS": ("on", "--xla_gpu_enable_triton_gemm=false"),
}


def main(part):
    """A table."""
    table = part.table(
        "Training digits.yaml in mixed_bfloat16", "how", "XLA_FLAGS", "first 10 steps, s", "ms a step after them"
    )
    ways = list(_WAYS)[:2] if part.small else list(_WAYS)
    calls = {name: functools.partial(_measure, part, *_WAYS[name]) for name in ways}
    for name, (first, step) in programs.side_by_side(part, calls).items():
        table.put(name, name, _WAYS[name][1], f"{first:.1f}", f"{1e3 * step:.2f}")


def _measure(part, compiling, flags):
    program = pathlib.Path(__file__).with_name("first_steps.py")
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), flags]).strip()
    words = [program, compiling, *(programs.TINY if part.small else ())]
    output, _ = programs.run(words, part.left(), XLA_FLAGS=flags)
    return json.loads(output.splitlines()[-1])


if __name__ == "__main__":
    main(Part.from_command_line())
