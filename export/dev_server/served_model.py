"""One version of one model: loading, checking a request, running it in a thread."""

import asyncio
import concurrent.futures
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from .batching import Arrays, BatchScheduler
from .errors import ServingError, time_limit
from .metrics import ServerMetrics
from .tensors import arrays_from_protos

SERVE_TAG = "serve"
DEFAULT_SIGNATURE = "serving_default"
MAX_ROWS = 1000  # of a request without batching: TF Serving's default for one with it
_WARMUP_FILE = Path("assets.extra/tf_serving_warmup_requests")
_MAX_WARMUP_RECORDS = 1000
# TensorFlow lets go of Python's lock while it runs. TF Serving, too, has four threads a core for REST.
_THREADS = concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1), thread_name_prefix="run")


async def load(
    name: str, version: int, path: Path, metrics: ServerMetrics, scheduler: BatchScheduler | None = None
) -> "ServedModel":
    """A `ServedModel`, warmed up. Whatever goes wrong is a ServingError of one line: the version's state, no reply."""
    try:
        model = await asyncio.to_thread(ServedModel, name, version, path, metrics, scheduler)
        await model.warm_up()
        return model
    except ServingError:
        raise
    except Exception as error:
        code = "NOT_FOUND" if isinstance(error, FileNotFoundError) else "UNKNOWN"
        if isinstance(error, tf.errors.OpError):
            code = error_codes_pb2.Code.Name(error.error_code)
        raise ServingError(code, next(iter(str(error).splitlines()), "") or type(error).__name__) from None


class ServedModel:
    """One version of one model.

    Args:
        name: the name clients ask for.
        version: the version's number.
        path: the version's folder, which holds saved_model.pb.
        metrics: where the time of each run is noted.
        scheduler: joins requests; None runs each by itself.

    Raises:
        Exception: TensorFlow and protobuf raise many kinds for a broken SavedModel (see `load`).
    """

    def __init__(
        self, name: str, version: int, path: Path, metrics: ServerMetrics, scheduler: BatchScheduler | None = None
    ):
        self.name, self.version = name, version
        self.signature_defs = _read_signature_defs(path)
        self._loaded = tf.saved_model.load(str(path), tags=[SERVE_TAG])
        self._metrics, self._scheduler = metrics, scheduler
        self._warmup_path = path / _WARMUP_FILE

    def input_dtypes(self, signature_name: str) -> dict[str, np.dtype]:
        """The inputs of a signature -> NumPy dtypes. Raises ServingError for an unknown signature."""
        if signature_name not in self._loaded.signatures:
            raise ServingError(
                "INVALID_ARGUMENT", f'Serving signature name: "{signature_name}" not found in signature def'
            )
        inputs = self.signature_defs[signature_name].inputs
        return {name: np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype) for name, info in inputs.items()}

    async def predict(
        self,
        signature_name: str,
        inputs: Arrays,
        output_filter: Sequence[str] = (),
        timeout_seconds: float | None = None,
    ) -> Arrays:
        """Runs a signature: input names -> arrays to output names -> arrays, within the time given, if one is.

        Raises:
            ServingError: the request is wrong, too late, or fails while it runs.
        """
        signature_def = self._signature_def(signature_name)
        _check_inputs(signature_def, inputs)
        wanted = _wanted_outputs(signature_def, output_filter)
        if self._scheduler is None:
            _check_rows(signature_def, inputs)
            async with time_limit(timeout_seconds):
                return await self._run(signature_name, inputs, wanted)
        shapes = tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))
        key = (self, signature_name, wanted, shapes)
        return await self._scheduler.run(
            key, inputs, lambda joined: self._run(signature_name, joined, wanted), timeout_seconds
        )

    async def warm_up(self) -> None:
        """Replays the requests that the export recorded; TF Serving, too, takes no version whose warm-up fails."""
        for request in await asyncio.to_thread(lambda: list(_warmup_requests(self._warmup_path))):
            signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            signature_def, inputs = self._signature_def(signature_name), arrays_from_protos(request.inputs)
            _check_inputs(signature_def, inputs)
            await self._run(signature_name, inputs, _wanted_outputs(signature_def, request.output_filter))

    def _signature_def(self, signature_name: str):
        if signature_name not in self._loaded.signatures:
            raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{signature_name}" not found.')
        return self.signature_defs[signature_name]

    async def _run(self, signature_name: str, inputs: Arrays, wanted: tuple) -> Arrays:
        loop = asyncio.get_running_loop()
        outputs, seconds = await loop.run_in_executor(_THREADS, self._call, signature_name, inputs, wanted)
        self._metrics.runtime_latency.observe(seconds * 1e6, self.name, "Predict", "TF2")
        return outputs

    def _call(self, signature_name: str, inputs: Arrays, wanted: tuple) -> tuple[Arrays, float]:
        """In a thread: the outputs, and the seconds that they took."""
        started = time.perf_counter()
        try:
            tensors = {name: tf.constant(array, tf.as_dtype(array.dtype)) for name, array in inputs.items()}
            outputs = self._loaded.signatures[signature_name](**tensors)
            arrays = {name: outputs[name].numpy() for name in wanted}
        except tf.errors.OpError as error:
            raise ServingError(error_codes_pb2.Code.Name(error.error_code), _without_stack(error.message)) from None
        return arrays, time.perf_counter() - started


def _warmup_requests(path: Path) -> Iterator:
    """The PredictRequests of a file of PredictionLogs; none if there is no file."""
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator() if path.is_file() else ()
    for index, record in enumerate(records):
        if index == _MAX_WARMUP_RECORDS:
            raise ServingError("INVALID_ARGUMENT", f"Number of warmup records exceeds the maximum ({index})")
        log = prediction_log_pb2.PredictionLog.FromString(record)
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            raise ServingError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}")
        yield log.predict_log.request


def _read_signature_defs(path: Path) -> dict:
    """tf.saved_model.load keeps no SignatureDef, and the metadata that clients ask for is exactly those."""
    saved_model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for meta_graph in saved_model.meta_graphs:
        if SERVE_TAG in meta_graph.meta_info_def.tags:
            return dict(meta_graph.signature_def)
    raise ValueError(f"{path} has no graph with the tag {SERVE_TAG!r}")


def _check_inputs(signature_def, inputs: dict) -> None:
    expected = signature_def.inputs
    if set(inputs) != set(expected):
        lists = {
            "received": set(inputs),
            "expected": set(expected),
            "extra": set(inputs) - set(expected),
            "missing": set(expected) - set(inputs),
        }
        texts = {key: "{" + ",".join(sorted(names)) + "}" for key, names in lists.items()}
        raise ServingError(
            "INVALID_ARGUMENT",
            f"input size does not match signature: {len(inputs)}!={len(expected)} "
            f"len({texts['received']}) != len({texts['expected']}). "
            f"Sent extra: {texts['extra']}. Missing but required: {texts['missing']}.",
        )
    for name, array in inputs.items():
        dtype, shape = tf.as_dtype(expected[name].dtype), tf.TensorShape(expected[name].tensor_shape)
        if tf.as_dtype(array.dtype) != dtype:
            raise ServingError(
                "INVALID_ARGUMENT", f"input {name} must be {dtype.name}. Received: {tf.as_dtype(array.dtype).name}"
            )
        if not shape.is_compatible_with(array.shape):
            raise ServingError("INVALID_ARGUMENT", f"input {name} must have shape {shape}. Received: {array.shape}")


def _check_rows(signature_def, inputs: dict) -> None:
    """A request of millions of rows would end the process, for lack of memory."""
    for name, array in inputs.items():
        shape = tf.TensorShape(signature_def.inputs[name].tensor_shape)
        if (shape.rank is None or (shape.rank and shape[0] is None)) and array.shape[:1] > (MAX_ROWS,):
            message = f"input {name}: a request may have {MAX_ROWS} rows. Received: {array.shape[0]}"
            raise ServingError("INVALID_ARGUMENT", message)


def _wanted_outputs(signature_def, output_filter) -> tuple:
    known = sorted(signature_def.outputs)
    for index, name in enumerate(output_filter):
        if name not in known:
            raise ServingError(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(known)}}}.",
            )
        if name in output_filter[:index]:
            raise ServingError("INVALID_ARGUMENT", f"duplicate output tensor alias: {name}")
    return tuple(output_filter) or tuple(known)


def _without_stack(message: str) -> str:
    """Python's TensorFlow wraps the runtime's message in stack traces, which TF Serving does not know."""
    lines = [line.strip() for line in message.splitlines()]
    noise = re.compile(r'(Graph execution error|Detected at node|File "|<stack traces|\[\[|$)')
    kept = [line for line in lines if not noise.match(line)]
    return re.sub(r"\s*\[Op:[^\]]*\]", "", " ".join(kept)) or message.splitlines()[0]
