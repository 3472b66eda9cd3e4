"""What training a model needs beside its weights: an optimizer that fits, and which weights are frozen."""

from collections.abc import Collection
from typing import Any

import keras

from tf_blurdiff.errors import UserError
from tf_blurdiff.model.averages import learnable, places
from tf_blurdiff.networks import batches_per_update, expect_summed_gradients


def prepare_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer expect gradients that are summed over the replicas.

    Raises:
        UserError: for an optimizer that scales the loss, which the model does itself.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UserError("optimizer must be a plain one: the model scales its loss itself where float16 needs it")
    expect_summed_gradients(optimizer)


def build_optimizer(model: Any) -> None:
    """Makes the variables of a compiled model's optimizer, if they are not there, for what is to be trained.

    Raises:
        UserError: if every weight is frozen, or if some were when the variables were made and are no longer.
    """
    weights = model.network.trainable_variables
    if not weights:
        raise UserError("every weight of the network is frozen: there is nothing to train")
    _build(model, weights)
    if not all(_knows(model.optimizer, weight) for weight in weights):
        raise UserError("weights that were frozen when the model was compiled are frozen no longer: compile it again")


def _build(model, weights):
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(weights)
    # The parts of some optimizers are known only now.
    expect_summed_gradients(model.optimizer)
    num_replicas = model.distribute_strategy.num_replicas_in_sync
    if batches_per_update(model.optimizer) > 1 and num_replicas > 1:
        raise UserError(
            f"gradient_accumulation_steps must be None on {num_replicas} devices: Keras accumulates gradients on one "
            "alone; take fewer images a batch, or a network with rematerialize=True"
        )
    if model.steps_per_execution > 1 and num_replicas > 1:
        raise UserError(
            f"steps_per_execution must be 1 on {num_replicas} devices: Keras cannot loop over steps there. "
            f"Received: {model.steps_per_execution}"
        )


def _knows(optimizer, weight):
    try:
        optimizer._check_variables_are_known([weight])  # Keras has no public way to ask.
    except ValueError:
        return False
    return True


def names_in_training(model: Any) -> dict[str, list[str]]:
    """Which layers and weights of a compiled model are frozen, and which weights the optimizer has variables for.

    By their places in the network. Keras saves neither for layers inside of other layers.
    """
    place, optimizer = places(model.network), model.optimizer
    known = (weight for weight in learnable(model.network) if optimizer.built and _knows(optimizer, weight))
    return {"frozen": frozen_places(model), "optimized": [place[id(weight)] for weight in known if id(weight) in place]}


def frozen_places(model: Any) -> list[str]:
    """The places in its network of a model's frozen layers and weights."""
    place = places(model.network)
    return [place[id(each)] for each in _layers_and_weights(model) if not each.trainable and id(each) in place]


def freeze(model: Any, frozen: Collection[str]) -> None:
    """Freezes the layers and weights at these places."""
    place = places(model.network)
    for each in _layers_and_weights(model):
        if place.get(id(each)) in frozen:
            each.trainable = False


def _layers_and_weights(model):
    # Layers first, and as such: Keras frees no weight of a layer that is not frozen itself.
    return [*model.network._flatten_layers(), *learnable(model.network)]


def restore_names(model: Any, frozen: Collection[str] = (), optimized: Collection[str] | None = None) -> None:
    """Freezes what was frozen, and makes the optimizer's variables that were there, which can then be loaded.

    What a file of earlier versions does not say, it is what Keras takes it to be.
    """
    freeze(model, frozen)
    place, weights = places(model.network), learnable(model.network)
    if optimized is None:
        _build(model, model.network.trainable_variables or weights)
    elif optimized:
        _build(model, [weight for weight in weights if place.get(id(weight)) in optimized])
