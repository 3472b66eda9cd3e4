"""DiffusionModel: network, process, prediction and sampler, composed."""

import inspect
import warnings

import keras
from keras import ops

from tf_blurdiff.diffusion.dct import dct2, idct2
from tf_blurdiff.diffusion.likelihood import bits_per_dimension
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.arguments import (
    checked_batch,
    checked_images,
    checked_labels,
    default_num_steps,
    default_sampler,
)
from tf_blurdiff.model.learning import LOSSES, StepGuard, StepRecord, TrainingMethods
from tf_blurdiff.model.loading import find_model, shipped_models
from tf_blurdiff.model.priors import UNKNOWN_STD, BlurredPrior, dct_statistics
from tf_blurdiff.model.restoration import RestorationMethods
from tf_blurdiff.model.sampling import SamplingMethods
from tf_blurdiff.networks.precision import in_precision


@keras.saving.register_keras_serializable("tf_blurdiff")
class DiffusionModel(TrainingMethods, SamplingMethods, RestorationMethods, keras.Model):
    """A diffusion model, diagonal in the DCT basis, as a Keras model.

    It trains with `compile(optimizer)` and `fit(dataset)` on batches of images `[B, H, W, C]` in [-1, 1], or of
    `(images, labels)`. All that a step draws is a function of (seed, optimizer.iterations, row in the global batch). It
    samples (`sample`, `interpolate`, `mix_bands`), restores (`deblur`, `super_resolve`, `inpaint`) and is exported with
    the averaged weights.

    Args:
        network: a Keras model of `[z, t]`, or with num_classes of `[z, t, label]`, such as `UNet`. If its call takes
            `seed`, its dropout is reproducible.
        process: a `Process`.
        prediction: what the network predicts: "eps" or "v", of a process with noise; "x0", of any; "less_blurred", the
            residual to the next level, of heat_dissipation or cold.
        image_shape: (H, W, C); None takes the network's own.
        loss_type: "squared_error" or "absolute_error", of the prediction.
        ema_decay: of the averaged weights, in [0, 1); it grows towards that in the first steps. None for a model
            without averages, as `averaged` makes it: sampling then uses the network's own weights.
        clip_norm: bound on the global norm of the gradient; None for no bound.
        assumed_error: the standard deviation that sampling assumes of the network's error in eps or v; it shrinks
            `x0_hat` where that error is amplified beyond the data's own spread. 0 for no shrinking.
        clip_stds: estimates of the image are clipped, per DCT coefficient, to the data's mean +- this many standard
            deviations; None for no clipping. Both take effect once `adapt` has gathered the data's statistics. What a
            model has sampled with once, it keeps: to change one of its arguments, make a new model from the config.
        label_dropout: share of the labels that training leaves out, in [0, 1); above 0 the model can be sampled with
            guidance, and without labels. The network is then given the label num_classes for "none".
        sampler, num_steps, grid: what `sample` uses unless told otherwise; saved with the model. None is the choice
            that goes with process and prediction.
        seed: of training.
        num_classes: number of labels; None takes the network's own attribute num_classes, if it has one.

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
        loss_type="squared_error",
        ema_decay=0.9999,
        clip_norm=1.0,
        assumed_error=0.05,
        clip_stds=3.0,
        label_dropout=0.0,
        sampler=None,
        num_steps=None,
        grid=None,
        seed=0,
        num_classes=None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        get_prediction(prediction, process)
        if loss_type not in LOSSES:
            raise UserError(f"loss_type must be one of {', '.join(LOSSES)}. Received: {loss_type!r}")
        self.network = network
        self.process = process
        self.prediction = prediction
        image_shape = image_shape or getattr(network, "image_shape", None)
        if image_shape is None:
            raise UserError("image_shape must be (H, W, C) for a network that has no image_shape of its own")
        self.image_shape = tuple(image_shape)
        self.loss_type = loss_type
        self.ema_decay = ema_decay
        self.clip_norm = clip_norm
        self.assumed_error = assumed_error
        self.clip_stds = clip_stds
        # A plain Keras network forgets such an attribute when it is saved; this model does not.
        self.num_classes = getattr(network, "num_classes", None) if num_classes is None else num_classes
        self.label_dropout = label_dropout
        self._check_ranges()
        self.sampler = default_sampler(process, prediction) if sampler is None else sampler
        self.num_steps = default_num_steps(process, prediction) if num_steps is None else num_steps
        self.grid = grid
        self.sampling()  # Checks these three.
        self.seed = seed
        _warn_of_much_blur(process, self.image_shape[1])
        # XLA draws other random numbers, and on CPUs it costs more than it gives.
        self.supports_jit = False
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self._network_takes = {"training", "seed"} & set(inspect.signature(network.call).parameters)
        self._make_variables()

    def _check_ranges(self):
        allowed = {
            "ema_decay": ("in [0, 1), or None", self.ema_decay is None or 0.0 <= self.ema_decay < 1.0),
            "clip_norm": ("above 0, or None", self.clip_norm is None or self.clip_norm > 0),
            "assumed_error": ("0 or more", self.assumed_error >= 0),
            "clip_stds": ("above 0, or None", self.clip_stds is None or self.clip_stds > 0),
            "label_dropout": ("in [0, 1)", 0.0 <= self.label_dropout < 1.0),
        }
        for name, (range_, is_in_it) in allowed.items():
            if not is_in_it:
                raise UserError(f"{name} must be {range_}. Received: {getattr(self, name)!r}")
        if self.label_dropout and self.num_classes is None:
            raise UserError(f"label_dropout must be 0 for a network without labels. Received: {self.label_dropout}")

    def _make_variables(self):
        # A symbolic call makes every weight, also in a network that has no build of its own.
        label = [] if self.num_classes is None else [keras.KerasTensor((None,), dtype="int64")]
        self.network([keras.KerasTensor((None, *self.image_shape)), keras.KerasTensor((None,)), *label])
        # Under replicas every copy gets the same update.
        fixed = {"trainable": False, "aggregation": "only_first_replica"}
        self.freq_mean = self.add_weight(name="freq_mean", shape=self.image_shape, initializer="zeros", **fixed)
        unknown = keras.initializers.Constant(UNKNOWN_STD)
        self.freq_std = self.add_weight(name="freq_std", shape=self.image_shape, initializer=unknown, **fixed)
        if not self.process.ends_in_noise:
            self.prior = BlurredPrior(self.process, self.image_shape, self.num_classes)
        self._averages = [
            self.add_weight(name=f"average_{i}", shape=weight.shape, dtype=weight.dtype, **fixed)
            for i, weight in enumerate([] if self.ema_decay is None else self.network.trainable_variables)
        ]
        for average, weight in zip(self._averages, self.network.trainable_variables):
            average.assign(weight)
        self.built = True
        # In no file: what is only of use in training.
        in_float16 = any(layer.compute_dtype == "float16" for layer in self.network._flatten_layers())
        self.step_guard, self.step_record = StepGuard(scales_loss=in_float16), StepRecord()

    @property
    def averages(self):
        """The weights that sampling uses, in the order of the network's: the averages, or its own if none are kept."""
        return self.network.trainable_variables if self.ema_decay is None else self._averages

    def averaged(self):
        """A copy that has the averaged weights alone: a file half as large, the same images.

        It can be trained further, without averages.

        Example:
            >>> import tf_blurdiff as bd
            >>> small = bd.load_pretrained("digits").averaged()
            >>> small.ema_decay is None
            True
        """
        copy = type(self).from_config({**self.get_config(), "ema_decay": None})
        for variable, value in zip(copy._sampled_with(), self._sampled_with(), strict=True):
            variable.assign(value)
        return copy

    def in_precision(self, precision):
        """A copy whose network computes in another precision, such as that of the processor that is to sample.

        Args:
            precision: "float32", "mixed_bfloat16" or "mixed_float16". The weights are float32 in any.

        Raises:
            UserError: for another precision, and for a network whose config does not say in which it computes.

        Example:
            >>> import tf_blurdiff as bd
            >>> bd.load_pretrained("digits").in_precision("mixed_bfloat16").network.compute_dtype
            'bfloat16'
        """
        network = keras.saving.serialize_keras_object(in_precision(self.network, precision))
        copy = type(self).from_config({**self.get_config(), "network": network})
        copy.set_weights(self.get_weights())
        return copy

    def _sampled_with(self):
        prior = [] if self.process.ends_in_noise else self.prior.variables
        return [*self.averages, *self.network.non_trainable_variables, self.freq_mean, self.freq_std, *prior]

    def adapt(self, batches):
        """Gathers what sampling needs to know of the training images: their DCT statistics, and the prior.

        Args:
            batches: a finite iterable of batches `[B, H, W, C]` in [-1, 1], or of `(images, labels)`; labels are needed
                by a process that does not end in noise if the network has labels.

        Raises:
            UserError: for images of another shape or range, and for labels that are missing or not in
                [0, num_classes).
        """
        checked = (checked_batch(batch, self.image_shape) for batch in batches)
        if self.process.ends_in_noise:
            statistics = dct_statistics(checked)
        else:
            statistics = dct_statistics(checked, self.prior.positions)
            self.prior.fit(statistics)
        self.freq_mean.assign(statistics.mean)
        self.freq_std.assign(statistics.std)

    def call(self, inputs, training=False, seed=None):
        """The network's output for `[z, t]` or `[z, t, label]`, with the weights being trained."""
        arguments = {"training": training, "seed": seed}
        return self.network(inputs, **{name: arguments[name] for name in self._network_takes})

    def averaged_call(self, inputs):
        """The network's output with the averaged weights."""
        rest = [variable.value for variable in self.network.non_trainable_variables]
        arguments = {"training": False} if "training" in self._network_takes else {}
        return self.network.stateless_call([v.value for v in self.averages], rest, inputs, **arguments)[0]

    # Evaluation

    def bits_per_dimension(self, images, labels=None, **settings):
        """The variational bound of 8-bit images with the averaged weights, in bits per dimension.

        Args:
            images: float array `[N, H, W, C]` of 8-bit pixels, scaled to [-1, 1].
            labels: integers `[N]`, for a model with labels.
            **settings: num_steps, num_times, grid, seed, batch_size, num_bands and verbose of
                `likelihood.bits_per_dimension`.

        Returns:
            A `likelihood.Bound`. It is that of the network's own estimates: nothing is shrunk or clipped.

        Raises:
            UserError: for a process that does not end in noise, and for arguments that are not allowed.
        """
        images = checked_images(images, self.image_shape, len(images))
        labels = checked_labels(labels, self.num_classes, self.label_dropout, len(images))
        prediction = get_prediction(self.prediction)

        def denoise(z_freq, t, at_t, at_s, labels):
            output = self.averaged_call(self.network_inputs(idct2(z_freq), t, labels))
            output_freq = dct2(ops.cast(output, "float32"))
            return prediction.estimate(output_freq, z_freq, at_t, at_s, lambda freq, scale, spread: freq)

        return bits_per_dimension(images, self.process, denoise, conditions=(labels,), **settings)

    # Saving

    def get_config(self):
        """All arguments, as Keras saves them."""
        serialize = keras.saving.serialize_keras_object
        own = (
            "prediction", "image_shape", "loss_type", "ema_decay", "clip_norm", "assumed_error", "clip_stds",
            "label_dropout", "sampler", "num_steps", "grid", "seed", "num_classes",
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


def _warn_of_much_blur(process, width):
    blur_sigma = process.max_blur_sigma(width)
    if blur_sigma > width:
        warnings.warn(
            f"the blur's standard deviation reaches {blur_sigma:g} pixels in an image {width} wide: beyond the "
            "width there is nothing left to blur",
            stacklevel=3,
        )


def load_model(path_or_name, precision=None):
    """Loads a `DiffusionModel` from a .keras file, or a shipped one by its name.

    Args:
        path_or_name: the file, or "digits" or "fashion_mnist".
        precision: of the network's arithmetic, as of `DiffusionModel.in_precision`; None for that of its training.

    Raises:
        UserError: if there is no such file, if it holds no DiffusionModel, and for a precision that is not allowed.
    """
    path = find_model(path_or_name)
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # A damaged file makes zipfile, h5py, json or Keras fail, each in its own way.
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path} is not a .keras file that can be read: {reason}") from error
    if not isinstance(model, DiffusionModel):
        raise UserError(f"{path} holds a {type(model).__name__}; a DiffusionModel is expected")
    return model if precision is None else model.in_precision(precision)


def load_pretrained(name):
    """A model that comes with the package, ready to sample from: "digits" or "fashion_mnist".

    Both are blurring diffusion; weights/README.md says how they were trained and how good they are.

    Raises:
        UserError: for another name.

    Example:
        >>> import tf_blurdiff as bd
        >>> bd.load_pretrained("digits").sample(seeds=[0, 1], num_steps=5).shape
        (2, 8, 8, 1)
    """
    if name not in shipped_models():
        raise UserError(f"name must be one of {', '.join(shipped_models())}. Received: {name!r}")
    return load_model(shipped_models()[name])
