"""Learning: the loss of a model, and one optimizer step on one replica or on many.

All that a step draws is a function of (seed, number of the batch, row of the global batch), so a step is the same after
a resume, and on any number of replicas, also if they share a batch unevenly.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_blurdiff.compilation import compiled, is_wanted
from tf_blurdiff.diffusion.dct import dct2, idct2
from tf_blurdiff.diffusion.predictions import get_loss, get_prediction
from tf_blurdiff.diffusion.stateless_random import (
    fold,
    global_rows,
    normal_rows,
    shares_of_any_size,
    uniform,
    uniform_rows,
)
from tf_blurdiff.networks import batches_per_update, batches_seen

# What a training step draws, each from a sequence of its own.
_TIME, _NOISE, _DROPOUT, _LABEL = range(4)
# How many parts of [0, 1] the loss is recorded for.
_TIME_BUCKETS = 4
# As in Micikevicius et al., Mixed Precision Training, 2018: start high, halve on overflow, double after a quiet while.
_FIRST_LOSS_SCALE, _QUIET_STEPS = 2.0**15, 2000


class StepGuard:
    """Counts the steps that were skipped because loss or gradient was not finite, and scales the loss for float16.

    Args:
        scales_loss: whether the network computes in float16, whose gradients would else vanish.

    Attributes:
        loss_scale: what the loss is multiplied with; 1 unless `scales_loss`.
        skipped_steps: how many steps were skipped, ever.
        skipped_in_row: how many up to now, without a step between them that was not.
    """

    def __init__(self, scales_loss: bool) -> None:
        self.scales_loss = scales_loss
        # Under replicas every copy gets the same update.
        fixed = {"trainable": False, "aggregation": "only_first_replica"}
        scale = _FIRST_LOSS_SCALE if scales_loss else 1.0
        self.loss_scale = keras.Variable(scale, dtype="float32", name="loss_scale", **fixed)
        counters = [
            keras.Variable(0, dtype="int64", name=name, **fixed)
            for name in ("skipped_steps", "skipped_in_row", "quiet_steps")
        ]
        self.skipped_steps, self.skipped_in_row, self._quiet_steps = counters
        self.variables = [self.loss_scale, *counters]

    def passed(self) -> None:
        """Notes a step that was taken."""
        self.skipped_in_row.assign(0)
        if self.scales_loss:
            quiet = self._quiet_steps + 1
            is_long = quiet >= _QUIET_STEPS
            self.loss_scale.assign(ops.where(is_long, 2.0 * self.loss_scale, self.loss_scale))
            self._quiet_steps.assign(ops.where(is_long, 0, quiet))

    def skipped(self) -> None:
        """Notes a step that was not."""
        self.skipped_steps.assign_add(1)
        self.skipped_in_row.assign_add(1)
        if self.scales_loss:
            self.loss_scale.assign(ops.maximum(0.5 * self.loss_scale, 1.0))
            self._quiet_steps.assign(0)


class StepRecord:
    """Means over the training steps since the last reset, over all replicas; skipped steps left out.

    `loss`, `gradient_norm` (before clipping), and `loss_by_time`, a list for equal parts of [0, 1].
    """

    def __init__(self) -> None:
        self.loss = keras.metrics.Mean(name="loss", dtype="float32")
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm", dtype="float32")
        self.loss_by_time = [
            keras.metrics.Mean(name=f"loss_by_time_{part}", dtype="float32") for part in range(_TIME_BUCKETS)
        ]

    def update(self, losses: Any, t: Any, gradient_norm: Any) -> None:
        """Adds a replica's step: losses and t are `[B]`, gradient_norm a scalar."""
        is_finite = ops.isfinite(losses) & ops.isfinite(gradient_norm)
        weight, losses = ops.cast(is_finite, "float32"), ops.where(is_finite, losses, 0.0)
        self.loss.update_state(losses, weight)
        norm_is_finite = ops.isfinite(gradient_norm)
        self.gradient_norm.update_state(ops.where(norm_is_finite, gradient_norm, 0.0), norm_is_finite)
        part = ops.minimum(ops.floor(t * _TIME_BUCKETS), _TIME_BUCKETS - 1)
        for number, mean in enumerate(self.loss_by_time):
            mean.update_state(losses, weight * ops.cast(part == number, "float32"))

    def read(self) -> dict:
        """The means, None of nothing: `{"loss", "gradient_norm", "loss_by_time"}`. All workers must call it."""
        return {
            "loss": _value(self.loss),
            "gradient_norm": _value(self.gradient_norm),
            "loss_by_time": [_value(mean) for mean in self.loss_by_time],
        }

    def reset(self) -> None:
        """Starts anew."""
        for mean in (self.loss, self.gradient_norm, *self.loss_by_time):
            mean.reset_state()


def _value(mean):
    return float(mean.result()) if float(tf.convert_to_tensor(mean.count.value)) else None


def example_losses(model: Any, network: Callable, x0: Any, t: Any, eps_freq: Any, label: Any = None) -> Any:
    """The error of a model's prediction, averaged over an image; weighted by frequency if the prediction says so.

    The error of a model with a lesson is that of where it lands, see `distillation`.

    Args:
        model: a `DiffusionModel`.
        network: a function of `[z, t]` or `[z, t, label]`.
        x0: images in [-1, 1], `[B, H, W, C]`.
        t: times, `[B]`; of the process's levels if the prediction is by level.
        eps_freq: standard normal noise in the DCT basis, `[B, H, W, C]`.
        label: int `[B]`, if the network takes labels.

    Returns:
        float32 `[B]`.
    """
    prediction, process, size = model.own_prediction, model.process, model.image_shape[:2]
    at_t = process.marginal(t, *size)
    at_s = process.marginal(process.next_level(t), *size) if prediction.by_level else None
    x0_freq = dct2(x0)
    z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
    output = network([idct2(z_freq), t] if model.num_classes is None else [idct2(z_freq), t, label])
    output = ops.cast(output, "float32")
    if model.lesson is not None:
        estimate = prediction.estimate(dct2(output), z_freq, at_t, at_t)
        error = idct2(model.lesson.error(estimate.x0_freq, z_freq, t, label))
    else:
        target_freq = prediction.target(x0_freq, z_freq, eps_freq, at_t, at_s)
        if prediction.loss_weight is None:
            error = output - idct2(target_freq)
        else:
            weight = ops.power(prediction.loss_weight(at_t), model.loss_exponent)
            error = idct2(weight * (dct2(output) - target_freq))
    return ops.mean(get_loss(model.loss_type)(error), axis=(1, 2, 3))


def train_step(model: Any, x0: Any, label: Any = None) -> tuple[Any, Any]:
    """One step on this replica's share of the global batch.

    A step whose loss or gradient is not finite changes no weight; it is counted in `model.step_guard`.

    Args:
        model: a compiled `DiffusionModel`.
        x0: images in [-1, 1], float32 `[B, H, W, C]`, whose values are not looked at; see `inputs.checked_inputs`.
        label: int64 `[B]` in [0, num_classes), for a model with labels.

    Returns:
        The losses, `[B]`, and what they count in a mean: 1, or 0 in a step that was skipped.
    """
    model.check_statistics()
    rows = ops.shape(x0)[0]
    through_xla = compiled if is_wanted(model.compiling) else lambda function: function
    with shares_of_any_size(x0):
        x0, label, is_row = _with_a_row(x0, label)
        seed = fold([0, model.seed], _number_of_batch(model))
        t, eps_freq = _drawn_time_and_noise(model, seed, x0)
        label = _with_dropped(model, label, fold(seed, _LABEL))
        loss_scale = tf.convert_to_tensor(model.step_guard.loss_scale.value)
        differentiate = through_xla(functools.partial(_losses_and_gradients, model))
        losses, share, gradients = differentiate(x0, t, eps_freq, label, fold(seed, _DROPOUT), loss_scale, is_row)
    losses, t = losses[:rows], t[:rows]
    loss, *gradients = _summed_over_replicas([share, *gradients])
    gradients, norm = through_xla(functools.partial(_clipped, model.clip_norm))(gradients, loss_scale)
    is_finite = ops.isfinite(loss) & ops.isfinite(norm)
    update = lambda strategy, *both: _update_if_finite(model, strategy, *both)
    tf.distribute.get_replica_context().merge_call(update, args=(gradients, is_finite))
    through_xla(model.step_record.update)(losses, t, norm)
    return ops.where(is_finite, losses, 0.0), ops.where(is_finite, ops.ones_like(losses), 0.0)


def _clipped(clip_norm, gradients, loss_scale):
    """Gradients without loss_scale, whose norm together is at most clip_norm unless that is None; and their norm."""
    norm = tf.linalg.global_norm(gradients) / loss_scale
    factor = 1.0 / loss_scale
    if clip_norm is not None:
        factor *= clip_norm / ops.maximum(norm, clip_norm)
    return [gradient * factor for gradient in gradients], norm


def _number_of_batch(model):
    optimizer = model.optimizer
    if batches_per_update(optimizer) == 1:
        return optimizer.iterations
    # Batches that were skipped are not among those that the optimizer was given.
    return batches_seen(optimizer) + model.step_guard.skipped_steps


def _with_a_row(x0, label):
    """A replica's share, of one row if it has none: networks and libraries are not made for batches of nothing.

    Beside it 1 for each row of the share and 0 for one that was added; None where every replica has rows.
    """
    if x0.shape[0] is not None or tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return x0, label, None
    rows = tf.shape(x0)[0]
    added = tf.cast(rows == 0, tf.int32)
    padded = lambda tensor: tf.pad(tensor, [[0, added]] + [[0, 0]] * (tensor.shape.rank - 1))
    is_row = tf.cast(tf.range(rows + added) < rows, tf.float32)
    return padded(x0), None if label is None else padded(label), is_row


def _losses_and_gradients(model, x0, t, eps_freq, label, dropout_seed, loss_scale, is_row=None):
    """A replica's losses `[B]`, its share of the global batch's mean, and the gradients of that, times loss_scale."""
    with tf.GradientTape() as tape:
        network = lambda inputs: model(inputs, training=True, seed=dropout_seed)
        losses = example_losses(model, network, x0, t, eps_freq, label)
        # Sums over the replicas follow, so each contributes its share of the global mean.
        counted = losses if is_row is None else losses * is_row
        share = ops.sum(counted) / ops.cast(global_rows(ops.shape(losses)[0])[1], "float32")
        scaled_share = share * loss_scale
    weights = model.network.trainable_variables
    return losses, share, _dense(tape.gradient(scaled_share, weights), weights)


def ema_losses(model: Any, x0: Any, label: Any = None) -> Any:
    """The losses `[B]` of the averaged weights, with draws that are the same in every call; of what a step takes."""
    model.check_statistics()
    rows = ops.shape(x0)[0]
    with shares_of_any_size(x0):
        x0, label, _ = _with_a_row(x0, label)
        t, eps_freq = _drawn_time_and_noise(model, fold([1, model.seed]), x0)
        return example_losses(model, model.ema_call, x0, t, eps_freq, label)[:rows]


def _drawn_time_and_noise(model, seed, x0):
    # Times are spread evenly over the global batch from one random start: each is uniform, together they vary less.
    rows, total = global_rows(ops.shape(x0)[0])
    start = uniform(fold(seed, _TIME))
    t = (start + tf.cast(rows, tf.float32) / tf.cast(total, tf.float32)) % 1.0
    if get_prediction(model.prediction).by_level:
        t = model.process.level_time(t)
    if model.lesson is not None:
        t = model.lesson.time(t)
    return t, normal_rows(fold(seed, _NOISE), (ops.shape(x0)[0], *x0.shape[1:]))


def _with_dropped(model, label, seed):
    if not model.label_dropout:
        return label
    dropped = uniform_rows(seed, (ops.shape(label)[0], 1))[:, 0] < model.label_dropout
    return ops.where(dropped, ops.cast(model.num_classes, "int64"), ops.cast(label, "int64"))


def _dense(gradients, weights):
    # An embedding's gradient is sparse; a weight that the loss does not depend on has none.
    return [
        ops.zeros_like(weight) if gradient is None else tf.convert_to_tensor(gradient)
        for gradient, weight in zip(gradients, weights)
    ]


def _summed_over_replicas(tensors):
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _update_if_finite(model, strategy, gradients, is_finite):
    optimizer, weights = model.optimizer, model.network.trainable_variables
    num_batches = batches_per_update(optimizer)

    # For all replicas at once: a condition that a single replica looks at must not hold an update.
    def update(gradients):
        strategy.extended.call_for_each_replica(lambda *own: optimizer.apply(own, weights), args=gradients)
        if num_batches == 1:
            _update_averages(model, strategy)
        else:
            is_update = batches_seen(optimizer) % num_batches == 0
            tf.cond(is_update, lambda: _update_averages(model, strategy), lambda: None)
        model.step_guard.passed()

    def skip():
        if num_batches == 1:
            # What a step draws and which batch is next depend on its number: it counts, for the averages too.
            optimizer.iterations.assign_add(1)
            if model.weight_averages is not None:
                model.weight_averages.age.assign_add(1)
        model.step_guard.skipped()

    # Of sums over the replicas, so any replica's value is that of all.
    is_finite = strategy.experimental_local_results(is_finite)[0]
    if is_wanted(model.compiling) and strategy.num_replicas_in_sync == 1:
        # XLA does what is on one device, and a GPU's host has one thing to start in place of several per weight.
        averages = [] if model.weight_averages is None else model.weight_averages.variables
        changed = [*weights, *averages, *optimizer.variables, *model.step_guard.variables]
        keep = lambda is_finite, *own: _keep_one(is_finite, lambda: update(own), skip, changed)
        compiled(keep)(is_finite, *gradients)
    else:
        tf.cond(is_finite, lambda: update(gradients), skip)


def _keep_one(is_first, first, second, variables):
    """Does first or second, without a condition, for which the host would wait: both, and keeps what one has changed.

    Within XLA variables are values until the end, where each is written once.
    """
    before = [tf.convert_to_tensor(variable.value) for variable in variables]
    first()
    after_first = [tf.convert_to_tensor(variable.value) for variable in variables]
    for variable, value in zip(variables, before):
        variable.assign(value)
    second()
    for variable, value in zip(variables, after_first):
        variable.assign(tf.where(is_first, value, variable.value))


def _update_averages(model, strategy):
    averages = model.weight_averages
    if averages is None:
        return
    averages.age.assign_add(1)
    age = ops.cast(averages.age, "float32")
    share = 1.0 - ops.minimum(model.ema_decay, (1.0 + age) / (10.0 + age))
    for weight in model.network.trainable_variables:
        strategy.extended.update(averages.of(weight).value, _move_towards, args=(weight.value, share), group=False)


def _move_towards(average, weight, share):
    # `average += share * (weight - average)` in two passes over memory.
    tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=share, delta=average - weight)
