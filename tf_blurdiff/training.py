"""Training into a run directory: the loop, its checkpoints and what can be looked at meanwhile.

A run directory holds config.yaml, checkpoints/, model.keras (for use: no optimizer), samples/step_*.png, tensorboard/
and metrics.jsonl. Training that finds a checkpoint there goes on from it, and ends with the weights that it would have
had without the interruption.
"""

import json
import math
import os
import pathlib
import re
import sys
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from tf_blurdiff import config as configs
from tf_blurdiff.data import DataError, to_unit_range, training_batches
from tf_blurdiff.errors import UserError
from tf_blurdiff.pictures import save_grid

_CHECKPOINTS_KEPT = 3
_STATISTICS_BATCH = 256
# How often the progress bar should move: steps are traced in blocks, and it moves between them.
_BAR_SECONDS = 1.0
# What a run may change on the way: how far it goes and what it shows, but not what it learns.
_MAY_CHANGE = re.compile(r"train\.(steps|log_every|sample_every|checkpoint_every)|sample\..*").fullmatch


def train(config, run_dir, verbose=True):
    """Trains the model of a config, from its last checkpoint if the run directory holds one.

    Args:
        config: a `config.Config`.
        run_dir: folder, made if missing.
        verbose: whether to show a progress bar.

    Returns:
        The trained `DiffusionModel`.

    Raises:
        UserError: if the run directory was begun with another config or cannot be written, or if the data is missing.
    """
    run_dir = pathlib.Path(run_dir)
    _check_run_dir(config, run_dir)
    images = configs.build_images(config)
    if config.train.batch_size > images.num_images:
        raise UserError(
            f"train.batch_size: got {config.train.batch_size}, "
            f"expected at most {images.num_images}, the number of images"
        )
    keras.utils.set_random_seed(config.train.seed)  # Of the weights before the first step.
    model = configs.build_model(config)
    model.compile(keras.optimizers.Adam(learning_rate(config.train)))
    model.optimizer.build(model.network.trainable_variables)
    _begin_run_dir(config, run_dir)
    try:
        return Run(config, run_dir, model, images, verbose).run()
    except tf.errors.OpError as error:
        # A pipeline wraps what its Python parts raise in a page of text.
        reason = re.search(r"DataError: (.*)", str(error))
        if reason is None:
            raise
        raise DataError(reason.group(1)) from None


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
        run_dir: a folder that exists.
        model: a compiled `DiffusionModel`.
        images: a `data.Images`.
        verbose: whether to show a progress bar.
    """

    def __init__(self, config, run_dir, model, images, verbose=True):
        self.settings = config.train
        self.sampling = config.sample
        self.flip = config.data.flip
        self.run_dir = pathlib.Path(run_dir)
        self.model = model
        self.images = images
        self.verbose = verbose
        # Each variable by hand: TensorFlow does not find those that Keras keeps in a list of a model's own.
        variables = [*model.variables, *model.optimizer.variables]
        checkpoint = tf.train.Checkpoint(variables=[variable.value for variable in variables])
        self.checkpoints = tf.train.CheckpointManager(checkpoint, str(run_dir / "checkpoints"), _CHECKPOINTS_KEPT)
        self.metrics_log = run_dir / "metrics.jsonl"

    def run(self):
        """Trains to the last step and returns the model."""
        step = self._restore()
        if step == 0:
            self._say("gathering the data's DCT statistics")
            self.model.adapt(self._image_batches())
        if step >= self.settings.steps:
            self._say(f"{self.run_dir} holds all {step} steps; nothing to train")
            self._save_model()
            return self.model
        batches = iter(self._training_batches(step))
        writer = tf.summary.create_file_writer(str(self.run_dir / "tensorboard"))
        with writer.as_default(), self._progress_bar(step) as progress:
            seconds, logged, pace = 0.0, step, 1
            while step < self.settings.steps:
                block = min(pace, self._next_event(step) - step)
                spent = self._run_block(batches, block)
                pace = max(1, int(block / spent * _BAR_SECONDS))
                seconds += spent
                step += block
                progress.update(block)
                if self._is_due(step, self.settings.log_every):
                    self._log(step, (step - logged) / seconds, progress)
                    seconds, logged = 0.0, step
                if self._is_due(step, self.settings.sample_every):
                    self._draw_samples(step)
                if self._is_due(step, self.settings.checkpoint_every):
                    self._save(step)
        return self.model

    def _restore(self):
        if not _saved_checkpoints(self.run_dir):
            self._drop_metrics_after(0)
            return 0
        self._read_newest_checkpoint()
        step = int(self.model.optimizer.iterations.numpy())
        self._say(f"resuming {self.run_dir} at step {step}")
        self._drop_metrics_after(step)
        return step

    def _read_newest_checkpoint(self):
        for path in reversed(_saved_checkpoints(self.run_dir)):
            try:
                self.checkpoints.checkpoint.restore(str(path)).assert_consumed()
                return
            except Exception as error:  # TensorFlow's reader raises IndexError and others, as the damage has it.
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                print(f"{path} cannot be read ({reason}); trying the one before", file=sys.stderr)
        raise UserError(
            f"no checkpoint in {self.run_dir / 'checkpoints'} can be read; expected one that is whole. "
            "Use another run directory to begin again"
        )

    def _drop_metrics_after(self, step):
        # Lines that an interrupted run wrote after its last checkpoint will be written again.
        if not self.metrics_log.exists():
            return
        kept = []
        for line in self.metrics_log.read_text().splitlines():
            try:
                kept += [line] if json.loads(line)["step"] <= step else []
            except json.JSONDecodeError:
                break  # The interruption cut this line.
        _write_atomically(self.metrics_log, lambda path: path.write_text("".join(line + "\n" for line in kept)))

    def _training_batches(self, step):
        labels = self.model.num_classes is not None
        batch_size, seed = self.settings.batch_size, self.settings.seed
        return training_batches(self.images, batch_size, seed, start_step=step, flip=self.flip, labels=labels)

    def _image_batches(self):
        # Labels choose where sampling starts, in a process that does not end in noise.
        labels = self.model.num_classes is not None
        singles = self.images.single_images(labels=labels).batch(_STATISTICS_BATCH)
        batches = singles.map(lambda pixels, *label: (to_unit_range(pixels), *label))
        total = -(-self.images.num_images // _STATISTICS_BATCH)
        return tqdm(batches, total=total, desc="statistics", unit="batch", disable=not self.verbose)

    @tf.function(autograph=False)
    def _train_steps(self, batches, count):
        # A traced loop, so that a step costs no Python.
        def body(i):
            self.model.train_step(batches.get_next())
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, (tf.constant(0),), parallel_iterations=1)

    def _run_block(self, batches, count):
        """Trains some steps and returns the seconds they took."""
        started = time.monotonic()
        self._train_steps(batches, tf.constant(count))
        return time.monotonic() - started

    def _next_event(self, step):
        settings = self.settings
        periods = (settings.log_every, settings.sample_every, settings.checkpoint_every)
        return min(settings.steps, *(step - step % period + period for period in periods))

    def _is_due(self, step, period):
        return step % period == 0 or step == self.settings.steps

    def _log(self, step, steps_per_second, progress):
        loss = float(self.model.loss_tracker.result())
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {step}: training has diverged; lower train.learning_rate")
        self.model.loss_tracker.reset_state()
        row = {
            "step": step,
            "loss": loss,
            "steps_per_second": round(steps_per_second, 3),
            "images_per_second": round(steps_per_second * self.settings.batch_size, 1),
        }
        with open(self.metrics_log, "a") as file:
            file.write(json.dumps(row) + "\n")
        for name in ("loss", "steps_per_second", "images_per_second"):
            tf.summary.scalar(name, row[name], step=step)
        progress.set_postfix(loss=f"{loss:.4f}")

    def _draw_samples(self, step):
        count, num_classes = self.sampling.num_images, self.model.num_classes
        labels = None if num_classes is None else [i % num_classes for i in range(count)]
        path = self.run_dir / "samples" / f"step_{step:08d}.png"
        save_grid(self.model.sample(range(count), labels=labels), path)
        tf.summary.image("samples", tf.io.decode_png(path.read_bytes())[None], step=step)

    def _save(self, step):
        # The model first: who finds a checkpoint finds a model that is at least as new.
        self._save_model()
        self.checkpoints.save(checkpoint_number=step)

    def _save_model(self):
        # Keras writes the optimizer of a compiled model, which would double the file.
        optimizer, self.model.optimizer, self.model.compiled = self.model.optimizer, None, False
        try:
            _write_atomically(self.run_dir / "model.keras", self.model.save)
        finally:
            self.model.optimizer, self.model.compiled = optimizer, True

    def _progress_bar(self, step):
        total = self.settings.steps
        return tqdm(total=total, initial=step, desc="training", unit="step", disable=not self.verbose)

    def _say(self, text):
        if self.verbose:
            print(text, flush=True)


def _saved_checkpoints(run_dir):
    """Paths of the checkpoints, oldest first; found by their files, for the list that TensorFlow keeps can be lost."""
    paths = (path.with_suffix("") for path in (run_dir / "checkpoints").glob("ckpt-*.index"))
    return sorted(paths, key=lambda path: int(path.name.removeprefix("ckpt-")))


def _check_run_dir(config, run_dir):
    path = run_dir / "config.yaml"
    if not (path.exists() and _saved_checkpoints(run_dir)):
        return  # Nothing is there yet that another config could spoil.
    changed = configs.changed_keys(configs.load_config(path), config)
    changed = [f"{key} ({old} there, {new} here)" for key, (old, new) in changed.items() if not _MAY_CHANGE(key)]
    if changed:
        raise UserError(
            f"run directory {run_dir} was begun with another config: {', '.join(changed)}; "
            "expected the same config, or another run directory"
        )


def _begin_run_dir(config, run_dir):
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _write_atomically(run_dir / "config.yaml", lambda path: configs.save_config(config, path))
    except OSError as error:
        raise UserError(f"run directory {run_dir} cannot be written: {error.strerror}") from error


def _write_atomically(path, write):
    # A reader sees the old file or the new one, never a part. The suffix stays: Keras looks at it.
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    write(temporary)
    os.replace(temporary, path)
