"""One version of one model: loading, checking a request, running. No transport here."""

import re
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from .batching import BatchScheduler
from .errors import ServingError
from .metrics import ServerMetrics
from .tensors import arrays_from_protos
from .time_limit import run_within

SERVE_TAG = "serve"
DEFAULT_SIGNATURE = "serving_default"
MAX_ROWS = 1000  # of a request without batching: TF Serving's default for one with it
_WARMUP_FILE = Path("assets.extra/tf_serving_warmup_requests")
_MAX_WARMUP_RECORDS = 1000


def load(name: str, version: int, path: Path, metrics: ServerMetrics, scheduler: BatchScheduler | None = None):
    """A `ServedModel`, warmed up. Whatever goes wrong is a ServingError of one line."""
    try:
        return ServedModel(name, version, path, metrics, scheduler)
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
        self._warm_up(path / _WARMUP_FILE)

    def input_dtypes(self, signature_name: str) -> dict:
        """The inputs of a signature -> NumPy dtypes."""
        if signature_name not in self._loaded.signatures:
            raise ServingError(
                "INVALID_ARGUMENT", f'Serving signature name: "{signature_name}" not found in signature def'
            )
        inputs = self.signature_defs[signature_name].inputs
        return {name: np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype) for name, info in inputs.items()}

    def check_method(self, signature_name: str, kind: str) -> None:
        """Refuses a signature that is not for "classification" or "regression", and then one that is."""
        if signature_name not in self.signature_defs:
            raise ServingError("INVALID_ARGUMENT", f"No signature was found with the name: {signature_name}")
        expected = {"classification": "tensorflow/serving/classify", "regression": "tensorflow/serving/regress"}[kind]
        method = self.signature_defs[signature_name].method_name
        if method != expected:
            message = f"Expected {kind} signature method_name to be {expected}. Was: {method}"
            raise ServingError("INVALID_ARGUMENT", message)
        raise ServingError("UNIMPLEMENTED", f"this development server runs no {kind} signatures")

    def predict(
        self, signature_name: str, inputs: dict, output_filter=(), timeout_seconds: float | None = None
    ) -> dict:
        """Runs a signature: input names -> arrays to output names -> arrays, within the time given, if one is."""
        if signature_name not in self._loaded.signatures:
            raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{signature_name}" not found.')
        signature_def = self.signature_defs[signature_name]
        _check_inputs(signature_def, inputs)
        wanted = _wanted_outputs(signature_def, output_filter)

        def run(joined: dict) -> dict:
            return self._run(signature_name, joined, wanted)

        if self._scheduler is None:
            _check_rows(signature_def, inputs)
            return run_within(timeout_seconds, lambda: run(inputs))
        shapes = tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))
        return self._scheduler.run((self, signature_name, wanted, shapes), inputs, run, timeout_seconds)

    def _run(self, signature_name: str, inputs: dict, wanted: tuple) -> dict:
        started = time.perf_counter()
        try:
            tensors = {name: tf.constant(array, tf.as_dtype(array.dtype)) for name, array in inputs.items()}
            outputs = self._loaded.signatures[signature_name](**tensors)
            arrays = {name: outputs[name].numpy() for name in wanted}
        except tf.errors.OpError as error:
            raise ServingError(error_codes_pb2.Code.Name(error.error_code), _without_stack(error.message)) from error
        self._metrics.runtime_latency.observe((time.perf_counter() - started) * 1e6, self.name, "Predict", "TF2")
        return arrays

    def _warm_up(self, path: Path) -> None:
        """Replays the requests that the export recorded; TF Serving, too, takes no version whose warm-up fails."""
        if not path.is_file():
            return
        for index, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            if index == _MAX_WARMUP_RECORDS:
                raise ServingError("INVALID_ARGUMENT", f"Number of warmup records exceeds the maximum ({index})")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            if kind != "predict_log":
                raise ServingError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}")
            request = log.predict_log.request
            signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            signature_def = self.signature_defs.get(signature_name)
            if signature_def is None:
                raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{signature_name}" not found.')
            inputs = arrays_from_protos(request.inputs)
            _check_inputs(signature_def, inputs)
            self._run(signature_name, inputs, _wanted_outputs(signature_def, request.output_filter))


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
