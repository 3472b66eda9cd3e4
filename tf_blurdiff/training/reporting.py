"""What a training run tells on its way: a progress bar, metrics.jsonl, TensorBoard."""

import contextlib
import math
import sys

import tensorflow as tf
from tqdm import tqdm

from tf_blurdiff.data.pictures import save_grid
from tf_blurdiff.training.run_directory import MetricsLog, writing


class Report:
    """Writes into a run directory and to the terminal; for the chief alone.

    Args:
        run_dir: a pathlib.Path of a folder that is there.
        total_steps: of the run.
        verbose: whether to show a progress bar and lines of text.
    """

    def __init__(self, run_dir, total_steps, verbose):
        self.run_dir = run_dir
        self.total_steps = total_steps
        self.verbose = verbose
        self.metrics_log = MetricsLog(run_dir / "metrics.jsonl")
        self._progress = tqdm(disable=True)

    def say(self, text):
        """A line on stdout."""
        if self.verbose:
            print(text, flush=True)

    def warn(self, text):
        """A line on stderr, which does not break the progress bar."""
        tqdm.write(text, file=sys.stderr)

    @contextlib.contextmanager
    def opened(self, step, config_text):
        """While it is, there are a progress bar, from `step` on, and TensorBoard's file, which begins with the
        config."""
        writer = tf.summary.create_file_writer(str(self.run_dir / "tensorboard"))
        bar = tqdm(total=self.total_steps, initial=step, desc="training", unit="step", disable=not self.verbose)
        with writer.as_default(), bar as self._progress:
            tf.summary.text("config", "".join(f"    {line}\n" for line in config_text.splitlines()), step=step)
            yield

    def advance(self, steps):
        """Moves the progress bar."""
        self._progress.update(steps)

    def log(self, step, scalars, loss_by_time):
        """Writes a dict of numbers, and the losses of equal parts of [0, 1]; None where there is none."""
        with writing(self.run_dir, "metrics.jsonl"):
            self.metrics_log.append({"step": step, **scalars, "loss_by_time": loss_by_time})
        parts = len(loss_by_time)
        names = [f"loss_by_time/{part / parts:.2f}_{(part + 1) / parts:.2f}" for part in range(parts)]
        for name, value in [*scalars.items(), *zip(names, loss_by_time)]:
            if value is not None:
                tf.summary.scalar(name, value, step=step)
        loss = "-" if scalars["loss"] is None else f"{scalars['loss']:.4f}"
        shown = {"loss": loss, "images/s": f"{scalars['images_per_second']:.0f}"}
        if scalars["skipped_steps"]:
            shown["skipped"] = scalars["skipped_steps"]
        self._progress.set_postfix(shown)

    def log_averaged_loss(self, step, loss):
        """Writes the loss of the averaged weights."""
        self.metrics_log.append({"step": step, "averaged_loss": loss if math.isfinite(loss) else None})
        tf.summary.scalar("averaged_loss", loss, step=step)

    def compare_supply(self, supply, demand):
        """Says how many images/s the data pipeline gives alone, and how many training takes."""
        self.warn(
            f"the data pipeline alone gives {supply:,.0f} images/s, {supply / demand:.1f} times what training takes "
            f"({demand:,.0f})"
        )

    def show_samples(self, step, images):
        """Writes a sheet of samples, `[B, H, W, C]` in [-1, 1]."""
        path = self.run_dir / "samples" / f"step_{step:08d}.png"
        with writing(self.run_dir, "samples"):
            save_grid(images, path)
        tf.summary.image("samples", tf.io.decode_png(path.read_bytes())[None], step=step)
