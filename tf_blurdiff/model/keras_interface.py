"""What Keras asks of a model around a network of `[z, t]`: compiling, steps, saving, loading; or refused in words.

Nothing here knows how images are drawn.
"""

from typing import Any

import keras
from keras import ops

from tf_blurdiff import compilation
from tf_blurdiff.errors import UserError, one_of
from tf_blurdiff.model import inputs as model_inputs
from tf_blurdiff.model import learning, training_state
from tf_blurdiff.model.arguments import check_call
from tf_blurdiff.model.averages import Averages


class KerasInterface(keras.Model):
    """The base of `DiffusionModel`.

    Attributes:
        network: a Keras model of `[z, t]`, or `[z, t, label]`.
        num_classes: number of labels, or None.
        weight_averages: of the network's weights, or None. Made after the network, so that Keras loads them after it.
        freq_mean, freq_std: the data's DCT statistics.
        compiling: whether steps run through XLA: "auto", "on" or "off", see `compilation.is_wanted`.
    """

    network: keras.Model
    num_classes: int | None
    weight_averages: Averages | None
    freq_mean: keras.Variable
    freq_std: keras.Variable
    compiling: str
    train_function: Any
    test_function: Any
    _network_takes: set[str]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.compiling = "auto"
        self.loss_tracker = keras.metrics.Mean(name="loss", dtype="float32")
        self._traced_for: list[int] = []

    def check_statistics(self) -> None:
        """Raises a UserError if the model must know the data's statistics before it is trained, and does not."""

    def check_lesson(self) -> None:
        """Raises a UserError if the model learns from a teacher, and has none."""

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The network's output for `[z, t]` or `[z, t, label]`; a UserError for other inputs, such as images alone."""
        check_call(inputs, self.num_classes)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: list[Any], training: bool = False, seed: Any = None) -> Any:
        """The network's output for `[z, t]` or `[z, t, label]`, with the weights being trained."""
        arguments = {"training": training, "seed": seed}
        return self.network(inputs, **{name: arguments[name] for name in self._network_takes})

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean of the loss."""
        return [self.loss_tracker]

    def compile(self, optimizer: Any = "rmsprop", jit_compile: bool | str = "auto", **kwargs: Any) -> None:
        """As `keras.Model.compile`; the loss is the model's own, and so is its scaling for float16.

        Args:
            optimizer: any of Keras.
            jit_compile: whether a step's loss and gradient, and what `sample` repeats, run through XLA; "auto" if there
                is a GPU, and of sampling only what calls the network often. Results are the same, up to rounding.
            **kwargs: of `keras.Model.compile`.

        Raises:
            UserError: for a loss or metrics, which this model would not use, and for a LossScaleOptimizer.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise UserError(f"{name} must be left out: the loss is the model's own, by its loss_type")
        # Keras would compile the whole of a step: sums over replicas and the skipping of steps are no work for XLA.
        super().compile(optimizer, jit_compile=False, **kwargs)
        if isinstance(jit_compile, bool):
            jit_compile = "on" if jit_compile else "off"
        one_of("jit_compile", jit_compile, compilation.CHOICES)
        self.compiling = jit_compile
        training_state.prepare_optimizer(self.optimizer)
        in_float16 = any(layer.compute_dtype == "float16" for layer in (self.network, *self.network.layers))
        # In no file: what is only of use in training.
        self.step_guard = learning.StepGuard(scales_loss=in_float16)
        self.step_record = learning.StepRecord()

    def get_compile_config(self) -> dict[str, Any]:
        """How the model was compiled and which weights are frozen, as Keras saves it; {} if it was not compiled."""
        config = super().get_compile_config()
        if not config:
            return {}
        return {**config, "jit_compile": self.compiling, **training_state.names_in_training(self)}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as `get_compile_config` says, and makes the optimizer's variables, so that they can be loaded."""
        config = dict(config)
        names = {name: config.pop(name) for name in ("frozen", "optimized") if name in config}
        if config.get("jit_compile") is False:
            config["jit_compile"] = "auto"  # Of a file of earlier versions, which does not say what was asked for.
        self.compile(**keras.saving.deserialize_keras_object(config))
        training_state.restore_names(self, **names)

    def make_train_function(self, force: bool = False) -> None:
        """What `fit` calls first. The optimizer's variables are made here: inside, they would cost a second trace.

        Raises:
            UserError: if the prediction is "preconditioned" and `adapt` was not called, if nothing can be trained, for
                weights that the optimizer was not made for, and for a student without its teacher.
        """
        self.check_lesson()
        self.check_statistics()
        training_state.build_optimizer(self)
        trained = [id(weight) for weight in self.network.trainable_variables]
        if force or self.train_function is None or trained != self._traced_for:
            super().make_train_function(force=True)
            self._traced_for, self.train_function = trained, model_inputs.with_errors_in_words(self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        """What `evaluate` calls first; raises a UserError for a student without its teacher."""
        self.check_lesson()
        if force or self.test_function is None:
            super().make_test_function(force=True)
            self.test_function = model_inputs.with_errors_in_words(self.test_function)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Nothing is left to build, and Keras would add the replicas' shares of a batch, which may differ in size.
        pass

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step on this replica's share of the global batch; returns the metrics."""
        self.loss_tracker.update_state(*learning.train_step(self, *model_inputs.checked_inputs(self, data)))
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        """The loss of the averaged weights, with the same draws for every batch."""
        losses = learning.ema_losses(self, *model_inputs.checked_inputs(self, data))
        is_finite = ops.isfinite(losses)
        self.loss_tracker.update_state(ops.where(is_finite, losses, 0.0), is_finite)
        return self.get_metrics_result()

    def load_own_variables(self, store: Any) -> None:
        """Called by Keras when it loads. Files of earlier versions have the averages here, without names."""
        self.freq_mean.assign(store["0"])
        self.freq_std.assign(store["1"])
        if self.weight_averages is not None and len(store.keys()) > 2:
            self.weight_averages.note_old_file([store[str(number)] for number in range(2, len(store.keys()))])

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`, to a .keras file; a UserError for HDF5, which Keras has for its own layers only."""
        if str(filepath).endswith((".h5", ".hdf5")):
            raise UserError(f"a DiffusionModel is saved as a .keras file: save('model.keras'). Received: {filepath}")
        super().save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """A UserError that names what exports such a model: it has signatures of seeds, which Keras cannot know."""
        raise UserError(
            f"call tf_blurdiff.export_savedmodel(model, {str(filepath)!r}): it exports the whole sampling loop, from "
            "seeds to images; Keras would export one call of the network"
        )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """A UserError: Keras would replace weights that the averages belong to."""
        raise UserError(
            "a DiffusionModel cannot be quantized; in_precision('mixed_bfloat16') makes a copy that computes in less"
        )

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        # TensorFlow has no public way to refuse: tf.saved_model.save would write a model without a signature.
        if save_type == "savedmodel":
            raise UserError(
                "tf.saved_model.save cannot save a DiffusionModel: call tf_blurdiff.export_savedmodel(model, folder), "
                "or model.save('model.keras')"
            )
        return super()._trackable_children(save_type, **kwargs)
