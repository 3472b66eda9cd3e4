"""What a run saves at each checkpoint: the checkpoint to go on from, model.keras and, of the best, best.keras."""

import pathlib
from collections.abc import Callable

import tensorflow as tf

from tf_blurdiff.data import Images, evenly_spaced_batches
from tf_blurdiff.files import remove_unfinished, write_atomically
from tf_blurdiff.model import DiffusionModel, ema_losses
from tf_blurdiff.training.checkpoints import Checkpoints
from tf_blurdiff.training.reporting import ChiefReport
from tf_blurdiff.training.run_directory import writing

_JUDGED_IMAGES, _JUDGED_BATCH = 512, 32


class Snapshots:
    """The checkpoints and model files of one run: every worker reads them, the chief alone writes them.

    Which is the best is the averaged weights' loss on some of the images that are held out, or on some that are learned
    where none are, with the same draws each time.

    Args:
        run_dir: the folder.
        model: a compiled `DiffusionModel`.
        images: what it learns.
        keep: how many checkpoints to keep beside the best one.
    """

    def __init__(self, run_dir: pathlib.Path, model: DiffusionModel, images: Images, keep: int) -> None:
        self._run_dir, self._model, self._images = run_dir, model, images
        variables = _variables(model)
        self._checkpoints = Checkpoints(run_dir / "checkpoints", [variable.value for variable in variables], keep)

    def restore_newest(self, warn: Callable[[str], None]) -> int:
        """Reads the newest checkpoint that is whole into the model; its step, or 0 if there is none.

        Args:
            warn: called with a line of text for every one that is not whole.

        Raises:
            UserError: if there are some, but none can be read.
        """
        step = self._checkpoints.restore_newest(warn) or 0
        if self._model.weight_averages is not None:
            # In a run these are the same.
            self._model.weight_averages.age.assign(self._model.optimizer.iterations)
        return step

    def read_held_out(self) -> None:
        """Reads the held-out images that are judged by, so that one that cannot be read ends a run at its start."""
        if self._images.held_out is not None:
            for _ in evenly_spaced_batches(self._images.held_out, _JUDGED_IMAGES, _JUDGED_BATCH, labels=False):
                pass

    def remove_parts(self) -> None:
        """Removes what a process left that was killed while it wrote; raises UserError where it cannot."""
        with writing(self._run_dir, "checkpoints"):
            self._checkpoints.remove_parts()
            for folder in (self._run_dir, self._run_dir / "samples"):
                remove_unfinished(folder)

    def save(self, step: int, report: ChiefReport) -> dict[str, float]:
        """Writes all of them; raises UserError where it cannot. Returns the averaged weights' losses, by name."""
        losses = {"averaged_loss": self._ema_loss()}
        if self._images.held_out is not None:
            losses["held_out_loss"] = self._loss_of(self._images.held_out)
        judged_by = list(losses)[-1]
        best_loss, best_step = report.metrics_log.best(judged_by)
        is_best = losses[judged_by] < best_loss
        with writing(self._run_dir, "checkpoint"):
            # The model first: who finds a checkpoint finds a model that is at least as new.
            self._save_model(["model.keras", *(["best.keras"] if is_best else [])])
            report.log_losses(step, losses)
            self._checkpoints.save(step, keep_too=step if is_best else best_step)
        return losses

    def replace_lost_model(self) -> None:
        """Writes model.keras again if it is not there; raises UserError where it cannot."""
        if not (self._run_dir / "model.keras").exists():
            with writing(self._run_dir, "model.keras"):
                self._save_model(["model.keras"])

    def _save_model(self, names):
        # Keras writes the optimizer of a compiled model, which would double the file.
        model = self._model
        optimizer, model.optimizer, model.compiled = model.optimizer, None, False
        try:
            for name in names:
                write_atomically(self._run_dir / name, model.save, lasting=True)
        finally:
            model.optimizer, model.compiled = optimizer, True

    def _ema_loss(self):
        return self._loss_of(self._images)

    def _loss_of(self, images):
        labels = self._model.num_classes is not None
        total, count = 0.0, 0
        for batch in evenly_spaced_batches(images, _JUDGED_IMAGES, _JUDGED_BATCH, labels):
            losses = self._ema_losses(*batch)
            total, count = total + float(tf.reduce_sum(losses)), count + len(losses)
        return total / count

    @tf.function(autograph=False, reduce_retracing=True)
    def _ema_losses(self, x0, label=None):
        return ema_losses(self._model, x0, label)


def _variables(model):
    """What a checkpoint holds, in an order that must stay: it knows variables by their places alone."""
    averages = [] if model.weight_averages is None else model.averages
    prior = [] if model.process.ends_in_noise else model.prior.variables
    own = [model.freq_mean, model.freq_std, *averages, *model.network.variables, *prior]
    return [*own, *model.optimizer.variables, *model.step_guard.variables]
