"""Runs a SavedModel in TensorFlow's C++ runtime, in a process that holds no Python TensorFlow.

TF Serving is a C++ program: it loads a SavedModel with TensorFlow's C++ loader, switches XLA off, and knows nothing of
Python. The TensorFlow wheel carries that loader in libtensorflow_cc. This file drives it through TensorFlow's C API, so
an export that leans on Python (a PyFunc op, a custom op of some package) or on XLA (jit_compile) fails here as it would
there. It needs the standard library and NumPy only and imports nothing of this package.

As a program, `python -P cpp_runtime.py request.json reply.npz`; the request is

    {"export_dir": "served/digits/1",
     "runs": [{"feeds": {"serving_default_seed:0": {"dtype": "int64", "values": [0, 1]}},
               "fetches": {"image": "StatefulPartitionedCall:0"}}]}

where a feed may name its "shape" (needed only when a dimension is 0), and strings, of dtype "string", are a flat list
in base64. The reply holds, for the run number 0, `0/array:NAME` for a numeric fetch; for strings `0/bytes:NAME` (all of
them joined, uint8), `0/offsets:NAME` (where each begins and ends) and `0/shape:NAME`. A failure is one line on stderr
and a non-zero status.

From Python, `run_in_cpp_runtime` starts that program and gives the arrays back.
"""

import base64
import contextlib
import ctypes
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_LIBRARY = "libtensorflow_cc.so.2"
_DISABLE_XLA = "_ZN10tensorflow21DisableXlaCompilationEv"  # tensorflow::DisableXlaCompilation()
_MESSAGE_PREFIX = "cpp_runtime: "
_STRING, _STRING_BYTES = 7, 24  # The type's number, and the size of a TF_TString.
_DTYPES = {  # TF_DataType -> NumPy
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64",
    10: "bool", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip


class _Output(ctypes.Structure):
    """TF_Output: one output of an operation."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def run_in_cpp_runtime(
    export_dir: str | os.PathLike, runs: list[tuple[dict[str, Any], dict[str, str]]], timeout: float | None = None
) -> list[dict[str, np.ndarray]]:
    """Loads a SavedModel in a new process with the C++ runtime alone, and runs it.

    Args:
        export_dir: the version folder that holds saved_model.pb.
        runs: pairs (feeds, fetches). Feeds: tensor name in the graph ("serving_default_seed:0") -> array, numeric or an
            object array of bytes. Fetches: a name of your choice -> tensor name ("StatefulPartitionedCall:0").
        timeout: seconds after which the process is stopped, None to wait for as long as it takes.

    Returns:
        For each run the fetches' names -> NumPy arrays; a string tensor is an object array of bytes.

    Raises:
        RuntimeError: the process failed; the message is its own.

    Example:
        >>> feeds, fetches = {"serving_default_seed:0": np.arange(2)}, {"image": "StatefulPartitionedCall:0"}
        >>> run_in_cpp_runtime("served/digits/1", [(feeds, fetches)])[0]["image"].shape  # doctest: +SKIP
        (2, 8, 8, 1)
    """
    request = {
        "export_dir": os.fspath(export_dir),
        "runs": [
            {"feeds": {name: _feed(np.asarray(array)) for name, array in feeds.items()}, "fetches": fetches}
            for feeds, fetches in runs
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        request_path, reply_path = Path(folder, "request.json"), Path(folder, "reply.npz")
        request_path.write_text(json.dumps(request))
        command = [sys.executable, "-P", os.path.abspath(__file__), str(request_path), str(reply_path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the C++ runtime gave no answer within {timeout} s") from None
        if done.returncode:
            raise RuntimeError(_failure(done.returncode, done.stderr))
        with np.load(reply_path, allow_pickle=False) as reply:
            return [_read_reply(reply, f"{number}/", fetches) for number, (_, fetches) in enumerate(runs)]


def _feed(array: np.ndarray) -> dict[str, Any]:
    if array.dtype == object:
        values = [base64.b64encode(string).decode() for string in array.ravel()]
        return {"dtype": "string", "shape": array.shape, "values": values}
    return {"dtype": array.dtype.name, "shape": array.shape, "values": array.tolist()}


def _failure(status: int, stderr: str) -> str:
    """The program's own message, or how the process ended if the runtime took it down (abort, segmentation fault)."""
    lines = stderr.strip().splitlines()
    own = [line.removeprefix(_MESSAGE_PREFIX) for line in lines if line.startswith(_MESSAGE_PREFIX)]
    return own[-1] if own else f"the C++ runtime ended with status {status}: {' '.join(lines[-3:])}"


def _read_reply(reply: Mapping[str, np.ndarray], run: str, fetches: Iterable[str]) -> dict[str, np.ndarray]:
    arrays = {}
    for name in fetches:
        if f"{run}array:{name}" in reply:
            arrays[name] = reply[f"{run}array:{name}"]
            continue
        text, offsets = reply[f"{run}bytes:{name}"].tobytes(), reply[f"{run}offsets:{name}"]
        strings = np.empty(len(offsets) - 1, object)  # NumPy's own bytes type would drop trailing NULs
        strings[:] = [text[start:end] for start, end in itertools.pairwise(offsets)]
        arrays[name] = strings.reshape(reply[f"{run}shape:{name}"])
    return arrays


def main(request_path: str, reply_path: str) -> None:
    """Reads the request, runs the model, writes the reply. Raises RuntimeError with a message for the user."""
    try:
        request = json.loads(Path(request_path).read_text())
        export_dir = str(request["export_dir"])
        runs = [
            ({name: _feed_array(name, feed) for name, feed in run["feeds"].items()}, dict(run["fetches"]))
            for run in request["runs"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"cannot use the request {request_path}: {error!r}") from error
    runtime = Runtime(load_library(), export_dir)
    reply: dict[str, Any] = {}
    for number, (feeds, fetches) in enumerate(runs):
        reply |= {f"{number}/{key}": array for key, array in runtime.run(feeds, fetches).items()}
    with open(reply_path, "wb") as file:  # given a path, savez would append .npz to it
        np.savez(file, **reply)
    if "tensorflow" in sys.modules:
        raise RuntimeError("Python TensorFlow was imported: this run does not show what the C++ runtime does alone")


def _feed_array(name: str, feed: dict[str, Any]) -> np.ndarray:
    allowed = sorted({*_DTYPES.values(), "string"})
    if feed.get("dtype") not in allowed:
        raise RuntimeError(f"feed {name}: dtype must be one of {allowed}. Received: {feed}")
    try:
        if feed["dtype"] == "string":
            strings = np.array([base64.b64decode(text, validate=True) for text in feed["values"]], object)
            return strings.reshape(feed["shape"])
        array = np.array(feed["values"], feed["dtype"])
        return np.ascontiguousarray(array.reshape(feed.get("shape", array.shape)))
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise RuntimeError(f"feed {name}: {error!r}") from error


def load_library() -> ctypes.CDLL:
    """The wheel's C++ library, found without importing TensorFlow, with XLA switched off as TF Serving does."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("TensorFlow is not installed, so there is no C++ runtime to load")
    path = Path(spec.submodule_search_locations[0], _LIBRARY)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.pop("TF_XLA_FLAGS", None)  # XLA is off; what asks for it in the environment would be an error.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the files for TF Serving in export/ do.
    try:
        with _silent_stderr():
            library = ctypes.CDLL(str(path))
        getattr(library, _DISABLE_XLA)()
    except (OSError, AttributeError) as error:
        raise RuntimeError(f"cannot use {path}: {error}") from error
    _declare(library)
    return library


@contextlib.contextmanager
def _silent_stderr():
    """The library's initializers log to file descriptor 2 before TF_CPP_MIN_LOG_LEVEL has any effect."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _declare(library: ctypes.CDLL) -> None:
    """ctypes takes every result for an int unless told, which cuts pointers in half."""
    pointer, size, integer, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p
    outputs, pointers = ctypes.POINTER(_Output), ctypes.POINTER(ctypes.c_void_p)
    dims = ctypes.POINTER(ctypes.c_int64)
    signatures = {
        "TF_NewStatus": (pointer, []),
        "TF_GetCode": (integer, [pointer]),
        "TF_Message": (text, [pointer]),
        "TF_NewGraph": (pointer, []),
        "TF_NewSessionOptions": (pointer, []),
        "TF_LoadSessionFromSavedModel": (
            pointer, [pointer, pointer, text, ctypes.POINTER(text), integer, pointer, pointer, pointer],
        ),
        "TF_GraphOperationByName": (pointer, [pointer, text]),
        "TF_OperationNumOutputs": (integer, [pointer]),
        "TF_AllocateTensor": (pointer, [integer, dims, integer, size]),
        "TF_SessionRun": (
            None,
            [pointer, pointer]  # session, options
            + [outputs, pointers, integer]  # feeds
            + [outputs, pointers, integer]  # fetches
            + [pointer, integer, pointer, pointer],  # targets, metadata, status
        ),
        "TF_TensorType": (integer, [pointer]),
        "TF_NumDims": (integer, [pointer]),
        "TF_Dim": (ctypes.c_int64, [pointer, integer]),
        "TF_TensorData": (pointer, [pointer]),
        "TF_TensorByteSize": (size, [pointer]),
        "TF_StringGetDataPointer": (pointer, [pointer]),
        "TF_StringGetSize": (size, [pointer]),
        "TF_StringInit": (None, [pointer]),
        "TF_StringCopy": (None, [pointer, text, size]),
    }  # fmt: skip
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


class Runtime:
    """A loaded SavedModel. Nothing is freed: a process of few runs is what it is for."""

    def __init__(self, library: ctypes.CDLL, export_dir: str) -> None:
        self._c = library
        self._graph = library.TF_NewGraph()
        self._status = library.TF_NewStatus()
        self._session = library.TF_LoadSessionFromSavedModel(
            library.TF_NewSessionOptions(), None, os.fsencode(export_dir), (ctypes.c_char_p * 1)(b"serve"), 1,
            self._graph, None, self._status,
        )  # fmt: skip
        self._check(f"cannot load {export_dir}")

    def run(self, feeds: dict[str, np.ndarray], fetches: dict[str, str]) -> dict[str, np.ndarray]:
        """Feeds (tensor name -> array), fetches (name -> tensor name) -> the reply's arrays."""
        inputs = (_Output * len(feeds))(*[self._output(name) for name in feeds])
        values = (ctypes.c_void_p * len(feeds))(*[self._tensor(array) for array in feeds.values()])
        outputs = (_Output * len(fetches))(*[self._output(name) for name in fetches.values()])
        results = (ctypes.c_void_p * len(fetches))()
        self._c.TF_SessionRun(
            self._session, None, inputs, values, len(feeds), outputs, results, len(fetches), None, 0, None, self._status
        )
        self._check("cannot run the model")
        reply = {}
        for name, tensor in zip(fetches, results):
            reply.update(self._reply(name, tensor))
        return reply

    def _check(self, what: str) -> None:
        if self._c.TF_GetCode(self._status):
            raise RuntimeError(f"{what}: {self._c.TF_Message(self._status).decode(errors='replace')}")

    def _output(self, tensor_name: str) -> _Output:
        operation_name, _, number = str(tensor_name).partition(":")
        operation = self._c.TF_GraphOperationByName(self._graph, operation_name.encode())
        index = int(number) if number.isdecimal() else 0 if not number else -1
        # The C API does not check the index itself: a wrong one would be read out of bounds.
        if not operation or not 0 <= index < self._c.TF_OperationNumOutputs(operation):
            raise RuntimeError(f"the graph has no tensor {tensor_name}")
        return _Output(operation, index)

    def _tensor(self, array: np.ndarray) -> int:
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        if array.dtype == object:
            return self._string_tensor(array, dims)
        dtype = next(code for code, name in _DTYPES.items() if name == array.dtype.name)
        tensor = self._c.TF_AllocateTensor(dtype, dims, array.ndim, array.nbytes)
        ctypes.memmove(self._c.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def _string_tensor(self, array: np.ndarray, dims: ctypes.Array) -> int:
        tensor = self._c.TF_AllocateTensor(_STRING, dims, array.ndim, array.size * _STRING_BYTES)
        for number, string in enumerate(array.ravel()):
            place = self._c.TF_TensorData(tensor) + number * _STRING_BYTES
            self._c.TF_StringInit(place)
            self._c.TF_StringCopy(place, string, len(string))
        return tensor

    def _reply(self, name: str, tensor: int) -> dict[str, np.ndarray]:
        dtype = self._c.TF_TensorType(tensor)
        shape = [self._c.TF_Dim(tensor, axis) for axis in range(self._c.TF_NumDims(tensor))]
        data, num_bytes = self._c.TF_TensorData(tensor), self._c.TF_TensorByteSize(tensor)
        if dtype == _STRING:
            strings = self._strings(data, num_bytes, int(np.prod(shape)))
            offsets = np.cumsum([0] + [len(string) for string in strings], dtype=np.int64)
            joined = np.frombuffer(b"".join(strings), np.uint8)
            return {f"bytes:{name}": joined, f"offsets:{name}": offsets, f"shape:{name}": np.array(shape, np.int64)}
        if dtype not in _DTYPES:
            raise RuntimeError(f"fetch {name}: TF_DataType {dtype} has no form in NumPy")
        content = ctypes.string_at(data, num_bytes) if num_bytes else b""
        return {f"array:{name}": np.frombuffer(content, _DTYPES[dtype]).reshape(shape)}

    def _strings(self, data: int, num_bytes: int, count: int) -> list[bytes]:
        stride = num_bytes // count if count else 0
        places = [data + i * stride for i in range(count)]
        return [ctypes.string_at(self._c.TF_StringGetDataPointer(p), self._c.TF_StringGetSize(p)) for p in places]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"{_MESSAGE_PREFIX}usage: python -I cpp_runtime.py request.json reply.npz")
    try:
        main(*sys.argv[1:])
    except (RuntimeError, OSError) as failure:
        sys.exit(_MESSAGE_PREFIX + " ".join(str(failure).split()))
