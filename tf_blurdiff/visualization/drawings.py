"""What can be drawn of a process or a model; a drawing writes itself as any kind of file that shows it."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tf_blurdiff.data import to_uint8
from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.model import DiffusionModel
from tf_blurdiff.visualization import inspection, plotting


class Drawing(Protocol):
    """Something that can be written as a file."""

    def write(self, path: pathlib.Path) -> None:
        """Writes it; the suffix of the path says how."""


class Pictures(NamedTuple):
    """Pictures side by side as a sheet, or one after the other as an animation; all are uint8 `[H, W, C]`."""

    rows: list[list[np.ndarray | None]]  # of the sheet; None leaves a place empty
    row_labels: list[str]
    column_labels: list[str]
    sequences: dict[str, np.ndarray]  # of the animation: uint8 [T, H, W, C] by the name above it
    captions: list[str]  # T

    def write(self, path: pathlib.Path) -> None:
        """Writes the sheet or, with a suffix of an animation, that."""
        if path.suffix.lower() in plotting.ANIMATION_SUFFIXES:
            plotting.save_animation(plotting.frames(self.sequences, self.captions), path)
        else:
            plotting.save_figure(plotting.sheet(self.rows, self.row_labels, self.column_labels), path)


class Schedules(NamedTuple):
    """The curves of processes by their names, as a plot."""

    curves_of: dict[str, inspection.Curves]

    def write(self, path: pathlib.Path) -> None:
        """Writes the plot."""
        plotting.save_figure(plotting.schedule_figure(self.curves_of), path)


class SolverErrors(NamedTuple):
    """The errors of deterministic samplers, as a plot or a table."""

    errors: list[inspection.SolverError]

    def write(self, path: pathlib.Path) -> None:
        """Writes the plot or, with a suffix of a table, that."""
        if path.suffix.lower() in plotting.TABLE_SUFFIXES:
            plotting.save_table(self.errors, path)
        else:
            plotting.save_figure(plotting.solver_figure(self.errors), path)

    def __str__(self) -> str:
        steps = self.errors[0].reference_steps
        title = f"{'sampler':<12}{'grid':<11}{'steps':>6}  difference to {steps} steps (root mean square)"
        rows = [f"{each.sampler:<12}{each.grid:<11}{each.num_steps:>6}  {each.error:.3g}" for each in self.errors]
        return "\n".join([title, *rows])


def forward(processes: Iterable[tuple[str, Process, np.ndarray]], num_images: int, num_frames: int = 0) -> Pictures:
    """Pictures diffused to times from 0 to 1.

    Args:
        processes: of each row its name, the process and a picture, float `[H, W, C]` in [-1, 1].
        num_images: times in a row of the sheet.
        num_frames: times of the animation; 0 if there is none to be.

    Example:
        >>> import tf_blurdiff as bd
        >>> pictures = forward([("cold", bd.process.cold(), np.zeros((8, 8, 1), "float32"))], num_images=3)
        >>> pictures.row_labels, pictures.column_labels
        (['cold'], ['t = 0.00', 't = 0.50', 't = 1.00'])
    """
    sheet_times, frame_times = np.linspace(0.0, 1.0, num_images), np.linspace(0.0, 1.0, num_frames)
    rows, sequences = [], []
    for name, process, image in processes:
        rows.append((name, list(inspection.diffused(process, image, sheet_times))))
        if num_frames:
            sequences.append((name, inspection.diffused(process, image, frame_times)))
    by_name = _by_name(rows)
    return Pictures(
        list(by_name.values()), list(by_name), _times(sheet_times), _by_name(sequences), _times(frame_times)
    )


def schedules(processes: Iterable[tuple[str, Process, int]]) -> Schedules:
    """Signal, noise, blur and log-SNR over t, of `(name, process, width in pixels)`."""
    return Schedules(_by_name((name, inspection.curves(process, width)) for name, process, width in processes))


def trajectory(
    model: DiffusionModel, seeds: Sequence[int], num_images: int, labels: Sequence[int] | None = None, **sampling: Any
) -> Pictures:
    """z_t and the estimate of the image, from noise to each seed's image; arguments as `inspection.trajectory`."""
    steps = inspection.trajectory(model, seeds, num_images, labels, **sampling)
    rows: list[list[np.ndarray | None]] = []
    row_labels = []
    for number, seed in enumerate(seeds):
        rows.append(list(steps.z_t[steps.chosen, number]))
        row_labels.append(f"seed {seed}   $z_t$")
        if steps.x0_hat is not None:
            # At t = 0 there is no estimate: the image is there.
            rows.append([*steps.x0_hat[:, number], None])
            row_labels.append("$\\hat{x}_0$")
    sequences = _by_name((f"seed {seed}", steps.z_t[:, number]) for number, seed in enumerate(seeds))
    return Pictures(rows, row_labels, _times(steps.times[steps.chosen]), sequences, _times(steps.times))


def interpolations(
    model: DiffusionModel,
    pairs: Sequence[tuple[int, int]],
    num_images: int,
    labels: Sequence[int] | None = None,
    **sampling: Any,
) -> Pictures:
    """Images between two seeds, for pairs of seeds, with a label for each pair."""
    named = []
    for number, (first, last) in enumerate(pairs):
        repeated = None if labels is None else [labels[number]] * num_images
        images = model.interpolate(first, last, num_images, labels=repeated, **sampling)
        named.append((f"seed {first} to {last}", to_uint8(images).numpy()))
    shares = [f"{share:.2f}" for share in np.linspace(0.0, 1.0, num_images)]
    rows = _by_name(named)
    return Pictures([list(row) for row in rows.values()], list(rows), shares, rows, shares)


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Of the same name the later ones are numbered."""
    named: dict[str, Any] = {}
    for name, value in pairs:
        count = sum(other == name or other.startswith(f"{name} (") for other in named)
        named[f"{name} ({count + 1})" if count else name] = value
    return named


def _times(times: np.ndarray) -> list[str]:
    return [f"t = {t:.2f}" for t in times]
