"""Reports of a training run: a progress bar, metrics.jsonl, TensorBoard."""

import contextlib
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from tf_blurdiff.config import Config, save_config
from tf_blurdiff.data import save_grid
from tf_blurdiff.files import write_atomically
from tf_blurdiff.training.run_directory import MetricsLog, writing


class Report:
    """A worker's, which is silent; the chief's is a `ChiefReport`.

    Attributes:
        verbose: whether there is someone to show a progress bar to.
    """

    verbose: bool = False

    def say(self, text: str) -> None:
        """A line on stdout."""

    def warn(self, text: str) -> None:
        """A line on stderr, which does not break the progress bar."""

    @contextlib.contextmanager
    def opened(self, step: int, config: Config) -> Iterator[None]:
        """While it is, there are a progress bar, from `step` on, and TensorBoard's file; first writes config.yaml."""
        yield

    def drop_after(self, step: int) -> None:
        """Removes the metrics of later steps: they will be written again."""

    def advance(self, steps: int) -> None:
        """Moves the progress bar."""

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Meanwhile the progress bar says why it stands still."""
        yield

    def log(self, step: int, scalars: dict[str, float | None], loss_by_time: list[float | None]) -> None:
        """Writes numbers, and the losses of equal parts of [0, 1]; None where there is none."""


class ChiefReport(Report):
    """Writes into a run directory and to the terminal.

    Args:
        run_dir: a folder that is there.
        total_steps: of the run.
        verbose: whether to show a progress bar and lines of text.

    What writes raises UserError where it cannot.
    """

    def __init__(self, run_dir: pathlib.Path, total_steps: int, verbose: bool) -> None:
        self.run_dir = run_dir
        self.total_steps = total_steps
        self.verbose = verbose
        self.metrics_log = MetricsLog(run_dir / "metrics.jsonl")
        self._progress = tqdm(disable=True)
        self._summaries: Any = None  # TensorBoard's file, while it is open.

    def say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    @contextlib.contextmanager
    def opened(self, step: int, config: Config) -> Iterator[None]:
        path = self.run_dir / "config.yaml"
        with writing(self.run_dir, path.name):
            write_atomically(path, lambda temporary: save_config(config, temporary))
        text = "".join(f"    {line}\n" for line in path.read_text().splitlines())
        with self._tensorboard():
            tf.summary.text("config", text, step=step)
        bar = tqdm(total=self.total_steps, initial=step, desc="training", unit="step", disable=not self.verbose)
        try:
            with bar as self._progress:
                yield
        finally:
            with contextlib.suppress(tf.errors.OpError):  # All is in the file already.
                self._summaries.close()
            self._summaries = None

    def drop_after(self, step: int) -> None:
        with writing(self.run_dir, "metrics.jsonl"):
            self.metrics_log.drop_after(step)

    def advance(self, steps: int) -> None:
        self._progress.update(steps)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        self._progress.set_description(f"training ({what})")
        try:
            yield
        finally:
            self._progress.set_description("training")

    def log(self, step: int, scalars: dict[str, float | None], loss_by_time: list[float | None]) -> None:
        with writing(self.run_dir, "metrics.jsonl"):
            self.metrics_log.append({"step": step, **scalars, "loss_by_time": loss_by_time})
        parts = len(loss_by_time)
        names = [f"loss_by_time/{part / parts:.2f}_{(part + 1) / parts:.2f}" for part in range(parts)]
        with self._tensorboard():
            for name, value in [*scalars.items(), *zip(names, loss_by_time)]:
                if value is not None:
                    tf.summary.scalar(name, value, step=step)
        loss = "-" if scalars["loss"] is None else f"{scalars['loss']:.4f}"
        shown: dict[str, Any] = {"loss": loss, "images/s": f"{scalars['images_per_second']:.0f}"}
        if scalars["skipped_steps"]:
            shown["skipped"] = scalars["skipped_steps"]
        self._progress.set_postfix(shown)

    def log_losses(self, step: int, losses: dict[str, float]) -> None:
        """Writes losses of the averaged weights, by name; raises OSError where it cannot."""
        row = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}
        self.metrics_log.append({"step": step, **row})
        with self._tensorboard():
            for name, loss in losses.items():
                tf.summary.scalar(name, loss, step=step)

    def show_samples(self, step: int, images: Any) -> None:
        """Writes a sheet of samples, `[B, H, W, C]` in [-1, 1]."""
        path = self.run_dir / "samples" / f"step_{step:08d}.png"
        with writing(self.run_dir, "samples"):
            save_grid(images, path)
        with self._tensorboard():
            tf.summary.image("samples", tf.io.decode_png(path.read_bytes())[None], step=step)

    @contextlib.contextmanager
    def _tensorboard(self):
        """Where summaries are written; on leaving, the file has them."""
        with writing(self.run_dir, "tensorboard", errors=(OSError, tf.errors.OpError)):
            if self._summaries is None:
                self._summaries = tf.summary.create_file_writer(str(self.run_dir / "tensorboard"))
            with self._summaries.as_default():
                yield


class StepTimer:
    """Steps per second. The first block is traced before it runs: that is left out where there is another.

    Example:
        >>> timer = StepTimer()
        >>> timer.add(1, seconds=20.0), timer.add(10, seconds=2.0)
        (None, None)
        >>> timer.read_and_reset()
        5.0
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[int, float]] = []
        self._traced = True

    @property
    def is_new(self) -> bool:
        """Whether nothing was added yet, so that the next block will be traced."""
        return self._traced and not self._blocks

    def add(self, steps: int, seconds: float) -> None:
        """Notes a block of steps."""
        self._blocks.append((steps, seconds))

    def read_and_reset(self) -> float:
        """Of the blocks since it was read last."""
        if self._traced and len(self._blocks) > 1:
            self._blocks.pop(0)
        steps, seconds = map(sum, zip(*self._blocks))
        self._blocks, self._traced = [], False
        return steps / seconds
