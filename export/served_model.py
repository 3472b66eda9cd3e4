"""The models that the development server holds: loading, finding, checking a request, running. No transport here."""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2

SERVE_TAG = "serve"
DEFAULT_SIGNATURE = "serving_default"


class ServingError(Exception):
    """A request that cannot be answered: the name of a gRPC status code ("NOT_FOUND") and a message for the client."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class ServedModel:
    """One version of one model.

    Args:
        name: the name clients ask for.
        version: the version's number.
        path: the version's folder, which holds saved_model.pb.
    """

    def __init__(self, name: str, version: int, path: Path):
        self.name, self.version = name, version
        self.signature_defs = _read_signature_defs(path)
        self._loaded = tf.saved_model.load(str(path), tags=[SERVE_TAG])

    def input_dtypes(self, signature_name: str) -> dict:
        """The inputs of a signature -> NumPy dtypes."""
        if signature_name not in self._loaded.signatures:
            raise ServingError("INVALID_ARGUMENT", f'Serving signature name: "{signature_name}" not found')
        inputs = self.signature_defs[signature_name].inputs
        return {name: np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype) for name, info in inputs.items()}

    def predict(self, signature_name: str, inputs: dict, output_filter=()) -> dict:
        """Runs a signature: input names -> arrays to output names -> arrays."""
        if signature_name not in self._loaded.signatures:
            raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{signature_name}" not found.')
        signature_def = self.signature_defs[signature_name]
        _check_inputs(signature_def, inputs)
        wanted = list(output_filter) or sorted(signature_def.outputs)
        if unknown := set(wanted) - set(signature_def.outputs):
            raise ServingError("INVALID_ARGUMENT", f"output tensor alias not found in signature: {sorted(unknown)}")
        tensors = {name: tf.constant(array, tf.as_dtype(array.dtype)) for name, array in inputs.items()}
        try:
            outputs = self._loaded.signatures[signature_name](**tensors)
        except tf.errors.OpError as error:
            raise ServingError(error_codes_pb2.Code.Name(error.error_code), _without_stack(error.message)) from error
        return {name: outputs[name].numpy() for name in wanted}


class Models:
    """What the server serves. One model today; a lookup by name, so that there can be more."""

    def __init__(self, *models: ServedModel):
        self._models = {model.name: model for model in models}

    def find(self, name: str, version: int | None = None) -> ServedModel:
        """The model of that name and version, or of that name if no version is asked for."""
        model = self._models.get(name)
        if model is None or version not in (None, model.version):
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {asked}")
        return model

    def available_versions(self, name: str, version: int | None = None) -> list:
        """The versions whose state a status request reports."""
        try:
            return [self.find(name, version).version]
        except ServingError:
            missing = "any versions" if version is None else f"version {version}"
            raise ServingError("NOT_FOUND", f"Could not find {missing} of model {name}") from None


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
        extra, missing = sorted(set(inputs) - set(expected)), sorted(set(expected) - set(inputs))
        raise ServingError(
            "INVALID_ARGUMENT",
            f"input size does not match signature: {len(inputs)}!={len(expected)}. "
            f"Sent extra: {extra}. Missing but required: {missing}.",
        )
    for name, array in inputs.items():
        dtype, shape = tf.as_dtype(expected[name].dtype), tf.TensorShape(expected[name].tensor_shape)
        if tf.as_dtype(array.dtype) != dtype:
            raise ServingError(
                "INVALID_ARGUMENT", f"input {name} must be {dtype.name}. Received: {tf.as_dtype(array.dtype).name}"
            )
        if not shape.is_compatible_with(array.shape):
            raise ServingError("INVALID_ARGUMENT", f"input {name} must have shape {shape}. Received: {array.shape}")


def _without_stack(message: str) -> str:
    """Python's TensorFlow wraps the runtime's message in stack traces, which TF Serving does not know."""
    lines = [line.strip() for line in message.splitlines()]
    noise = re.compile(r'(Graph execution error|Detected at node|File "|<stack traces|\[\[|$)')
    kept = [line for line in lines if not noise.match(line)]
    return re.sub(r"\s*\[Op:[^\]]*\]", "", " ".join(kept)) or message.splitlines()[0]
