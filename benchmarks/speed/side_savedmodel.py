"""The side of an exported model in TensorFlow's C++ runtime, without Python TensorFlow. See protocol.py.

Its own command, `load`, comes before `prepare`: the answer of tf_blurdiff's `export`, with size and precision.
"""

import importlib.util
import pathlib
import sys

import numpy as np
import protocol
from sizes import SIZES


def _cpp_runtime():
    # The file alone: its package would import TensorFlow.
    (folder,) = importlib.util.find_spec("tf_blurdiff").submodule_search_locations
    spec = importlib.util.spec_from_file_location("cpp_runtime", pathlib.Path(folder, "serving", "cpp_runtime.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Exports:
    def __init__(self):
        self._runtime = _cpp_runtime()
        self._library = self._runtime.load_library()
        self._exports = {}

    def load(self, size, precision, **export):
        """Notes where the export for a size and a precision is."""
        self._exports[size, precision] = export
        return {}

    def make_action(self, what, size_name, precision):
        """Sampling only."""
        if what != "sampling" or "tensorflow" in sys.modules:
            raise ValueError(f"a SavedModel without Python TensorFlow cannot do: {what}")
        export = self._exports[size_name, precision]
        session = self._runtime.Runtime(self._library, export["export_dir"])
        feeds = {export["seed"]: np.arange(SIZES[size_name].batch, dtype=np.int64)}
        return lambda: session.run(feeds, {"image": export["image"]}), export["parameters"]


def main():
    """Loads the library after standard output is out of its reach."""
    answers = protocol.take_stdout()
    exports = _Exports()
    protocol.Conversation(answers, exports.make_action, load=exports.load).hold()


if __name__ == "__main__":
    main()
