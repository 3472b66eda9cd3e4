"""Training into a run directory: the loop, on one device, on many, or on many machines.

Training that finds a checkpoint goes on from it, and ends with the weights that it would have had without the
interruption.
"""

import contextlib
import pathlib
import re
import signal
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from tf_blurdiff.config import schema as configs
from tf_blurdiff.data.sources import DataError, measure_throughput, to_unit_range, training_batches
from tf_blurdiff.devices import open_devices
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.files import write_atomically
from tf_blurdiff.networks.optimizers import Adam
from tf_blurdiff.networks.precision import processor_lacks
from tf_blurdiff.training.checkpoints import Checkpoints
from tf_blurdiff.training.interruption import Interruption
from tf_blurdiff.training.reporting import Report
from tf_blurdiff.training.run_directory import check_config, locked, writing

_STATISTICS_IMAGES, _STATISTICS_BATCH = 50_000, 256
# How many images the averaged weights are judged by at each checkpoint.
_JUDGED_IMAGES, _JUDGED_BATCH = 512, 32
# How often the progress bar should move: steps are traced in blocks, and it moves between them.
_BAR_SECONDS = 1.0
_PROBE_SECONDS = 0.5
# Loss scaling alone may skip 15 steps in a row on its way down from its start.
_MOST_SKIPPED_IN_ROW = 20
# What TensorFlow raises when a worker is gone.
_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


def train(config, run_dir, verbose=True, override_config=False):
    """Trains the model of a config, from its last checkpoint if the run directory holds one.

    Under tf.distribute's multi-worker strategy every worker calls this with the same config and a run directory that
    all of them see; the chief alone writes.

    Args:
        config: a `config.Config`.
        run_dir: folder, made if missing.
        verbose: whether to show a progress bar.
        override_config: whether to go on with a run directory that was begun with another config.

    Returns:
        The trained `DiffusionModel`.

    Raises:
        UserError: if the run directory was begun with another config, is in use or cannot be written, if the data is
            missing, or if training has diverged.
        Unfinished: after SIGTERM or Ctrl-C, and if another worker is gone.
    """
    run_dir = pathlib.Path(run_dir)
    if not override_config:
        check_config(config, run_dir)
    devices = open_devices(config.train.strategy, config.train.replicas)
    if not devices.is_chief:
        return train_on(devices, config, run_dir, verbose=False)
    with locked(run_dir):
        return train_on(devices, config, run_dir, verbose)


def train_on(devices, config, run_dir, verbose=True):
    """Like `train`, on `devices.Devices` that are ready, in a run directory that the chief holds."""
    images = configs.build_images(config)
    _check_batch_size(config.train.batch_size, images.num_images, devices.num_replicas)
    keras.utils.set_random_seed(config.train.seed)  # Of the weights before the first step.
    with devices.strategy.scope():
        model = configs.build_model(config)
        model.compile(Adam(learning_rate(config.train)))
        model.optimizer.build(model.network.trainable_variables)
    try:
        return Run(config, run_dir, model, images, devices, verbose).run()
    except tf.errors.OpError as error:
        # A pipeline wraps what its Python parts raise in a page of text.
        reason = re.search(r"DataError: (.*)", str(error))
        if reason is not None:
            raise DataError(reason.group(1)) from None
        if devices.num_workers > 1 and isinstance(error, _LOST_WORKER):
            reason = str(error).strip().splitlines()[0]
            raise Unfinished(
                f"another worker is gone ({reason}); start all workers again to go on from the last checkpoint"
            ) from error
        if "OOM" in str(error):
            raise UserError(
                f"train.batch_size: got {config.train.batch_size}, which does not fit into the memory of "
                f"{devices.describe()}; expected fewer images, or a smaller network"
            ) from error
        raise


def _check_batch_size(batch_size, num_images, num_replicas):
    if batch_size > num_images:
        raise UserError(f"train.batch_size: got {batch_size}, expected at most {num_images}, the number of images")
    if batch_size % num_replicas:
        raise UserError(
            f"train.batch_size: got {batch_size}, expected a multiple of {num_replicas}, the number of replicas"
        )


def learning_rate(settings):
    """The schedule: a linear rise over warmup_steps; then constant, or a cosine down to 0 at decay_steps.

    Args:
        settings: a `config.Train`.
    """
    peak, warmup_steps = settings.learning_rate, settings.warmup_steps
    if settings.decay_steps is None:
        decay = {"decay_steps": 1, "alpha": 1.0}  # Falls at once to all of the peak.
    else:
        decay = {"decay_steps": settings.decay_steps - warmup_steps, "alpha": 0.0}
    warmup = {"warmup_target": peak, "warmup_steps": warmup_steps} if warmup_steps else {}
    start = peak / (warmup_steps + 1)  # Already the first step moves.
    return keras.optimizers.schedules.CosineDecay(start if warmup_steps else peak, **decay, **warmup)


class Run:
    """One run's model, data and files.

    Args:
        config: a `config.Config`.
        run_dir: a folder, held by this process if it is the chief.
        model: a compiled `DiffusionModel`, made in the strategy's scope.
        images: a `data.Images`.
        devices: `Devices` that are ready.
        verbose: whether to show a progress bar.
    """

    def __init__(self, config, run_dir, model, images, devices, verbose=True):
        self.config = config
        self.settings = config.train
        self.run_dir = pathlib.Path(run_dir)
        self.model = model
        self.images = images
        self.devices = devices
        self.report = Report(self.run_dir, self.settings.steps, verbose) if self.devices.is_chief else None
        variables = [*model.variables, *model.optimizer.variables, *model.step_guard.variables]
        values = [variable.value for variable in variables]
        self.checkpoints = Checkpoints(self.run_dir / "checkpoints", values, self.settings.keep_checkpoints)
        self._supply = None  # images/s of the data pipeline alone, until it was said
        self._mean_over_workers = self.devices.mean_function()

    @property
    def is_verbose(self):
        """Whether there is someone to tell."""
        return self.report is not None and self.report.verbose

    def run(self):
        """Trains to the last step and returns the model."""
        with Interruption() as interruption:
            step = self._restore()
            if step >= self.settings.steps:
                self._say(f"{self.run_dir} holds all {step} steps; nothing to train")
                self._replace_lost_model()
            else:
                self._warn_of_emulation()
                if step == 0:
                    self._say("gathering the data's DCT statistics")
                    self.model.adapt(self._image_batches())
                with self._reporting(step):
                    self._train_from(step, interruption)
        self._say(f"model: {self.run_dir / 'model.keras'}")
        return self.model

    @contextlib.contextmanager
    def _reporting(self, step):
        if self.report is None:
            yield
            return
        path = self.run_dir / "config.yaml"
        with writing(self.run_dir, path.name):
            write_atomically(path, lambda path: configs.save_config(self.config, path))
        with self.report.opened(step, path.read_text()):
            yield

    def _train_from(self, step, interruption):
        batches = iter(self._distributed_batches(step))
        timed, pace = _Timer(), 1
        while step < self.settings.steps:
            block = min(pace, self._next_event(step) - step)
            spent, stop = self._run_block(batches, block, interruption)
            pace = max(1, int(block / spent * _BAR_SECONDS))
            timed.add(block, spent)
            step += block
            if self.report:
                self.report.advance(block)
            self._check_progress(step)
            if self._is_due(step, self.settings.log_every):
                self._log(step, timed.read_and_reset())
            # First what must not be lost.
            if stop or self._is_due(step, self.settings.checkpoint_every):
                self._save(step)
            if stop and step < self.settings.steps:
                raise _unfinished(interruption.signal, step, self.settings.steps)
            if self._is_due(step, self.settings.sample_every):
                self._draw_samples(step)

    # Where it begins

    def _warn_of_emulation(self):
        precision = self.settings.precision
        if self.report and self.devices.kind == "CPU" and processor_lacks(precision):
            self.report.warn(
                f"train.precision: this processor has no instructions for {precision}, and emulates them: a step can "
                "take ten times as long as in float32"
            )

    def _restore(self):
        """The step to go on from."""
        if self.report:
            with writing(self.run_dir, "checkpoints"):
                self.checkpoints.remove_parts()
        step = self.checkpoints.restore_newest(self.report.warn if self.report else lambda line: None) or 0
        # Numbers of steps are exact in float32 up to 2^24 only.
        if self._mean_over_workers([step // 2**20, step % 2**20]) != [step // 2**20, step % 2**20]:
            raise UserError(
                f"the workers see other checkpoints in run directory {self.run_dir} (step {step} here); "
                "expected a folder that all of them share"
            )
        if step:
            self._say(f"resuming {self.run_dir} at step {step}")
        if self.report:
            with writing(self.run_dir, "metrics.jsonl"):
                self.report.metrics_log.drop_after(step)
        return step

    def _image_batches(self):
        # Labels choose where sampling starts, in a process that does not end in noise.
        labels = self.model.num_classes is not None
        singles = self.images.single_images(labels=labels, limit=_STATISTICS_IMAGES).batch(_STATISTICS_BATCH)
        batches = singles.map(lambda pixels, *label: (to_unit_range(pixels), *label))
        total = -(-min(self.images.num_images, _STATISTICS_IMAGES) // _STATISTICS_BATCH)
        return tqdm(batches, total=total, desc="statistics", unit="batch", disable=not self.is_verbose)

    def _distributed_batches(self, step):
        """Every worker reads the rows of its own replicas."""
        own = training_batches(
            self.images,
            self.settings.batch_size,
            self.settings.seed,
            start_step=step,
            flip=self.config.data.flip,
            labels=self.model.num_classes is not None,
            replicas=self.devices.own_replicas,
            num_replicas=self.devices.num_replicas,
        )
        if self.is_verbose:
            self._supply = measure_throughput(
                own, self.settings.batch_size // self.devices.num_replicas, seconds=_PROBE_SECONDS
            )
        return self.devices.strategy.distribute_datasets_from_function(lambda context: own)

    # Steps

    @tf.function(autograph=False)
    def _train_steps(self, batches, count):
        # A traced loop, so that a step costs no Python.
        def body(i):
            self.devices.strategy.run(self.model.train_step, args=(batches.get_next(),))
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, (tf.constant(0),), parallel_iterations=1)

    def _run_block(self, batches, count, interruption):
        """Trains some steps; returns the seconds they took and whether to stop, the same on every worker."""
        started = time.monotonic()
        self._train_steps(batches, tf.constant(count))
        # The chief's: the others' includes that they wait while it writes.
        spent = (time.monotonic() - started) * self.devices.num_workers if self.devices.is_chief else 0.0
        spent, stop = self._mean_over_workers([spent, float(interruption.signal is not None)])
        return spent, stop > 0

    def _next_event(self, step):
        settings = self.settings
        periods = (settings.log_every, settings.sample_every, settings.checkpoint_every)
        return min(settings.steps, *(step - step % period + period for period in periods))

    def _is_due(self, step, period):
        return step % period == 0 or step == self.settings.steps

    def _check_progress(self, step):
        skipped = int(self.model.step_guard.skipped_in_row.value.numpy())
        if skipped >= _MOST_SKIPPED_IN_ROW:
            raise UserError(
                f"loss or gradient was not finite in the last {skipped} steps, up to step {step}: training has "
                "diverged. Earlier checkpoints are whole; lower train.learning_rate, or look at the data"
            )

    # What it leaves

    def _log(self, step, steps_per_second):
        means = self.model.step_record.read()
        self.model.step_record.reset()
        if self.report is None:
            return
        images_per_second = steps_per_second * self.settings.batch_size
        scalars = {
            "loss": means["loss"],
            "gradient_norm": means["gradient_norm"],
            "learning_rate": float(self.model.optimizer.learning_rate),
            "steps_per_second": round(steps_per_second, 3),
            "images_per_second": round(images_per_second, 1),
            "skipped_steps": int(self.model.step_guard.skipped_steps.value.numpy()),
        }
        self.report.log(step, scalars, means["loss_by_time"])
        if self._supply is not None:
            self.report.compare_supply(self._supply, images_per_second / self.devices.num_workers)
            self._supply = None

    def _draw_samples(self, step):
        if self.report is None:
            return
        count, num_classes = self.config.sample.num_images, self.model.num_classes
        labels = None if num_classes is None else [i % num_classes for i in range(count)]
        self.report.show_samples(step, self.model.sample(range(count), labels=labels))

    def _save(self, step):
        if self.report is None:
            return
        loss, (best_loss, best_step) = self._averaged_loss(), self.report.metrics_log.best("averaged_loss")
        is_best = loss < best_loss
        with writing(self.run_dir, "checkpoint"):
            # The model first: who finds a checkpoint finds a model that is at least as new.
            self._save_model(["model.keras", *(["best.keras"] if is_best else [])])
            self.report.log_averaged_loss(step, loss)
            self.checkpoints.save(step, keep_too=step if is_best else best_step)

    def _averaged_loss(self):
        """The averaged weights' loss on some of the images, with the same draws each time."""
        labels = self.model.num_classes is not None
        singles = self.images.single_images(labels=labels, limit=_JUDGED_IMAGES)
        total, count = 0.0, 0
        for pixels, *label in singles.map(lambda *example: example).batch(_JUDGED_BATCH):
            losses = self._judge(to_unit_range(pixels), *label)
            total, count = total + float(tf.reduce_sum(losses)), count + len(losses)
        return total / count

    @tf.function(autograph=False, reduce_retracing=True)
    def _judge(self, x0, label=None):
        return self.model.averaged_losses(x0, label)

    def _save_model(self, names):
        # Keras writes the optimizer of a compiled model, which would double the file.
        optimizer, self.model.optimizer, self.model.compiled = self.model.optimizer, None, False
        try:
            for name in names:
                write_atomically(self.run_dir / name, self.model.save)
        finally:
            self.model.optimizer, self.model.compiled = optimizer, True

    def _replace_lost_model(self):
        if self.report and not (self.run_dir / "model.keras").exists():
            with writing(self.run_dir, "model.keras"):
                self._save_model(["model.keras"])

    def _say(self, text):
        if self.report:
            self.report.say(text)


class _Timer:
    """Steps per second. The first block is traced before it runs: that is left out where there is another."""

    def __init__(self):
        self._blocks, self._traced = [], True

    def add(self, steps, seconds):
        self._blocks.append((steps, seconds))

    def read_and_reset(self):
        if self._traced and len(self._blocks) > 1:
            self._blocks.pop(0)
        steps, seconds = map(sum, zip(*self._blocks))
        self._blocks, self._traced = [], False
        return steps / seconds


def _unfinished(received, step, steps):
    why = received.name if received else "another worker's signal"
    status = Unfinished.INTERRUPTED if received == signal.SIGINT else Unfinished.TRY_AGAIN
    return Unfinished(f"stopped by {why} at step {step} of {steps}; the same command goes on from there", status)
