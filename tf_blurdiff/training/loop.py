"""Training into a run directory: the loop, on one device, on many, or on many machines.

Training that finds a checkpoint goes on from it, and ends with the weights that it would have had without the
interruption.
"""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import keras
import tensorflow as tf
from tqdm import tqdm

from tf_blurdiff.config import Config, Train
from tf_blurdiff.config import loading as configs
from tf_blurdiff.data import Images, evenly_spaced_batches, to_unit_range, training_batches
from tf_blurdiff.devices import Devices, has_unseen_gpu, open_devices
from tf_blurdiff.errors import Unfinished, UserError
from tf_blurdiff.files import expanded
from tf_blurdiff.model import DiffusionModel, train_step
from tf_blurdiff.networks import Adam, processor_lacks
from tf_blurdiff.training import model_card
from tf_blurdiff.training.interruption import Interruption
from tf_blurdiff.training.reporting import ChiefReport, Report, StepTimer
from tf_blurdiff.training.run_directory import check_config, locked, resolved, writing
from tf_blurdiff.training.snapshots import Snapshots

_STATISTICS_IMAGES, _STATISTICS_BATCH = 50_000, 256
# How often the progress bar should move: steps are traced in blocks, and it moves between them.
_BAR_SECONDS = 1.0
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


def train(
    config: Config, run_dir: str | os.PathLike, verbose: bool = True, override_config: bool = False
) -> DiffusionModel:
    """Trains the model of a config, from its last checkpoint if the run directory holds one.

    Under tf.distribute's multi-worker strategy every worker calls this with the same config and a run directory that
    all of them see; the chief alone writes.

    Args:
        config: the experiment.
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
    run_dir = expanded(run_dir)
    if not override_config:
        check_config(config, run_dir, advice=" (--override_config goes on with the new one)")
    devices = open_devices(config.train.strategy, config.train.replicas)
    with locked(run_dir) if devices.is_chief else contextlib.nullcontext():
        return train_on(devices, config, run_dir, verbose)


def train_on(devices: Devices, config: Config, run_dir: pathlib.Path, verbose: bool = True) -> DiffusionModel:
    """Like `train`, on devices that are ready, in a run directory that the chief holds."""
    given, config = config, resolved(config, run_dir)
    if verbose and devices.is_chief and given != config:
        print(f"chosen: {configs.changes_in_words(given, config)}", flush=True)
    images = configs.build_images(config)
    check_batch_size(config.train.batch_size, images, devices.num_replicas)
    keras.utils.set_random_seed(config.train.seed)  # Of the weights before the first step.
    with errors_in_words(devices, "network"), devices.strategy.scope():
        model = configs.build_model(config, None if config.network.num_classes is None else images.class_names)
        model.compile(Adam(learning_rate(config.train)), jit_compile=config.train.compile)
        model.optimizer.build(model.network.trainable_variables)
    with errors_in_words(devices, f"train.batch_size: got {config.train.batch_size}"), images.plain_errors():
        return Run(config, run_dir, model, images, devices, verbose).run()


def check_batch_size(batch_size: int, images: Images, num_replicas: int) -> None:
    """Raises a UserError for a batch that the images do not fill, or that the replicas cannot share."""
    if batch_size > images.num_images:
        kept = "" if images.held_out is None else f"; data.held_out keeps {images.held_out.num_images} aside"
        number = f"{images.num_images}, the number of images{kept}"
        raise UserError(f"train.batch_size: got {batch_size}, expected at most {number}")
    if batch_size % num_replicas:
        raise UserError(
            f"train.batch_size: got {batch_size}, expected a multiple of {num_replicas}, the number of replicas"
        )


@contextlib.contextmanager
def errors_in_words(devices: Devices, too_large: str) -> Iterator[None]:
    """Turns what TensorFlow raises where a worker is gone or memory is out into errors of one line.

    Args:
        devices: on which it happens.
        too_large: what memory is out for, as a message begins.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if devices.num_workers > 1 and isinstance(error, _LOST_WORKER):
            reason = str(error).strip().splitlines()[0]
            raise Unfinished(
                f"another worker is gone ({reason}); start all workers again to go on from the last checkpoint"
            ) from error
        if "OOM" in str(error):
            raise UserError(
                f"{too_large}, which does not fit into the memory of {devices.describe()}; expected fewer images a "
                "step, or a smaller network"
            ) from error
        raise


def learning_rate(settings: Train) -> keras.optimizers.schedules.LearningRateSchedule:
    """The schedule: a linear rise over warmup_steps; then constant, or a cosine down to 0 at decay_steps.

    Example:
        >>> rates = learning_rate(Train(learning_rate=0.1, warmup_steps=4, decay_steps=24))
        >>> [round(float(rates(step)), 3) for step in (0, 4, 14, 24)]
        [0.02, 0.1, 0.05, 0.0]
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
        config: the experiment.
        run_dir: a folder, held by this process if it is the chief.
        model: a compiled `DiffusionModel`, made in the strategy's scope.
        images: what it learns.
        devices: that are ready.
        verbose: whether the chief shows a progress bar.
    """

    def __init__(
        self,
        config: Config,
        run_dir: pathlib.Path,
        model: DiffusionModel,
        images: Images,
        devices: Devices,
        verbose: bool = True,
    ) -> None:
        self.config, self.settings = config, config.train
        self.run_dir = run_dir
        self.model, self.images, self.devices = model, images, devices
        self.report: Report = ChiefReport(run_dir, self.settings.steps, verbose) if devices.is_chief else Report()
        self.snapshots = Snapshots(run_dir, model, images, self.settings.keep_checkpoints)
        self.stopped_by: signal.Signals | None = None
        self._saved: tuple[int, dict[str, float]] | None = None  # The last checkpoint's step and losses.

    def run(self) -> DiffusionModel:
        """Trains to the last step and returns the model; `stopped_by` is then a signal that came too late for this."""
        with Interruption() as interruption:
            step = self._restore()
            self._say_what_there_is()
            if step >= self.settings.steps:
                self.report.say(f"{self.run_dir} holds all {step} steps; nothing to train")
                if self.devices.is_chief:
                    self.snapshots.replace_lost_model()
            else:
                self._warn_of_emulation()
                self._say_if_schedule_is_of_another_length()
                self.snapshots.read_held_out()
                if step == 0 and self.model.lesson is None:  # A student has its teacher's statistics.
                    self._adapt()
                with self.report.opened(step, self.config):
                    self._train_from(step, interruption)
        self.stopped_by = interruption.signal
        self.report.say(f"model: {self.run_dir / 'model.keras'}")
        return self.model

    def _restore(self):
        """The step to go on from, the same on every worker."""
        if self.devices.is_chief:
            self.snapshots.remove_parts()
        step = self.snapshots.restore_newest(self.report.warn)
        if self.devices.mean([step]) != [step]:
            raise UserError(
                f"the workers see other checkpoints in run directory {self.run_dir} (step {step} here); "
                "expected a folder that all of them share"
            )
        if step:
            self.report.say(f"resuming {self.run_dir} at step {step}")
        self.report.drop_after(step)
        return step

    def _say_what_there_is(self):
        if self.images.summary is not None:
            self.report.say(self.images.summary)
        if self.images.held_out is not None:
            kept, learned = self.images.held_out.num_images, self.images.num_images
            self.report.say(f"{kept:,} images are held out, {learned:,} are learned from")
        self.report.say(self.devices.describe())
        if has_unseen_gpu():
            self.report.warn(
                "this machine has an NVIDIA GPU, and TensorFlow does not see it: pip install 'tensorflow[and-cuda]' "
                "into the same environment brings CUDA"
            )

    def _say_if_schedule_is_of_another_length(self):
        steps, warmup_steps, decay_steps = self.settings.steps, self.settings.warmup_steps, self.settings.decay_steps
        if decay_steps is not None and decay_steps < steps:
            self.report.warn(
                f"train.decay_steps: got {decay_steps}, expected {steps}, which is train.steps, or null: from step "
                f"{decay_steps} on the learning rate is 0, and nothing is learned"
            )
        if warmup_steps > steps:
            self.report.say(
                f"train.warmup_steps: got {warmup_steps}, expected at most {steps}, which is train.steps: the learning "
                f"rate does not reach train.learning_rate; {steps // 10} would do"
            )

    def _warn_of_emulation(self):
        precision = self.settings.precision
        if self.devices.kind == "CPU" and processor_lacks(precision):
            self.report.warn(
                f"train.precision: this processor has no instructions for {precision}, and emulates them: a step can "
                "take ten times as long as in float32"
            )

    def _adapt(self):
        self.report.say("gathering the data's DCT statistics")
        labels = self.model.num_classes is not None
        batches = evenly_spaced_batches(self.images, _STATISTICS_IMAGES, _STATISTICS_BATCH, labels)
        self.model.adapt(tqdm(batches, desc="statistics", unit="batch", disable=not self.report.verbose))

    def _train_from(self, step, interruption):
        if self.devices.mean([interruption.signal is not None])[0]:  # While the statistics were gathered.
            raise unfinished(interruption.signal, f"step {step} of {self.settings.steps}")
        batches = iter(self._distributed_batches(step))
        timer, pace = StepTimer(), 1
        while step < self.settings.steps:
            block = min(pace, self._next_event(step) - step)
            with self.report.doing("compiling") if timer.is_new else contextlib.nullcontext():
                spent, stop = self._run_block(batches, block, interruption)
            pace = max(1, int(block / spent * _BAR_SECONDS))
            timer.add(block, spent)
            step += block
            self.report.advance(block)
            self._check_progress(step)
            if self._is_due(step, self.settings.log_every):
                self._log(step, timer.read_and_reset())
            # First what must not be lost.
            if stop or self._is_due(step, self.settings.checkpoint_every):
                self._save(step)
            if stop and step < self.settings.steps:
                raise unfinished(interruption.signal, f"step {step} of {self.settings.steps}")
            if self._is_due(step, self.settings.sample_every):
                self._draw_samples(step)

    def _next_event(self, step):
        settings = self.settings
        periods = (settings.log_every, settings.sample_every, settings.checkpoint_every)
        return min(settings.steps, *(step - step % period + period for period in periods))

    def _is_due(self, step, period):
        return step % period == 0 or step == self.settings.steps

    def _distributed_batches(self, step):
        """Every worker reads the rows of its own replicas."""
        own = training_batches(
            self.images,
            self.settings.batch_size,
            self.settings.seed,
            start_step=step,
            flip=self.config.data.flip,
            crop=self.config.data.crop,
            labels=self.model.num_classes is not None,
            replicas=self.devices.own_replicas,
            num_replicas=self.devices.num_replicas,
        )
        return self.devices.strategy.distribute_datasets_from_function(lambda context: own)

    def _run_block(self, batches, count, interruption):
        """Trains some steps; returns the seconds they took and whether to stop, the same on every worker."""
        started = time.monotonic()
        self._train_steps(batches, tf.constant(count))
        # The chief's: the others' includes that they wait while it writes.
        spent = (time.monotonic() - started) * self.devices.num_workers if self.devices.is_chief else 0.0
        spent, stop = self.devices.mean([spent, interruption.signal is not None])
        return spent, stop > 0

    @tf.function(autograph=False)
    def _train_steps(self, batches, count):
        # A traced loop, so that a step costs no Python.
        def body(i):
            self.devices.strategy.run(self._train_step, args=(batches.get_next(),))
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, (tf.constant(0),), parallel_iterations=1)

    def _train_step(self, data):
        pixels, label = (data, None) if self.model.num_classes is None else data
        # Only here, on the device: floats are four times the bytes to copy there. They are in their range, and labels
        # were looked at when the images were opened: to look again would make the host wait for the device.
        train_step(self.model, to_unit_range(pixels), label)

    def _check_progress(self, step):
        skipped = int(self.model.step_guard.skipped_in_row.value.numpy())
        if skipped >= _MOST_SKIPPED_IN_ROW:
            raise UserError(
                f"loss or gradient was not finite in the last {skipped} steps, up to step {step}: training has "
                "diverged. Earlier checkpoints are whole; lower train.learning_rate, or look at the data"
            )

    def _log(self, step, steps_per_second):
        # On every worker, for the means are over all of them.
        means = self.model.step_record.read()
        self.model.step_record.reset()
        scalars = {
            "loss": means["loss"],
            "gradient_norm": means["gradient_norm"],
            "learning_rate": float(self.model.optimizer.learning_rate),
            "steps_per_second": round(steps_per_second, 3),
            "images_per_second": round(steps_per_second * self.settings.batch_size, 1),
            "skipped_steps": int(self.model.step_guard.skipped_steps.value.numpy()),
        }
        self.report.log(step, scalars, means["loss_by_time"])

    def _save(self, step):
        if isinstance(self.report, ChiefReport):
            with self.report.doing("writing a checkpoint"):
                self._saved = step, self.snapshots.save(step, self.report)
            self._write_card()

    def _draw_samples(self, step):
        if not isinstance(self.report, ChiefReport):
            return
        count, num_classes = self.config.sample.num_images, self.model.num_classes
        labels = None if num_classes is None else [i % num_classes for i in range(count)]
        with self.report.doing("sampling a sheet"):
            self.report.show_samples(step, self.model.sample(range(count), labels=labels))
        self._write_card()  # With this sheet.

    def _write_card(self):
        if self._saved is not None:
            with writing(self.run_dir, model_card.NAME):
                card = model_card.model_card(self.run_dir, self.config, self.model, self.images, *self._saved)
                model_card.write_model_card(self.run_dir, card)


def unfinished(received: signal.Signals | None, where: str) -> Unfinished:
    """The error of a training that a signal stopped, its own or None for another worker's."""
    why = received.name if received else "another worker's signal"
    status = Unfinished.INTERRUPTED if received == signal.SIGINT else Unfinished.TRY_AGAIN
    return Unfinished(f"stopped by {why} at {where}; the same command goes on from there", status)
