"""How long an export takes in TensorFlow's C++ runtime, in a process that holds no Python TensorFlow.

From Python, `times_in_cpp_runtime`, which starts this file as the program of that process:

    python -I runtime_times.py cpp_runtime.py export_dir feeds.npz OUTPUT num_calls reply.npz

where cpp_runtime.py is the package's own, by its path, for the package would import TensorFlow. It prints a line after
loading and after each call.
"""

import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np


class Times(NamedTuple):
    """Seconds of loading, seconds of each call, and what the last call gave."""

    load: float
    calls: list
    answer: np.ndarray


def times_in_cpp_runtime(export_dir, feeds, output, num_calls, progress=lambda: None):
    """Loads a SavedModel in a new process, and calls it some times with the same inputs, one after the other.

    Args:
        export_dir: the folder that holds saved_model.pb.
        feeds: tensor name in the graph -> array of numbers.
        output: the name of a numeric tensor.
        num_calls: how often.
        progress: called after loading and after each call.

    Returns:
        `Times`. Loading is from the call of TensorFlow's loader to a session with restored variables; starting the
        process and its library is not in it.

    Raises:
        RuntimeError: the process failed; the message is its own.
    """
    (package,) = importlib.util.find_spec("tf_blurdiff").submodule_search_locations
    runtime = pathlib.Path(package, "serving", "cpp_runtime.py")
    with tempfile.TemporaryDirectory() as folder:
        given, reply, errors = (pathlib.Path(folder, name) for name in ("feeds.npz", "reply.npz", "errors.txt"))
        np.savez(given, **feeds)
        command = [sys.executable, "-I", __file__, runtime, export_dir, given, output, num_calls, reply]
        with (
            open(errors, "w") as stderr,
            subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=stderr) as process,
        ):
            for _ in process.stdout:
                progress()
        if process.returncode:
            raise RuntimeError(" ".join(errors.read_text(errors="replace").split()) or f"status {process.returncode}")
        with np.load(reply) as arrays:
            return Times(float(arrays["load"]), arrays["calls"].tolist(), arrays["answer"])


def main(runtime, export_dir, given, output, num_calls, reply):
    """Loads, calls, and writes the reply."""
    spec = importlib.util.spec_from_file_location("cpp_runtime", runtime)
    cpp_runtime = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cpp_runtime)
    library = cpp_runtime.load_library()
    with np.load(given) as arrays:
        feeds = dict(arrays)
    session, load = _timed(lambda: cpp_runtime.Runtime(library, export_dir))
    calls = []
    for _ in range(int(num_calls)):
        answer, seconds = _timed(lambda: session.run(feeds, {"answer": output}))
        calls.append(seconds)
    if "tensorflow" in sys.modules:
        raise RuntimeError("Python TensorFlow was imported: these are not the times of the C++ runtime alone")
    np.savez(reply, load=load, calls=calls, answer=answer["array:answer"])


def _timed(action):
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    print("done", flush=True)
    return result, seconds


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RuntimeError as failure:
        sys.exit(str(failure))
