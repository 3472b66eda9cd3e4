"""Copies of a model that draw the same images, and how such are told from others."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from tf_blurdiff import networks


def fingerprint(model: Any) -> str:
    """`DiffusionModel.fingerprint`."""
    arguments = {name: value for name, value in model.get_config().items() if name != "class_names"}
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    # The states of Keras's seed generators are new in every process.
    network = model.network
    states = {id(each) for each in network.variables} - {id(each) for each in network.weights}
    for variable in model.sampling_variables:
        if id(variable) not in states:
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).data)
    return digest.hexdigest()


def averaged(model: Any) -> Any:
    """`DiffusionModel.averaged`."""
    copy = type(model).from_config({**model.get_config(), "ema_decay": None})
    for variable, value in zip(copy.sampling_variables, model.sampling_variables, strict=True):
        variable.assign(value)
    return copy


def in_precision(model: Any, precision: str) -> Any:
    """`DiffusionModel.in_precision`."""
    network = keras.saving.serialize_keras_object(networks.in_precision(model.network, precision))
    copy = type(model).from_config({**model.get_config(), "network": network})
    copy.set_weights(model.get_weights())
    return copy
