"""What compiling costs and gives: the first steps of digits.yaml's training and the next, under some of XLA's flags.

Not compiled; compiled as it is; and with less trying out of kernels. Each is a process with nothing on disk to go by;
they run side by side, so that these seconds are of a busy machine. Then each runs again, alone, with the programs that
its first run kept on disk: how soon a second training begins, and how long a step takes.
"""

import functools
import json
import os
import pathlib
import tempfile

import programs
from part import Part

_CUBLAS = "--xla_gpu_enable_triton_gemm=false"
_WAYS = {
    "not compiled": ("off", ""),
    "compiled": ("on", ""),
    "products by cuBLAS": ("on", _CUBLAS),
    "and tried out without checks": ("on", f"{_CUBLAS} --xla_gpu_autotune_level=2"),
    "and several modules at once": (
        "on",
        f"{_CUBLAS} --xla_gpu_autotune_level=2 --xla_gpu_enable_llvm_module_compilation_parallelism=true "
        "--xla_gpu_force_compilation_parallelism=8",
    ),
    "products by cuBLAS, no kernel tried out": ("on", f"{_CUBLAS} --xla_gpu_autotune_level=0"),
}


def main(part):
    """A table."""
    table = part.table(
        "Training digits.yaml in mixed_bfloat16", "how", "XLA_FLAGS", "first 10 steps, s", "again alone, s",
        "ms a step after them",
    )  # fmt: skip
    ways = list(_WAYS)[:2] if part.small else list(_WAYS)
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: pathlib.Path(folder, str(number)) for number, name in enumerate(ways)}
        calls = {name: functools.partial(_measure, part, *_WAYS[name], kept[name]) for name in ways}
        first = programs.side_by_side(part, calls)
        for name, (seconds, _) in first.items():
            table.put(name, name, _WAYS[name][1], f"{seconds:.1f}", "", "")
        for name, (seconds, _) in first.items():
            for again, step in programs.side_by_side(part, {name: calls[name]}).values():
                table.put(name, name, _WAYS[name][1], f"{seconds:.1f}", f"{again:.1f}", f"{1e3 * step:.2f}")


def _measure(part, compiling, flags, kept):
    program = pathlib.Path(__file__).with_name("first_steps.py")
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), flags]).strip()
    words = [program, compiling, *(programs.TINY if part.small else ())]
    keep = f"--tf_xla_persistent_cache_directory={kept}"
    output, _ = programs.run(words, part.left(), XLA_FLAGS=flags, TF_XLA_FLAGS=keep)
    return json.loads(output.splitlines()[-1])


if __name__ == "__main__":
    main(Part.from_command_line())
