"""The flags that say which signature of which server is asked, and with which inputs."""

import numpy as np
from absl import flags

from .calls import Endpoint, GrpcClient, RestClient
from .command_line import INT64, LARGEST, ClientError

_URL = flags.DEFINE_string("url", "http://localhost:8501", "Where the server answers REST.")
_GRPC = flags.DEFINE_string("grpc", None, "host:port where the server answers gRPC; used instead of --url.")
_MODEL = flags.DEFINE_string("model", "default", "The served model's name.")
_MODEL_VERSION = flags.DEFINE_integer("model_version", None, "The model's version (default: the newest).", 0, INT64[-1])
_SIGNATURE = flags.DEFINE_string("signature", "png", "The signature: png, serving_default, or another of their kind.")
_GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "For a model with guidance; 1, which is none, with --label."
)
_DEADLINE = flags.DEFINE_float("deadline", 300.0, "Seconds a request may take.", 0.001, 1e6)


def address() -> str:
    """The server's address, as it was given."""
    return _GRPC.value or _URL.value


def signature() -> str:
    """The signature that is asked."""
    return _SIGNATURE.value


def connect() -> GrpcClient | RestClient:
    """A client of the server that the flags name."""
    endpoint = Endpoint(_MODEL.value, _SIGNATURE.value, _DEADLINE.value, _MODEL_VERSION.value)
    return GrpcClient(_GRPC.value, endpoint) if _GRPC.value else RestClient(_URL.value, endpoint)


def description() -> str:
    """What is asked, in words."""
    version = "" if _MODEL_VERSION.value is None else f" version {_MODEL_VERSION.value}"
    how = f"gRPC at {_GRPC.value}" if _GRPC.value else f"REST at {_URL.value}"
    return f"{_MODEL.value}{version}, signature {_SIGNATURE.value}, {how}"


def inputs_for(seeds: list[int], labels: list[int] | None) -> dict[str, np.ndarray]:
    """The signature's inputs: input names -> one number a seed. Raises ClientError for a scale that is no number."""
    inputs = {"seed": np.array(seeds, np.int64)} | ({"label": np.array(labels, np.int64)} if labels else {})
    if _GUIDANCE_SCALE.value is not None:
        if not abs(_GUIDANCE_SCALE.value) <= LARGEST:
            raise ClientError(f"--guidance_scale must be a number, in 32 bits. Received: {_GUIDANCE_SCALE.value}")
        inputs["guidance_scale"] = np.full(len(seeds), _GUIDANCE_SCALE.value, np.float32)
    return inputs
