"""Adam in one operation per weight, and optimizers whose gradients are summed over the replicas already."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_blurdiff.errors import UserError


@keras.saving.register_keras_serializable("tf_blurdiff")
class Adam(keras.optimizers.Adam):
    """`keras.optimizers.Adam`, whose step reads and writes each weight and its moments once.

    Keras spells the step out in some ten operations, each of which is a pass over memory. TensorFlow has the same
    formula as one. Arguments, results and saved state are Keras's; with `amsgrad` the step is Keras's too.

    Example:
        >>> weight = keras.Variable([1.0, 2.0])
        >>> Adam(0.1).apply([keras.ops.convert_to_tensor([1.0, -1.0])], [weight])
        >>> weight.numpy().round(4).tolist()
        [0.8999999761581421, 2.0999999046325684]

    Reference: Kingma and Ba, Adam, 2015, the end of section 2.
    """

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        self._numbers: dict[str, dict[str, Any]] = {}
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        index, dtype = self._get_variable_index(variable), variable.dtype
        # The same for all weights: made once a step, not hundreds of times.
        if dtype not in self._numbers:
            self._numbers[dtype] = self._numbers_of_step(learning_rate, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            grad=tf.cast(gradient, dtype),
            **self._numbers[dtype],
        )

    def _numbers_of_step(self, learning_rate, dtype):
        beta_1, beta_2 = tf.constant(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        step = ops.cast(self.iterations + 1, dtype)
        return {
            "beta1_power": tf.pow(beta_1, step),
            "beta2_power": tf.pow(beta_2, step),
            "lr": tf.cast(learning_rate, dtype),
            "beta1": beta_1,
            "beta2": beta_2,
            "epsilon": tf.constant(self.epsilon, dtype),
        }


def expect_summed_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Tells a Keras optimizer that its gradients are sums over the replicas already.

    Else it would send them round again, and under n replicas make steps of n times the gradient. Keras has no public
    way to say so.

    Raises:
        RuntimeError: if this version of Keras has not the method that would sum them.
    """
    for part in _parts(optimizer):
        if not callable(getattr(part, "_all_reduce_sum_gradients", None)):
            raise RuntimeError(
                f"Keras {keras.__version__} sums gradients over replicas in a way that this package does not know: "
                "training on several devices would make steps that are too large"
            )
        part._all_reduce_sum_gradients = lambda gradients_and_weights: gradients_and_weights


def batches_per_update(optimizer: keras.optimizers.Optimizer) -> int:
    """Of how many batches an optimizer accumulates the gradients before it updates the weights.

    Raises:
        UserError: if the parts of a MultiOptimizer differ in it.

    Example:
        >>> batches_per_update(keras.optimizers.SGD(gradient_accumulation_steps=4)), batches_per_update(Adam())
        (4, 1)
    """
    numbers = {part.gradient_accumulation_steps or 1 for part in _parts(optimizer)}
    if len(numbers) > 1:
        raise UserError(
            "gradient_accumulation_steps must be the same in all parts of a MultiOptimizer. "
            f"Received: {sorted(numbers)}"
        )
    return numbers.pop()


def batches_seen(optimizer: keras.optimizers.Optimizer) -> Any:
    """The variable in which an optimizer counts the batches that it was given, also those that it accumulates."""
    # Keras's `iterations` counts updates then; that variable is the first.
    return _parts(optimizer)[0].variables[0]


def _parts(optimizer):
    """The optimizers that a MultiOptimizer is made of; of another, itself."""
    return getattr(optimizer, "optimizers", None) or [optimizer]


def _handle(variable):
    # Of this replica's copy.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
