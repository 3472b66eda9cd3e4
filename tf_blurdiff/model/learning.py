"""How a `DiffusionModel` learns: its loss, and one step on one replica or on many.

All that a step draws is a function of (seed, optimizer.iterations, row of the global batch), so a step is the same
after a resume, and on any number of replicas.
"""

import keras
import tensorflow as tf
from keras import ops

from tf_blurdiff.diffusion.dct import dct2, idct2
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.diffusion.stateless_random import fold, global_rows, normal_rows, uniform_rows
from tf_blurdiff.errors import UserError

# What a training step draws, each from a sequence of its own.
_TIME, _NOISE, _DROPOUT, _LABEL = range(4)
LOSSES = {"squared_error": ops.square, "absolute_error": ops.abs}
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

    def __init__(self, scales_loss):
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

    def passed(self):
        """Notes a step that was taken."""
        self.skipped_in_row.assign(0)
        if self.scales_loss:
            quiet = self._quiet_steps + 1
            is_long = quiet >= _QUIET_STEPS
            self.loss_scale.assign(ops.where(is_long, 2.0 * self.loss_scale, self.loss_scale))
            self._quiet_steps.assign(ops.where(is_long, 0, quiet))

    def skipped(self):
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

    def __init__(self):
        self.loss = keras.metrics.Mean(name="loss")
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm")
        self.loss_by_time = [keras.metrics.Mean(name=f"loss_by_time_{part}") for part in range(_TIME_BUCKETS)]

    def update(self, losses, t, gradient_norm):
        """Adds a replica's step: losses and t are `[B]`, gradient_norm a scalar."""
        is_finite = ops.isfinite(losses) & ops.isfinite(gradient_norm)
        weight, losses = ops.cast(is_finite, "float32"), ops.where(is_finite, losses, 0.0)
        self.loss.update_state(losses, weight)
        norm_is_finite = ops.isfinite(gradient_norm)
        self.gradient_norm.update_state(ops.where(norm_is_finite, gradient_norm, 0.0), norm_is_finite)
        part = ops.minimum(ops.floor(t * _TIME_BUCKETS), _TIME_BUCKETS - 1)
        for number, mean in enumerate(self.loss_by_time):
            mean.update_state(losses, weight * ops.cast(part == number, "float32"))

    def read(self):
        """The means, None of nothing: `{"loss", "gradient_norm", "loss_by_time"}`. All workers must call it."""
        return {
            "loss": _value(self.loss),
            "gradient_norm": _value(self.gradient_norm),
            "loss_by_time": [_value(mean) for mean in self.loss_by_time],
        }

    def reset(self):
        """Starts anew."""
        for mean in (self.loss, self.gradient_norm, *self.loss_by_time):
            mean.reset_state()


def _value(mean):
    return float(mean.result()) if float(tf.convert_to_tensor(mean.count.value)) else None


def _move_towards(average, weight, share):
    # `average += share * (weight - average)` in two passes over memory.
    tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=share, delta=average - weight)


class TrainingMethods:
    """The learning half of `DiffusionModel`, which has the attributes that it works on."""

    @property
    def metrics(self):
        return [self.loss_tracker]

    def compile(self, optimizer="rmsprop", **kwargs):
        """As `keras.Model.compile`; the loss is the model's own, and so is its scaling for float16."""
        super().compile(optimizer, **kwargs)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            raise UserError("optimizer must be a plain one: the model scales its loss itself where float16 needs it")
        # The gradients that it is given are sums over the replicas already: to send them round again would double
        # what goes over the network.
        self.optimizer._all_reduce_sum_gradients = lambda gradients_and_weights: gradients_and_weights

    def example_losses(self, network, x0, t, eps_freq, label=None):
        """The error of the prediction, averaged over an image.

        Args:
            network: a function of `[z, t]` or `[z, t, label]`.
            x0: images in [-1, 1], `[B, H, W, C]`.
            t: times, `[B]`; of the process's levels if the prediction is by level.
            eps_freq: standard normal noise in the DCT basis, `[B, H, W, C]`.
            label: int `[B]`, if the network takes labels.

        Returns:
            float32 `[B]`.
        """
        prediction, size = get_prediction(self.prediction), self.image_shape[:2]
        at_t = self.process.marginal(t, *size)
        at_s = self.process.marginal(self.process.next_level(t), *size) if prediction.by_level else None
        x0_freq = dct2(x0)
        z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
        target_freq = prediction.target(x0_freq, z_freq, eps_freq, at_t, at_s)
        output = network(self.network_inputs(idct2(z_freq), t, label))
        error = LOSSES[self.loss_type](ops.cast(output, "float32") - idct2(target_freq))
        return ops.mean(error, axis=(1, 2, 3))

    def network_inputs(self, z, t, label):
        """`[z, t]`, or `[z, t, label]` for a network with labels."""
        return [z, t] if self.num_classes is None else [z, t, label]

    def make_train_function(self, force=False):
        """What `fit` calls first. The optimizer's variables are made here: inside, they would cost a second trace."""
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.network.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, data):
        """One step on this replica's share of the global batch; returns the metrics.

        A step whose loss or gradient is not finite changes no weight; it is counted in `step_guard`.
        """
        x0, label = self._unpack(data)
        seed = fold([0, self.seed], self.optimizer.iterations)
        t, eps_freq = self._draw_time_and_noise(seed, x0)
        label = self._drop_labels(label, fold(seed, _LABEL))
        loss_scale = ops.convert_to_tensor(self.step_guard.loss_scale)
        with tf.GradientTape() as tape:
            losses = self.example_losses(
                lambda inputs: self(inputs, training=True, seed=fold(seed, _DROPOUT)), x0, t, eps_freq, label
            )
            # Sums over the replicas follow, so each contributes its share of the global mean.
            share = ops.mean(losses) / tf.distribute.get_strategy().num_replicas_in_sync
            scaled_share = share * loss_scale
        gradients = tape.gradient(scaled_share, self.network.trainable_variables)
        loss, *gradients = self._summed_over_replicas([share, *self._dense(gradients)])
        norm = tf.linalg.global_norm(gradients) / loss_scale
        factor = 1.0 / loss_scale
        if self.clip_norm is not None:
            factor *= self.clip_norm / ops.maximum(norm, self.clip_norm)
        gradients = [gradient * factor for gradient in gradients]
        is_finite = ops.isfinite(loss) & ops.isfinite(norm)
        tf.distribute.get_replica_context().merge_call(self._update_if_finite, args=(gradients, is_finite))
        self.loss_tracker.update_state(losses)
        self.step_record.update(losses, t, norm)
        return self.get_metrics_result()

    def test_step(self, data):
        """The loss of the averaged weights, with the same draws for every batch."""
        self.loss_tracker.update_state(self.averaged_losses(*self._unpack(data)))
        return self.get_metrics_result()

    def averaged_losses(self, x0, label=None):
        """`example_losses` of the averaged weights, with draws that are the same in every call; float32 `[B]`."""
        t, eps_freq = self._draw_time_and_noise(fold([1, self.seed]), x0)
        return self.example_losses(self.averaged_call, x0, t, eps_freq, label)

    def _unpack(self, data):
        x0, label, weight = keras.utils.unpack_x_y_sample_weight(data)
        if weight is not None:
            raise ValueError("Sample weights are not supported; give images, or (images, labels)")
        if self.num_classes is not None and label is None:
            raise ValueError("A network with num_classes trains on (images, labels). Received: images alone")
        return ops.cast(x0, "float32"), label

    def _draw_time_and_noise(self, seed, x0):
        # Times are spread evenly over the global batch from one random start: each is uniform, together they vary less.
        rows, total = global_rows(ops.shape(x0)[0])
        start = tf.random.stateless_uniform((), fold(seed, _TIME), alg="philox")
        t = (start + tf.cast(rows, tf.float32) / tf.cast(total, tf.float32)) % 1.0
        if get_prediction(self.prediction).by_level:
            t = self.process.level_time(t)
        return t, normal_rows(fold(seed, _NOISE), (ops.shape(x0)[0], *x0.shape[1:]))

    def _drop_labels(self, label, seed):
        if not self.label_dropout:
            return label
        dropped = uniform_rows(seed, (ops.shape(label)[0], 1))[:, 0] < self.label_dropout
        return ops.where(dropped, ops.cast(self.num_classes, "int64"), ops.cast(label, "int64"))

    def _dense(self, gradients):
        # An embedding's gradient is sparse; a weight that the loss does not depend on has none.
        return [
            ops.zeros_like(weight) if gradient is None else tf.convert_to_tensor(gradient)
            for gradient, weight in zip(gradients, self.network.trainable_variables)
        ]

    def _summed_over_replicas(self, tensors):
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return tensors
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)

    def _update_if_finite(self, strategy, gradients, is_finite):
        # For all replicas at once: a condition that a single replica looks at must not hold an update.
        def update():
            strategy.extended.call_for_each_replica(
                lambda *own: self.optimizer.apply(own, self.network.trainable_variables), args=gradients
            )
            self._update_averages(strategy)
            self.step_guard.passed()

        def skip():
            # What a step draws and which batch is next depend on its number: it counts.
            self.optimizer.iterations.assign_add(1)
            self.step_guard.skipped()

        # The same on every replica.
        tf.cond(strategy.experimental_local_results(is_finite)[0], update, skip)

    def _update_averages(self, strategy):
        if self.ema_decay is None:
            return
        step = ops.cast(self.optimizer.iterations, "float32")
        share = 1.0 - ops.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.averages, self.network.trainable_variables):
            strategy.extended.update(
                average.value,
                _move_towards,
                args=(weight.value, share),
                group=False,
            )
