"""Writes to a JSON file what is known of this machine: card, driver, versions of TensorFlow, Keras, CUDA and cuDNN."""

import ctypes
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys


def main():
    """Writes to the file that the program's argument names."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    cards = [f"{each.get('device_name')}, compute capability {each.get('compute_capability')}" for each in details]
    build = tf.sysconfig.get_build_info()
    about = {
        "cards": cards,
        **_of_driver(),
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} threads",
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": importlib.metadata.version("keras"),
        "built with CUDA": build.get("cuda_version"),
        "cudart": _version("libcudart.so.12", "cudaRuntimeGetVersion", by_reference=True),
        "cuDNN": _version("libcudnn.so.9", "cudnnGetVersion"),
        "date": str(datetime.datetime.now(datetime.UTC).date()),
    }
    pathlib.Path(sys.argv[1]).write_text(json.dumps(about))


def line(about):
    """The same, for people."""
    first = "; ".join(about["cards"]) or f"no GPU; {about['processor']}"
    rest = ", ".join(f"{name} {value}" for name, value in about.items() if name not in ("cards", "processor") and value)
    return f"{first}; {rest}"


def _of_driver():
    """The driver's version and the first card's memory; nothing where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        first = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.splitlines()[0]
        driver, mebibytes = first.split(", ")
        return {"driver": driver, "memory in MiB": int(mebibytes)}
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        return {}


def _version(library, function, by_reference=False):
    """What a library says of its version, if it is there; TensorFlow has opened it by then."""
    try:
        call = getattr(ctypes.CDLL(library), function)
    except (OSError, AttributeError):
        return None
    if not by_reference:
        return int(call())
    number = ctypes.c_int()
    return number.value if call(ctypes.byref(number)) == 0 else None


if __name__ == "__main__":
    main()
