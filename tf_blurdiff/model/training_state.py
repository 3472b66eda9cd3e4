"""What training a model needs beside its weights: an optimizer that fits, and which weights are frozen."""

from collections.abc import Collection
from typing import Any

import keras

from tf_blurdiff.errors import UserError
from tf_blurdiff.model.averages import learnable, weight_paths
from tf_blurdiff.networks import batches_per_update, expect_summed_gradients


def check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises a UserError for an optimizer that scales the loss, which the model does itself."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UserError("optimizer must be a plain one: the model scales its loss itself where float16 needs it")


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
    batches_per_update(model.optimizer)


def _knows(optimizer, weight):
    try:
        optimizer._check_variables_are_known([weight])  # Keras has no public way to ask.
    except ValueError:
        return False
    return True


def paths_in_training(model: Any) -> dict[str, list[str]]:
    """Which weights of a compiled model are frozen, and which the optimizer has variables for, by their paths.

    Keras saves neither for layers inside of other layers.
    """
    paths, weights = weight_paths(model.network), learnable(model.network)
    optimizer = model.optimizer
    optimized = [weight for weight in weights if optimizer.built and _knows(optimizer, weight)]
    frozen = [weight for weight in weights if not weight.trainable]
    named = lambda weights: [paths[id(weight)] for weight in weights if id(weight) in paths]
    return {"frozen": named(frozen), "optimized": named(optimized)}


def restore_paths(model: Any, frozen: Collection[str], optimized: Collection[str]) -> None:
    """Freezes those weights again, and makes the optimizer's variables, which can then be loaded."""
    paths = weight_paths(model.network)
    have = lambda names: [weight for weight in learnable(model.network) if paths.get(id(weight)) in names]
    for weight in have(frozen):
        weight.trainable = False
    weights = have(optimized) or model.network.trainable_variables
    _build(model, weights or learnable(model.network))
