"""DiffusionModel: network, process, prediction and sampler, composed."""

import functools
import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self, Unpack

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf_blurdiff.diffusion.inverse_problems import ROUNDING_STD
from tf_blurdiff.diffusion.likelihood import Bound, BoundArguments, bits_per_dimension
from tf_blurdiff.diffusion.predictions import (
    Prediction,
    Spectrum,
    checked_loss_exponent,
    default_loss_type,
    default_prediction,
    get_loss,
    get_prediction,
)
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.diffusion.samplers import (
    SamplingSettings,
    checked_settings,
    default_delta,
    default_num_steps,
    default_sampler,
    get_sampler,
)
from tf_blurdiff.errors import UserError, check_count, is_number
from tf_blurdiff.model import copies, interpolation, restoration, sampling
from tf_blurdiff.model.arguments import (
    batches_of,
    cannot_be_called,
    check_not_traced,
    check_output,
    check_weights,
    checked_batch,
    checked_class_names,
    checked_guidance_scale,
    checked_image_shape,
    checked_images,
    checked_labels,
    checked_num_classes,
    finite_pictures,
    numbers_of,
)
from tf_blurdiff.model.averages import Averages, learnable
from tf_blurdiff.model.denoiser import ASSUMED_ERROR, BOUND, Denoiser, SpectralGuard
from tf_blurdiff.model.distillation import Lesson
from tf_blurdiff.model.keras_interface import KerasInterface
from tf_blurdiff.model.priors import UNKNOWN_STD, BlurredPrior, dct_statistics
from tf_blurdiff.networks import LayerArguments, UNet


@keras.saving.register_keras_serializable("tf_blurdiff")
class DiffusionModel(KerasInterface):
    """A diffusion model, diagonal in the DCT basis, as a Keras model.

    It trains with `compile(optimizer)` and `fit(dataset)` on batches of images `[B, H, W, C]` in [-1, 1], or of
    `(images, labels)`. All that a step draws is a function of (seed, optimizer.iterations, row in the global batch);
    with gradient_accumulation_steps also of how many batches were skipped since the model was compiled. It samples
    (`sample`, `interpolate`, `mix_bands`), restores (`deblur`, `super_resolve`, `inpaint`) and is exported with the
    averaged weights.

    Args:
        network: a Keras model of `[z, t]`, or with num_classes of `[z, t, label]`, such as `UNet`. Its weights are
            float32. If its call takes `seed`, its dropout is reproducible. In mixed precision make a subclass of
            `keras.Model` with `autocast=False`, as `UNet` is: Keras would round its times to 8 bits.
        process: a `Process`.
        prediction: what the network predicts: "preconditioned", of a process with noise, the error of the best linear
            estimate of the image, in units of its standard deviation for each frequency, which wants `adapt` before
            training, and once (`fit` calls it); "eps" or "v", of such a process; "x0", of any; "less_blurred", the
            residual to the next level, of heat_dissipation or cold. None is the one that goes with the process:
            "preconditioned", "less_blurred" for heat_dissipation, "x0" for cold.
        image_shape: (H, W, C); None takes the network's own.
        loss_type: "squared_error" or "absolute_error", of the prediction; None is "squared_error", and
            "absolute_error" for a process without noise (cold).
        ema_decay: of the averaged weights, in [0, 1); it grows towards that in the first steps. None for a model
            without averages, as `averaged` makes it: sampling then uses the network's own weights.
        clip_norm: bound on the global norm of the gradient; None for no bound.
        label_dropout: share of the labels that training leaves out, in [0, 1); above 0 the model can be sampled with
            guidance, and without labels. The network is then given the label num_classes for "none".
        sampler, num_steps, grid: what `sample` uses unless told otherwise; saved with the model. None is the choice
            that goes with process and prediction.
        seed: of training.
        num_classes: number of labels; None takes the network's own attribute num_classes, if it has one.
        loss_exponent: 0 or more, for the prediction "preconditioned" alone: 0 weighs its error alike in all
            frequencies, 1 makes the loss that of eps. None is 0.5.
        class_names: of the labels, num_classes different texts; None for labels that are numbers alone.
        distilled_guidance: of a student of `distillation` the guidance scale that is in its weights, 1 for none; it
            samples with its own sampler, num_steps and grid alone. None for a model that is no student.

    Attributes:
        lesson: of a student that is being trained, its `distillation.Lesson`; else None. In no file.

    Example:
        >>> import tf_blurdiff as bd
        >>> network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1)
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
        network: keras.Model,
        process: Process,
        prediction: str | None = None,
        image_shape: tuple[int, int, int] | None = None,
        loss_type: str | None = None,
        ema_decay: float | None = 0.9999,
        clip_norm: float | None = 1.0,
        label_dropout: float = 0.0,
        sampler: str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        seed: int = 0,
        num_classes: int | None = None,
        loss_exponent: float | None = None,
        class_names: Sequence[str] | None = None,
        distilled_guidance: float | None = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        if keras.dtype_policies.get(kwargs.get("dtype") or "float32").name != "float32":
            raise UserError(
                "dtype is the network's, tf_blurdiff.UNet(..., dtype='mixed_bfloat16'), or in_precision makes a copy. "
                f"Received: {kwargs['dtype']!r}"
            )
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not isinstance(network, keras.Model):
            raise UserError(f"network must be a Keras model, such as tf_blurdiff.UNet(...). Received: {network!r}")
        if not isinstance(process, Process):
            raise UserError(f"process must be a Process, such as tf_blurdiff.process.blurring(). Received: {process!r}")
        prediction = default_prediction(process) if prediction is None else prediction
        loss_type = default_loss_type(process) if loss_type is None else loss_type
        get_prediction(prediction, process)
        get_loss(loss_type)
        self.network = network
        self.process = process
        self.prediction = prediction
        image_shape = image_shape or getattr(network, "image_shape", None)
        if image_shape is None:
            raise UserError("image_shape must be (H, W, C) for a network that has no image_shape of its own")
        self.image_shape = checked_image_shape(image_shape)
        self.loss_type = loss_type
        self.loss_exponent = checked_loss_exponent(loss_exponent, prediction)
        self.ema_decay = ema_decay
        self.clip_norm = clip_norm
        # A plain Keras network forgets such an attribute when it is saved; this model does not.
        self.num_classes = checked_num_classes(num_classes, network)
        self.class_names = checked_class_names(class_names, self.num_classes)
        self.label_dropout = label_dropout
        self.distilled_guidance = distilled_guidance
        self._check_ranges()
        check_count("seed", seed, 0)
        self.sampler = default_sampler(process, prediction) if sampler is None else sampler
        self.num_steps = default_num_steps(process, prediction) if num_steps is None else num_steps
        self.grid = grid
        self.lesson: Lesson | None = None
        self.num_steps = self.sampling_settings().num_steps  # Checked, as are sampler and grid; an int of Python.
        self.seed = seed
        _warn_of_much_blur(process, self.image_shape[1])
        self._network_takes = {"training", "seed"} & set(inspect.signature(network.call).parameters)
        self._make_variables()

    def _check_ranges(self):
        allowed = {
            "ema_decay": ("in [0, 1), or None", lambda decay: 0.0 <= decay < 1.0),
            "clip_norm": ("above 0 and finite, or None", lambda norm: 0.0 < norm < math.inf),
            "label_dropout": ("in [0, 1)", lambda share: 0.0 <= share < 1.0),
            "distilled_guidance": ("0 or more and finite, or None", lambda scale: 0.0 <= scale < math.inf),
        }
        for name, (range_, is_in_it) in allowed.items():
            value = getattr(self, name)
            may_be_none = value is None and name != "label_dropout"
            if not may_be_none and not (is_number(value) and is_in_it(value)):
                raise UserError(f"{name} must be {range_}. Received: {value!r}")
        if self.label_dropout and self.num_classes is None:
            raise UserError(f"label_dropout must be 0 for a network without labels. Received: {self.label_dropout}")

    def _make_variables(self):
        self._build_network()
        check_weights(learnable(self.network))
        # Under replicas every copy gets the same update.
        fixed = {"trainable": False, "aggregation": "only_first_replica"}
        self.freq_mean = self.add_weight(name="freq_mean", shape=self.image_shape, initializer="zeros", **fixed)
        unknown = keras.initializers.Constant(UNKNOWN_STD)
        self.freq_std = self.add_weight(name="freq_std", shape=self.image_shape, initializer=unknown, **fixed)
        if not self.process.ends_in_noise:
            self.prior = BlurredPrior(self.process, self.image_shape, self.num_classes)
        self.weight_averages = None if self.ema_decay is None else Averages(self.network)
        self.built = True

    def _build_network(self):
        if isinstance(self.network, UNet) and self.network.image_shape == self.image_shape:
            self.network.build()  # Many times as fast.
            return
        # A symbolic call makes every weight, also in a network that has no build of its own.
        label = [] if self.num_classes is None else [keras.KerasTensor((None,), dtype="int64")]
        inputs = [keras.KerasTensor((None, *self.image_shape)), keras.KerasTensor((None,)), *label]
        try:
            output = self.network(inputs)
            if self.num_classes is not None:
                self._call_with_largest_label(self.num_classes)
        except Exception as error:  # A network's own: it may be anything, and many lines long.
            raise UserError(cannot_be_called(self.image_shape, self.num_classes, error)) from error
        check_output(output, self.image_shape)

    def _call_with_largest_label(self, num_classes):
        """An embedding that is too small fails on a processor only: elsewhere it gives something, silently."""
        label = num_classes if self.label_dropout else num_classes - 1
        with tf.init_scope(), tf.device("CPU:0"):
            try:
                self.network([tf.zeros((1, *self.image_shape)), tf.fill((1,), 0.5), tf.fill((1,), np.int64(label))])
            except tf.errors.InvalidArgumentError as error:
                none = " (the last means none of them)" if self.label_dropout else ""
                raise UserError(f"it must know the labels 0 to {label}{none}, and fails with {label}") from error

    @property
    def averages(self) -> list[keras.Variable]:
        """The weights that sampling uses, in the order of the network's: averages, or its own if none are kept."""
        return learnable(self.network) if self.weight_averages is None else list(self.weight_averages.values)

    @property
    def ema_weights(self) -> list[keras.Variable]:
        """The same as `averages`."""
        return self.averages

    @property
    def sampling_variables(self) -> list[keras.Variable]:
        """All variables that an image depends on: averaged weights, the data's statistics, the prior."""
        learned = {id(weight) for weight in learnable(self.network)}
        rest = [variable for variable in self.network.variables if id(variable) not in learned]
        prior = [] if self.process.ends_in_noise else self.prior.variables
        return [*self.averages, *rest, self.freq_mean, self.freq_std, *prior]

    def fingerprint(self) -> str:
        """SHA-256 of all that an image depends on in the model: its arguments but the names of its labels, and
        `sampling_variables`.

        Example:
            >>> import tf_blurdiff as bd
            >>> model = bd.load_pretrained("digits")
            >>> model.fingerprint() == model.averaged().fingerprint()
            True
        """
        return copies.fingerprint(self)

    def averaged(self) -> Self:
        """A copy that has the averaged weights alone: a file half as large, the same images.

        It can be trained further, without averages.

        Example:
            >>> import tf_blurdiff as bd
            >>> small = bd.load_pretrained("digits").averaged()
            >>> small.ema_decay is None
            True
        """
        return copies.averaged(self)

    def in_precision(self, precision: str) -> Self:
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
        return copies.in_precision(self, precision)

    def adapt(self, batches: Any, labels: ArrayLike | None = None) -> None:
        """Gathers what sampling needs to know of the training images: their DCT statistics, and the prior.

        Args:
            batches: images as `fit` takes them: an array `[N, H, W, C]` in [-1, 1] or a pair `(images, labels)`, or a
                finite iterable of batches, such as a `tf.data.Dataset`, each an array or a pair. Labels are needed by a
                process that does not end in noise if the network has labels.
            labels: integers `[N]`, beside an array of images.

        Raises:
            UserError: for images of another shape or range, for labels that are missing or not in [0, num_classes), and
                for a second call with the prediction "preconditioned", whose network learns in units of the first.
        """
        if get_prediction(self.prediction).needs_statistics and self._knows_statistics():
            raise UserError(
                f"with the prediction {self.prediction!r} the network's output is in units of the statistics that the "
                "model has already: to adapt to other images, make a new model from the config"
            )
        checked = (checked_batch(batch, self.image_shape, self.num_classes) for batch in batches_of(batches, labels))
        if self.process.ends_in_noise:
            statistics = dct_statistics(checked)
        else:
            statistics = dct_statistics(checked, self.prior.positions)
            self.prior.fit(statistics)
        self.freq_mean.assign(statistics.mean)
        self.freq_std.assign(statistics.std)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`; calls `adapt` first if the prediction needs it and it was not called.

        Raises:
            UserError: for images and labels that are not allowed, and if `adapt` is needed for data that can be read
                only once, such as a generator; for sample_weight and class_weight.
        """
        for name in ("sample_weight", "class_weight"):
            if kwargs.get(name) is not None:
                raise UserError(f"{name} is not supported; give images, or images and labels. Received: {name}")
        if get_prediction(self.prediction).needs_statistics and not self._knows_statistics():
            if isinstance(x, Iterator):
                self.check_statistics()
            of_an_epoch = x
            if kwargs.get("steps_per_epoch") is not None and isinstance(x, tf.data.Dataset):
                of_an_epoch = x.take(kwargs["steps_per_epoch"])  # It may be repeated for ever.
            self.adapt(finite_pictures(batches_of(of_an_epoch, y)))
        return super().fit(x, y, *args, **kwargs)

    def _knows_statistics(self):
        with tf.init_scope():  # Asked while a training step is traced, too.
            return bool(np.max(self.freq_std) < UNKNOWN_STD)

    def check_statistics(self, needed_by: str | None = None) -> None:
        """Raises a UserError if `adapt` was not called and the prediction, or what is named, needs it."""
        if needed_by is None and get_prediction(self.prediction).needs_statistics:
            needed_by = f"the prediction {self.prediction!r}"
        if needed_by is not None and not self._knows_statistics():
            raise UserError(
                f"{needed_by} is in units of the data's statistics, which the model does not know yet: call adapt with "
                "the training images first"
            )

    def check_lesson(self) -> None:
        """Raises a UserError for a student without its teacher, as it comes from a file."""
        if self.distilled_guidance is not None and self.lesson is None:
            raise UserError(
                "a distilled model learns from its teacher, which is in no file: to train it further, make it with "
                "tf_blurdiff.distill, which goes on where it stopped"
            )

    @functools.cached_property
    def own_prediction(self) -> Prediction:
        """What the network's output is, for this model's data; data of which nothing is known may be anything."""
        return get_prediction(self.prediction).of_data(Spectrum(self.freq_mean, self.freq_std))

    def ema_call(self, inputs: list[Any]) -> Any:
        """The network's output with the averaged weights."""
        of = (lambda weight: weight) if self.weight_averages is None else self.weight_averages.of
        parts = (self.network.trainable_variables, self.network.non_trainable_variables)
        values = ([of(weight).value for weight in part] for part in parts)
        arguments = {"training": False} if "training" in self._network_takes else {}
        return self.network.stateless_call(*values, inputs, **arguments)[0]

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        """What the sampling loop, the variational bound and pictures of a trajectory ask for estimates of the image."""
        distilled = self.distilled_guidance is not None
        return Denoiser(
            network=self.ema_call,
            # A student learns where its own estimates lead, and these are not shrunk.
            prediction=self.own_prediction.unshrunk() if distilled else self.own_prediction,
            guard=SpectralGuard(self.freq_mean, self.freq_std),
            takes_labels=self.num_classes is not None,
            no_label=self.num_classes if self.label_dropout and not distilled else None,
        )

    @functools.cached_property
    def reverse_process(self) -> sampling.ReverseProcess:
        """What sampling traces."""
        prior = None
        if not self.process.ends_in_noise:
            prior = lambda normals, choice, labels: self.prior(normals, choice, self.freq_mean, self.freq_std, labels)
        return sampling.ReverseProcess(self.process, self.image_shape, self.denoiser, prior)

    def sample(
        self,
        seeds: ArrayLike,
        num_steps: int | None = None,
        sampler: str | None = None,
        eta: float = 0.0,
        labels: ArrayLike | None = None,
        guidance_scale: ArrayLike = 1.0,
        *,
        grid: str | None = None,
        delta: float | None = None,
        noise_seeds: ArrayLike | None = None,
        images: ArrayLike | None = None,
        strength: float = 1.0,
        batch_size: int | None = None,
        return_trajectory: bool = False,
        verbose: bool = False,
    ) -> np.ndarray:
        """Draws one image for each seed; an image depends on its own seed (and label) alone.

        Args:
            seeds: integers `[B]`, any that fit int64.
            num_steps: calls of the network; None takes the model's own. With the prediction "less_blurred" it is the
                number of the process's levels.
            sampler: "ancestral", "ancestral2", "ddim", "multistep2", "multistep3", "heat", "cold" or "cold_naive", as
                far as process and prediction allow; None takes the model's own.
            eta: in [0, 1]: the noise of "ddim"; 0 is deterministic.
            labels: integers `[B]` in [0, num_classes), or class_names, for a model with labels; or one for all. A model
                with label dropout may go without.
            guidance_scale: of classifier-free guidance, 0 or more, a number or `[B]`: 1 is the conditional model, above
                that images are more typical of their label. For a model with label dropout.
            grid: the times, "uniform", "quadratic" or "logsnr"; None takes the model's own, or the sampler's.
            delta: standard deviation of the noise of "heat", on the scale of [-1, 1]; None takes 1.25 times the
                process's sigma.
            noise_seeds: integers `[B]`, seeds of what the steps draw, if not those that choose the start.
            images: `[B, H, W, C]` in [-1, 1]: start from these, diffused to t = strength, instead of the prior.
            strength: in (0, 1], how much of the process is undone when images are given.
            batch_size: images in memory at once; None chooses.
            return_trajectory: whether to return every `z_t` instead.
            verbose: whether to show a progress bar.

        Returns:
            float32 array `[B, H, W, C]` in [-1, 1]. With return_trajectory `[num_steps + 1, B, H, W, C]`: z_t at
            t = 1, ..., 0, not clipped. From images it begins at t = strength, and a model of levels, or of distilled
            steps, goes through those of its own that are left.

        Raises:
            UserError: for an argument that is not allowed.
        """
        return sampling.sample(
            self,
            seeds,
            num_steps=num_steps,
            sampler=sampler,
            eta=eta,
            labels=labels,
            guidance_scale=guidance_scale,
            grid=grid,
            delta=delta,
            noise_seeds=noise_seeds,
            images=images,
            strength=strength,
            batch_size=batch_size,
            return_trajectory=return_trajectory,
            verbose=verbose,
        )

    def interpolate(
        self, first_seed: int, last_seed: int, num_images: int = 8, **sampled: Unpack[sampling.MixtureArguments]
    ) -> np.ndarray:
        """Images between two seeds, the seeds' own at the ends.

        What is standard normal goes along an arc, so that it stays so: the noise of the steps, and the start of a
        process that ends in noise. Another start goes along a line.

        Args:
            first_seed, last_seed: two different integers.
            num_images: integer of 2 or more.
            **sampled: arguments of `sample`, but not noise_seeds, images and strength.

        Returns:
            As `sample`, for num_images images.

        Reference: Rissanen et al., 2023, section 4.
        """
        return interpolation.interpolate(self, first_seed, last_seed, num_images, **sampled)

    def mix_bands(
        self,
        coarse_seeds: ArrayLike,
        detail_seeds: ArrayLike,
        cutoff: float = 0.25,
        **sampled: Unpack[sampling.MixtureArguments],
    ) -> np.ndarray:
        """Images with the coarse structure of one seed's noise and the details of another's.

        Args:
            coarse_seeds, detail_seeds: integers, `[B]` each.
            cutoff: the frequency that divides them, above 0, as a fraction of the highest along an axis.
            **sampled: arguments of `sample`, but not noise_seeds, images and strength.

        Returns:
            As `sample`.
        """
        return interpolation.mix_bands(self, coarse_seeds, detail_seeds, cutoff, **sampled)

    def deblur(
        self,
        images: ArrayLike,
        blur_sigma: ArrayLike,
        seeds: ArrayLike | None = None,
        noise_std: ArrayLike = ROUNDING_STD,
        **sampled: Unpack[sampling.RestorationArguments],
    ) -> np.ndarray:
        """Images that, blurred, are the given ones.

        Args:
            images: blurred images, floats `[B, H, W, C]` in [-1, 1]. The blur is that of heat, with mirrored borders,
                as `layers.HeatBlur` does; a Gaussian one of the same standard deviation is close to it.
            blur_sigma: the blur's standard deviation in pixels, 0 or more, a number or `[B]`.
            seeds: integers `[B]`: another seed is another image that fits; None takes 0, 1, ...
            noise_std: standard deviation of the noise on the images, above 0, a number or `[B]`; the least that makes
                sense, and what it is unless told, is that of rounding to 8 bits.
            **sampled: num_steps, sampler, eta, labels, guidance_scale, grid, batch_size, return_trajectory and verbose
                of `sample`. Unless told, 50 steps of "ancestral".

        Returns:
            As `sample`.

        Raises:
            UserError: for an argument that is not allowed, and for a process that does not end in noise.

        Example:
            >>> import tf_blurdiff as bd
            >>> network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1)
            >>> model = bd.DiffusionModel(network, bd.process.gaussian())
            >>> model.adapt([np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 1))])
            >>> blurred = np.zeros((2, 8, 8, 1), "float32")
            >>> model.deblur(blurred, blur_sigma=1.5, num_steps=4).shape
            (2, 8, 8, 1)
        """
        return restoration.deblur(self, images, blur_sigma, seeds, noise_std, **sampled)

    def super_resolve(
        self,
        images: ArrayLike,
        seeds: ArrayLike | None = None,
        noise_std: ArrayLike = ROUNDING_STD,
        **sampled: Unpack[sampling.RestorationArguments],
    ) -> np.ndarray:
        """Larger images, each square of whose pixels has the mean that a pixel of the given ones is.

        Args:
            images: floats `[B, H / f, W / f, C]` in [-1, 1], for the model's `(H, W, C)` and an integer f of 2 or more.
            seeds, noise_std, sampled: as in `deblur`.

        Returns:
            As `sample`.

        Raises:
            UserError: as `deblur`.
        """
        return restoration.super_resolve(self, images, seeds, noise_std, **sampled)

    def inpaint(
        self,
        images: ArrayLike,
        mask: ArrayLike,
        seeds: ArrayLike | None = None,
        noise_std: ArrayLike = ROUNDING_STD,
        **sampled: Unpack[sampling.RestorationArguments],
    ) -> np.ndarray:
        """Images with a part filled in.

        Args:
            images: floats `[B, H, W, C]` in [-1, 1]; what they are where the mask is set does not matter.
            mask: `[B, H, W]` or `[B, H, W, 1]`: not 0 (or True) where the image is to be filled in.
            seeds, noise_std, sampled: as in `deblur`.

        Returns:
            As `sample`.

        Raises:
            UserError: as `deblur`.
        """
        return restoration.inpaint(self, images, mask, seeds, noise_std, **sampled)

    def bits_per_dimension(
        self, images: ArrayLike, labels: ArrayLike | None = None, **settings: Unpack[BoundArguments]
    ) -> Bound:
        """The variational bound of 8-bit images with the averaged weights, in bits per dimension.

        Args:
            images: float array `[N, H, W, C]` of 8-bit pixels, scaled to [-1, 1].
            labels: integers `[N]`, for a model with labels.
            **settings: num_steps, num_times, grid, seed, batch_size, num_bands and verbose of
                `diffusion.likelihood.bits_per_dimension`.

        Returns:
            A `likelihood.Bound`. It is that of the network's own estimates: nothing is shrunk or clipped.

        Raises:
            UserError: for a process that does not end in noise, and for arguments that are not allowed.
        """
        check_not_traced()
        if self.distilled_guidance is not None:
            raise UserError("a distilled model estimates where its own steps go, which bounds no likelihood")
        checked = checked_images(images, self.image_shape, limit=1.0)
        conditions = (checked_labels(labels, self.num_classes, self.label_dropout, len(checked)),)
        return bits_per_dimension(checked, self.process, self.denoiser.unguarded(), conditions=conditions, **settings)

    def sampling_settings(
        self,
        *,
        sampler: str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        eta: float = 0.0,
        delta: float | None = None,
    ) -> SamplingSettings:
        """The model's own settings for what is None, all checked.

        Raises:
            UserError: for what is not allowed, or does not fit the model's process and prediction.
        """
        if self.distilled_guidance is not None:
            self._check_student({"sampler": sampler, "num_steps": num_steps, "grid": grid}, eta)
        sampler = self.sampler if sampler is None else sampler
        num_steps = self.num_steps if num_steps is None else num_steps
        grid = self.grid if grid is None else grid
        grid = get_sampler(sampler).grid if grid is None else grid
        delta = default_delta(self.process, sampler) if delta is None else delta
        return checked_settings(SamplingSettings(sampler, num_steps, grid, eta, delta), self.process, self.prediction)

    def _check_student(self, asked, eta):
        if eta:
            raise UserError(f"this model was distilled for steps without noise: eta must be 0. Received: {eta!r}")
        for name, value in asked.items():
            if value not in (None, getattr(self, name)):
                raise UserError(
                    f"this model was distilled for {self.num_steps} steps of {self.sampler} on the grid {self.grid}: "
                    f"{name} must be {getattr(self, name)}, or left out. Received: {value!r}"
                )

    def conditions(self, labels: ArrayLike | None, guidance_scale: ArrayLike, count: int) -> sampling.Conditions:
        """Labels and guidance scales for `count` images, checked."""
        labels = numbers_of(labels, self.class_names, count)
        labels = checked_labels(labels, self.num_classes, self.label_dropout, count)
        if self.distilled_guidance is not None and np.any(np.asarray(guidance_scale) != 1.0):
            raise UserError(
                f"this model was distilled at guidance scale {self.distilled_guidance:g}, which is in its weights: "
                f"guidance_scale must be left out. Received: {guidance_scale!r}"
            )
        return sampling.Conditions(labels, checked_guidance_scale(guidance_scale, self.label_dropout, count))

    def check_prior(self) -> None:
        """Raises a UserError if sampling from seeds needs the data's statistics and `adapt` was not called."""
        if not self.process.ends_in_noise and not self._knows_statistics():
            raise UserError(
                "this process starts from what blur leaves of the data, which the model does not know yet: call adapt "
                "with the training images, or give images"
            )

    def get_config(self) -> dict[str, Any]:
        """All arguments, as Keras saves them."""
        serialize = keras.saving.serialize_keras_object
        own = (
            "prediction", "image_shape", "loss_type", "ema_decay", "clip_norm", "label_dropout", "sampler", "num_steps",
            "grid", "seed", "num_classes", "loss_exponent",
        )  # fmt: skip
        return {
            **super().get_config(),
            "network": serialize(self.network),
            "process": serialize(self.process),
            **{name: getattr(self, name) for name in own},
            "class_names": self.class_names and list(self.class_names),
            **({} if self.distilled_guidance is None else {"distilled_guidance": self.distilled_guidance}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The inverse of `get_config`."""
        deserialize = keras.saving.deserialize_keras_object
        parts = {name: deserialize(config[name]) for name in ("network", "process")}
        kept = {name: value for name, value in config.items() if name not in _ONCE_ARGUMENTS}
        for name, constant in _ONCE_ARGUMENTS.items():
            if config.get(name, constant) != constant:
                warnings.warn(f"{name} is always {constant} now; this model had {config[name]!r}", stacklevel=2)
        return cls(**{**kept, **parts})


# What model files of earlier versions say, and what it is now.
_ONCE_ARGUMENTS = {"assumed_error": ASSUMED_ERROR, "clip_stds": BOUND}


def _warn_of_much_blur(process, width):
    blur_sigma = process.max_blur_sigma(width)
    if blur_sigma > width:
        warnings.warn(
            f"the blur's standard deviation reaches {blur_sigma:g} pixels in an image {width} wide: beyond the "
            "width there is nothing left to blur",
            stacklevel=3,
        )
