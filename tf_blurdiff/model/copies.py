"""Copies of a model that draw the same images, and how such are told from others."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from tf_blurdiff import networks
from tf_blurdiff.model.training_state import freeze, frozen_places


def fingerprint(model: Any) -> str:
    """`DiffusionModel.fingerprint`."""
    arguments = {name: value for name, value in model.get_config().items() if name != "class_names"}
    # NumPy's numbers as those that Keras makes of them in a file.
    text = json.dumps(arguments, sort_keys=True, default=lambda number: number.item())
    digest = hashlib.sha256(text.encode())
    for variable in lasting_variables(model):
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).data)
    return digest.hexdigest()


def lasting_variables(model: Any) -> list[keras.Variable]:
    """`sampling_variables` without the states of Keras's seed generators, which are new in every process."""
    network = model.network
    states = {id(each) for each in network.variables} - {id(each) for each in network.weights}
    return [variable for variable in model.sampling_variables if id(variable) not in states]


def averaged(model: Any) -> Any:
    """`DiffusionModel.averaged`."""
    copy = type(model).from_config({**model.get_config(), "ema_decay": None})
    for variable, value in zip(copy.sampling_variables, model.sampling_variables, strict=True):
        variable.assign(value)
    freeze(copy, frozen_places(model))
    return copy


def in_precision(model: Any, precision: str) -> Any:
    """`DiffusionModel.in_precision`."""
    network = keras.saving.serialize_keras_object(networks.in_precision(model.network, precision))
    copy = type(model).from_config({**model.get_config(), "network": network})
    copy.set_weights(model.get_weights())
    freeze(copy, frozen_places(model))
    return copy
