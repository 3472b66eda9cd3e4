"""DiffusionModel: network, process, prediction and sampler, composed."""

import inspect
import os

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tqdm import tqdm

from tf_blurdiff.dct import dct2, idct2
from tf_blurdiff.errors import UserError
from tf_blurdiff.predictions import eps_from_x0, get_prediction
from tf_blurdiff.priors import dct_statistics
from tf_blurdiff.samplers import (
    check_sampling,
    checked_labels,
    checked_seeds,
    get_sampler,
    run_steps,
    uniform_times,
)
from tf_blurdiff.stateless_random import fold, global_rows, normal_by_seed, normal_rows

# A batch of this many pixels (64 images of 32x32) fits any machine that can train the network.
_PIXELS_PER_BATCH = 64 * 32 * 32
# How often a progress bar moves while one batch is sampled.
_PROGRESS_BLOCKS = 20
# What a training step draws, each from a sequence of its own.
_TIME, _NOISE, _DROPOUT = range(3)


@keras.saving.register_keras_serializable("tf_blurdiff")
class DiffusionModel(keras.Model):
    """A diffusion model, diagonal in the DCT basis, as a Keras model.

    It trains with `compile(optimizer)` and `fit(dataset)` on batches of images `[B, H, W, C]` in [-1, 1], or of
    `(images, labels)`. The loss is the squared error of the prediction. All that a step draws is a function of
    (seed, optimizer.iterations, row in the global batch). It samples and is exported with the averaged weights.

    Args:
        network: a Keras model of `[z, t]` or `[z, t, label]`, such as `UNet`. If it has an attribute num_classes that
            is not None it is given labels; if its call takes `seed`, its dropout is reproducible.
        process: a `Process`.
        prediction: what the network predicts, "eps" or "v".
        image_shape: (H, W, C); None takes the network's own.
        ema_decay: of the averaged weights, in [0, 1); it grows towards that in the first steps.
        clip_norm: bound on the global norm of the gradient; None for no bound.
        clip_stds: `x0_hat` is clipped, per DCT coefficient, to the data's mean +- this many standard deviations. It
            takes effect once `adapt` has gathered them. What a model has sampled with once, it keeps: to change this
            or another argument, make a new model from the config.
        sampler, num_steps: what `sample` uses unless told otherwise; saved with the model.
        seed: of training.

    Example:
        >>> import tf_blurdiff as bd
        >>> network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1, 2), num_res_blocks=1)
        >>> model = bd.DiffusionModel(network, bd.process.blurring(sigma_blur_max=4.0))
        >>> images = np.zeros((32, 8, 8, 1), "float32")
        >>> model.adapt([images])
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> _ = model.fit(images, batch_size=16, verbose=0)
        >>> model.sample([0, 1, 2], num_steps=4).shape
        (3, 8, 8, 1)

    Reference: Hoogeboom and Salimans, Blurring Diffusion Models, 2023.
    """

    def __init__(
        self,
        network,
        process,
        prediction="eps",
        image_shape=None,
        ema_decay=0.9999,
        clip_norm=1.0,
        clip_stds=3.0,
        sampler="ddim",
        num_steps=50,
        seed=0,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        get_prediction(prediction)
        check_sampling(sampler, num_steps)
        self.network = network
        self.process = process
        self.prediction = prediction
        image_shape = image_shape or getattr(network, "image_shape", None)
        if image_shape is None:
            raise UserError("image_shape must be (H, W, C) for a network that has no image_shape of its own")
        self.image_shape = tuple(image_shape)
        self.ema_decay = ema_decay
        self.clip_norm = clip_norm
        self.clip_stds = clip_stds
        self.sampler = sampler
        self.num_steps = num_steps
        self.seed = seed
        self.num_classes = getattr(network, "num_classes", None)
        # XLA draws other random numbers, and on CPUs it costs more than it gives.
        self.supports_jit = False
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self._network_takes = {"training", "seed"} & set(inspect.signature(network.call).parameters)
        self._make_variables()

    def _make_variables(self):
        # A symbolic call makes every weight, also in a network that has no build of its own.
        label = [] if self.num_classes is None else [keras.KerasTensor((None,), dtype="int64")]
        self.network([keras.KerasTensor((None, *self.image_shape)), keras.KerasTensor((None,)), *label])
        # Under replicas every copy gets the same update.
        fixed = {"trainable": False, "aggregation": "only_first_replica"}
        self.freq_mean = self.add_weight(name="freq_mean", shape=self.image_shape, initializer="zeros", **fixed)
        # An infinite deviation: nothing is clipped.
        unknown = keras.initializers.Constant(np.inf)
        self.freq_std = self.add_weight(name="freq_std", shape=self.image_shape, initializer=unknown, **fixed)
        self.averages = [
            self.add_weight(name=f"average_{i}", shape=weight.shape, dtype=weight.dtype, **fixed)
            for i, weight in enumerate(self.network.trainable_variables)
        ]
        for average, weight in zip(self.averages, self.network.trainable_variables):
            average.assign(weight)
        self.built = True

    def adapt(self, batches):
        """Gathers the statistics of the training images' DCT coefficients, which `sample` clips with.

        Args:
            batches: a finite iterable of batches `[B, H, W, C]` in [-1, 1], or of `(images, labels)`.
        """
        mean, std = dct_statistics(keras.utils.unpack_x_y_sample_weight(batch)[0] for batch in batches)
        self.freq_mean.assign(mean)
        self.freq_std.assign(std)

    def call(self, inputs, training=False, seed=None):
        """The network's output for `[z, t]` or `[z, t, label]`, with the weights being trained."""
        arguments = {"training": training, "seed": seed}
        return self.network(inputs, **{name: arguments[name] for name in self._network_takes})

    def averaged_call(self, inputs):
        """The network's output with the averaged weights."""
        rest = [variable.value for variable in self.network.non_trainable_variables]
        arguments = {"training": False} if "training" in self._network_takes else {}
        return self.network.stateless_call([v.value for v in self.averages], rest, inputs, **arguments)[0]

    # Training

    @property
    def metrics(self):
        return [self.loss_tracker]

    def example_losses(self, network, x0, t, eps_freq, label=None):
        """The squared error of the prediction, averaged over an image.

        Args:
            network: a function of `[z, t]` or `[z, t, label]`.
            x0: images in [-1, 1], `[B, H, W, C]`.
            t: times, `[B]`.
            eps_freq: standard normal noise in the DCT basis, `[B, H, W, C]`.
            label: int `[B]`, if the network takes labels.

        Returns:
            float32 `[B]`.
        """
        at_t = self.process.marginal(t, *self.image_shape[:2])
        x0_freq = dct2(x0)
        z_freq = at_t.alpha * x0_freq + at_t.sigma * eps_freq
        target_freq = get_prediction(self.prediction).target(x0_freq, eps_freq, at_t)
        output = network(self._network_inputs(idct2(z_freq), t, label))
        return ops.mean(ops.square(ops.cast(output, "float32") - idct2(target_freq)), axis=(1, 2, 3))

    def make_train_function(self, force=False):
        """What `fit` calls first. The optimizer's variables are made here: inside, they would cost a second trace."""
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.network.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, data):
        """One step on this replica's share of the global batch; returns the metrics."""
        x0, label = self._unpack(data)
        seed = fold([0, self.seed], self.optimizer.iterations)
        t, eps_freq = _draw_time_and_noise(seed, x0)
        with tf.GradientTape() as tape:
            losses = self.example_losses(
                lambda inputs: self(inputs, training=True, seed=fold(seed, _DROPOUT)), x0, t, eps_freq, label
            )
            # Gradients are summed over replicas, so each contributes its share of the global mean.
            loss = ops.mean(losses) / tf.distribute.get_strategy().num_replicas_in_sync
        weights = self.network.trainable_variables
        self._apply_gradients(tape.gradient(loss, weights), weights)
        self._update_averages(weights)
        self.loss_tracker.update_state(losses)
        return self.get_metrics_result()

    def test_step(self, data):
        """The loss of the averaged weights, with the same draws for every batch."""
        x0, label = self._unpack(data)
        t, eps_freq = _draw_time_and_noise(fold([1, self.seed]), x0)
        self.loss_tracker.update_state(self.example_losses(self.averaged_call, x0, t, eps_freq, label))
        return self.get_metrics_result()

    def _unpack(self, data):
        x0, label, weight = keras.utils.unpack_x_y_sample_weight(data)
        if weight is not None:
            raise ValueError("Sample weights are not supported; give images, or (images, labels)")
        if self.num_classes is not None and label is None:
            raise ValueError("A network with num_classes trains on (images, labels). Received: images alone")
        return ops.cast(x0, "float32"), label

    def _network_inputs(self, z, t, label):
        return [z, t] if self.num_classes is None else [z, t, label]

    def _apply_gradients(self, gradients, weights):
        # Keras clips each replica's gradient before it sums them. The norm to bound is the sum's.
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # An embedding's gradient is sparse; a weight that the loss does not depend on has none.
        gradients = [
            ops.zeros_like(weight) if gradient is None else tf.convert_to_tensor(gradient)
            for gradient, weight in zip(gradients, weights)
        ]
        if num_replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        # The optimizer will sum over replicas once more.
        self.optimizer.apply([gradient / num_replicas for gradient in gradients], weights)

    def _update_averages(self, weights):
        step = ops.cast(self.optimizer.iterations, "float32")
        share = 1.0 - ops.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.averages, weights):
            average.assign(average + share * (weight - average))

    # Sampling

    def sample(
        self,
        seeds,
        num_steps=None,
        sampler=None,
        eta=0.0,
        labels=None,
        *,
        batch_size=None,
        return_trajectory=False,
        verbose=False,
    ):
        """Draws one image for each seed; an image depends on its own seed (and label) alone.

        Args:
            seeds: integers `[B]`, any that fit int64.
            num_steps: calls of the network; None takes the model's own.
            sampler: "ancestral" or "ddim"; None takes the model's own.
            eta: in [0, 1]: the noise of "ddim"; 0 is deterministic.
            labels: integers `[B]` in [0, num_classes), for a model with labels.
            batch_size: images in memory at once; None chooses.
            return_trajectory: whether to return every `z_t` instead.
            verbose: whether to show a progress bar.

        Returns:
            float32 array `[B, H, W, C]` in [-1, 1]. With return_trajectory `[num_steps + 1, B, H, W, C]`: z_t at
            t = 1, ..., 0, not clipped.

        Raises:
            UserError: for an argument that is not allowed.
        """
        num_steps = self.num_steps if num_steps is None else num_steps
        sampler = self.sampler if sampler is None else sampler
        check_sampling(sampler, num_steps, eta, batch_size)
        seeds = checked_seeds(seeds)
        labels = checked_labels(labels, self.num_classes, len(seeds))
        batch_size = batch_size or max(1, _PIXELS_PER_BATCH // (self.image_shape[0] * self.image_shape[1]))
        block = 1 if return_trajectory else -(-num_steps // _PROGRESS_BLOCKS) if verbose else num_steps
        results = []
        with tqdm(total=len(seeds) * num_steps, disable=not verbose, desc="sampling", unit="step") as progress:
            for first in range(0, len(seeds), batch_size):
                rows = slice(first, first + batch_size)
                states = self._sample_batch(seeds[rows], labels[rows], num_steps, sampler, float(eta), block, progress)
                results.append([idct2(state).numpy() for state in (states if return_trajectory else states[-1:])])
        images = [np.concatenate(batches) for batches in zip(*results)]
        return np.stack(images) if return_trajectory else np.clip(images[0], -1.0, 1.0)

    def _sample_batch(self, seeds, labels, num_steps, sampler, eta, block, progress):
        """The state at t = 1 and after every `block` steps, in the DCT basis."""
        states = [self.start(tf.constant(seeds))]
        for first in range(0, num_steps, block):
            last = min(first + block, num_steps)
            spans = (tf.constant(number, tf.int32) for number in (num_steps, first, last))
            states.append(self.advance(states[-1], seeds, labels, *spans, sampler, eta))
            progress.update(len(seeds) * (last - first))
        return states

    @tf.function(autograph=False, reduce_retracing=True)
    def start(self, seeds):
        """Traced: the state at t = 1 for int64 seeds `[B]`: standard normal, in the DCT basis."""
        return normal_by_seed(seeds, 0, self.image_shape)

    @tf.function(autograph=False, reduce_retracing=True)
    def advance(self, z_freq, seeds, labels, num_steps, first, last, sampler, eta):
        """Traced: the state after step `last - 1` of num_steps, from that before step `first`.

        Args:
            z_freq: `[B, H, W, C]` in the DCT basis, from `start` or from an earlier call.
            seeds, labels: int64 `[B]`; labels are not used by a model without.
            num_steps, first, last: int32 scalars.
            sampler, eta: Python values.
        """
        sampler = get_sampler(sampler)

        def denoise(z_freq, t, at_t):
            output = ops.cast(self.averaged_call(self._network_inputs(idct2(z_freq), t, labels)), "float32")
            x0_freq, eps_freq = get_prediction(self.prediction).to_x0_eps(dct2(output), z_freq, at_t)
            return self._clip(x0_freq, eps_freq, z_freq, at_t)

        def draw_noise(i):
            return normal_by_seed(seeds, i + 1, self.image_shape)

        return run_steps(
            lambda *args: sampler.step(*args, eta),
            denoise,
            self.process,
            draw_noise if sampler.draws_noise(eta) else None,
            z_freq,
            uniform_times(num_steps),
            first,
            last,
        )

    def _clip(self, x0_freq, eps_freq, z_freq, at_t):
        # Without this, 1 / alpha_t turns the network's error at high frequencies into an explosion.
        reach = self.clip_stds * self.freq_std
        clipped = ops.clip(x0_freq, self.freq_mean - reach, self.freq_mean + reach)
        return clipped, ops.where(clipped == x0_freq, eps_freq, eps_from_x0(clipped, z_freq, at_t))

    # Saving

    def get_config(self):
        """All arguments, as Keras saves them."""
        serialize = keras.saving.serialize_keras_object
        own = (
            "prediction", "image_shape", "ema_decay", "clip_norm", "clip_stds", "sampler", "num_steps", "seed",
        )  # fmt: skip
        return {
            **super().get_config(),
            "network": serialize(self.network),
            "process": serialize(self.process),
            **{name: getattr(self, name) for name in own},
        }

    @classmethod
    def from_config(cls, config):
        """The inverse of `get_config`."""
        deserialize = keras.saving.deserialize_keras_object
        parts = {name: deserialize(config[name]) for name in ("network", "process")}
        return cls(**{**config, **parts})


def _draw_time_and_noise(seed, x0):
    # Times are spread evenly over the global batch from one random start: each is uniform, together they vary less.
    rows, total = global_rows(ops.shape(x0)[0])
    start = tf.random.stateless_uniform((), fold(seed, _TIME), alg="philox")
    t = (start + tf.cast(rows, tf.float32) / tf.cast(total, tf.float32)) % 1.0
    return t, normal_rows(fold(seed, _NOISE), (ops.shape(x0)[0], *x0.shape[1:]))


def load_model(path):
    """Loads a `DiffusionModel` from a .keras file.

    Raises:
        UserError: if there is no such file, or if it holds no DiffusionModel.
    """
    if not os.path.isfile(path):
        raise UserError(f"model file not found: {path} (a .keras file is expected)")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # A damaged file makes zipfile, h5py, json or Keras fail, each in its own way.
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path} is not a .keras file that can be read: {reason}") from error
    if not isinstance(model, DiffusionModel):
        raise UserError(f"{path} holds a {type(model).__name__}; a DiffusionModel is expected")
    return model
