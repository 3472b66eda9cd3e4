"""The precision of the network's arithmetic: which there are, and which this machine has."""

import collections
import platform
import re
from pathlib import Path

import keras
import tensorflow as tf

from tf_blurdiff.errors import UserError, one_of

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# What Linux calls a processor's instructions for each, on x86 and on ARM; one of them is enough.
_INSTRUCTIONS = {
    "mixed_bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "mixed_float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}
_CPUINFO = Path("/proc/cpuinfo")
# NVIDIA's Ampere is the first with bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)


def processor_lacks(precision: str) -> bool:
    """Whether this processor is known to have no instructions for a precision, and emulates it.

    Where the system does not say what the processor has, the answer is no.

    Example:
        >>> processor_lacks("float32")
        False
    """
    flags = _processor_flags()
    return precision in _INSTRUCTIONS and flags is not None and not _INSTRUCTIONS[precision] & flags


def fast_precision() -> str:
    """mixed_bfloat16 where all GPUs, or without one the processor, are known to have it; else float32.

    Example:
        >>> fast_precision() in ("float32", "mixed_bfloat16")
        True
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
        has_bfloat16 = all(each and each >= _BFLOAT16_CAPABILITY for each in capabilities)
    else:
        has_bfloat16 = bool(_INSTRUCTIONS["mixed_bfloat16"] & (_processor_flags() or set()))
    return "mixed_bfloat16" if has_bfloat16 else "float32"


def _processor_flags():
    """What Linux says that the processor has, or None where nobody says."""
    if platform.system() != "Linux":
        return None
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", _CPUINFO.read_text(), re.MULTILINE)
    return flags and set(flags.group(1).split())


def in_precision(network: keras.Model, precision: str) -> keras.Model:
    """A copy of a Keras network that computes in another precision; its weights are float32 in any.

    Every layer whose policy is the network's own, or where its config does not say which that is, the one of most
    layers, gets the new one; a layer that was given another keeps it.

    Args:
        network: a built Keras model.
        precision: one of PRECISIONS.

    Raises:
        UserError: for another precision, and for a network whose config does not say in which it computes.

    Example:
        >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> in_precision(network, "mixed_bfloat16").layers[0].compute_dtype
        'bfloat16'
    """
    one_of("precision", precision, PRECISIONS)
    serialized = keras.saving.serialize_keras_object(network)
    policies = [each["config"] for each in _policies(serialized)]
    names = collections.Counter(policy["name"] for policy in policies)
    if not names:
        raise UserError(f"{network.name}'s config does not say in which precision it computes; it cannot be changed")
    # A functional model's config says it of the layers alone, and what is loaded from it is float32 itself.
    own = network.dtype_policy.name if network.dtype_policy.name in names else names.most_common(1)[0][0]
    for policy in policies:
        if policy["name"] == own:
            policy["name"] = precision
    copy = keras.saving.deserialize_keras_object(serialized)
    copy.set_weights(network.get_weights())
    return copy


def _policies(node):
    """Every policy in a serialized object, wherever it stands."""
    if isinstance(node, dict):
        if node.get("class_name") == "DTypePolicy":
            yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for part in node:
            yield from _policies(part)
