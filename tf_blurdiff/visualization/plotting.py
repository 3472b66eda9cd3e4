"""Figures, sheets of pictures and animations, and how they get into files.

Figures are matplotlib's, which is imported here, when one is made. Colours are Okabe and Ito's and viridis, which
colour-blind people can tell apart.
"""

import csv
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tf_blurdiff.errors import UserError
from tf_blurdiff.files import write_atomically
from tf_blurdiff.visualization.inspection import Curves, SolverError

if TYPE_CHECKING:  # It takes long to import, and need not be there.
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
ANIMATION_SUFFIXES = (".gif", ".webp", ".apng")
TABLE_SUFFIXES = (".csv", ".json")

_DPI, _CURVES_DPI = 150, 110
_PANEL_INCHES = 1.0, 3.0  # of a picture on a sheet: at least, at most
_SHEET_INCHES = 60.0  # of all pictures in a row or a column at most: memory grows with the square
_COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
_MARKERS = "osD^vXP"
# Of an animation: the least width of a picture, margins and letters in pixels, and times in milliseconds.
_FRAME_WIDTH, _MARGIN, _LETTERS = 128, 8, 14
_FRAME_TIME, _LAST_FRAME_TIME = 80, 1500
# Of what log-SNR and log alpha^2 a figure shows: far below, nothing is left of a frequency.
_LOWEST_LOG = -25.0


def check_matplotlib() -> None:
    """Raises a UserError where matplotlib is missing, before there is any work for its figures."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(f"figures need matplotlib (pip install 'tf_blurdiff[plots]'): {error}") from error


def sheet(
    rows: Sequence[Sequence[np.ndarray | None]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> "Figure":
    """Pictures in rows and columns, with labels.

    Args:
        rows: a list of rows, each a list of uint8 `[H, W, C]` with 1 or 3 channels; None leaves a place empty.
        row_labels, column_labels: strings, left of the rows and above the columns.

    Returns:
        A matplotlib Figure.

    Example:
        >>> figure = sheet([[np.zeros((8, 8, 1), "uint8"), None]], ["a digit"], ["t = 0", "t = 1"])
        >>> [axes.get_title() for axes in figure.axes]
        ['t = 0', 't = 1']
    """
    from matplotlib.figure import Figure

    pixels = max(max(picture.shape[:2]) for row in rows for picture in row if picture is not None)
    least, most = _PANEL_INCHES
    panel = min(max(least, pixels / _DPI), most, _SHEET_INCHES / max(len(rows), len(column_labels)))
    size = panel * len(column_labels) + 1.5, panel * len(rows) + 0.5
    figure = Figure(figsize=size, dpi=_DPI, layout="compressed")
    axes = figure.subplots(len(rows), len(column_labels), squeeze=False)
    for row, row_label, row_axes in zip(rows, row_labels, axes):
        for picture, place in zip(row, row_axes):
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(picture is not None)
            place.spines[:].set(color="0.7", linewidth=0.5)
            if picture is not None:
                shown = picture[:, :, 0] if picture.shape[-1] == 1 else picture
                place.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        row_axes[0].set_ylabel(row_label, rotation=0, ha="right", va="center", fontsize=10)
    for column_label, place in zip(column_labels, axes[0]):
        place.set_title(column_label, fontsize=9)
    return figure


def frames(sequences: Mapping[str, np.ndarray], captions: Sequence[str]) -> list[Image.Image]:
    """An animation: sequences of pictures side by side, each under its name.

    Args:
        sequences: `{name: uint8 [T, H, W, C]}`, with 1 or 3 channels.
        captions: `T` strings, below the pictures.

    Returns:
        A list of `T` PIL images of one size. Small pictures are enlarged by whole numbers, pixel by pixel.

    Example:
        >>> len(frames({"a digit": np.zeros((3, 8, 8, 1), "uint8")}, ["t = 0", "t = 0.5", "t = 1"]))
        3
    """
    font, line = ImageFont.load_default(_LETTERS), _LETTERS + _MARGIN
    places, left, height = {}, _MARGIN, 0
    for name, pictures in sequences.items():
        zoom = max(1, _FRAME_WIDTH // pictures.shape[2])
        places[name] = left, zoom
        # A name may be wider than its pictures, a caption is not to be cut either.
        widths = [font.getlength(text) for text in (name, *(captions if len(sequences) == 1 else ()))]
        left += math.ceil(max(zoom * pictures.shape[2], *widths)) + _MARGIN
        height = max(height, zoom * pictures.shape[1])
    images = []
    for number, caption in enumerate(captions):
        image = Image.new("RGB", (left, height + 2 * line + _MARGIN), "white")
        draw = ImageDraw.Draw(image)
        for name, pictures in sequences.items():
            place, zoom = places[name]
            picture = np.broadcast_to(pictures[number], (*pictures.shape[1:3], 3))
            picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
            image.paste(Image.fromarray(np.ascontiguousarray(picture)), (place, line))
            draw.text((place, _MARGIN // 2), name, "black", font)
        draw.text((_MARGIN, height + line + _MARGIN // 2), caption, "black", font)
        images.append(image)
    return images


def schedule_figure(curves_of: Mapping[str, Curves]) -> "Figure":
    """Signal, noise and blur over time, and the log-SNR of some frequencies.

    Args:
        curves_of: `{name: inspection.Curves}`; each is a row.

    Returns:
        A matplotlib Figure. In place of the log-SNR of a process without noise, which is infinite, it has
        log alpha_t^2.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 2.9 * len(curves_of)), dpi=_CURVES_DPI, layout="constrained")
    parts = figure.subfigures(len(curves_of), 1, squeeze=False)[:, 0]
    for part, (name, curves) in zip(parts, curves_of.items()):
        part.suptitle(name, fontweight="bold")
        levels, blur, bands = part.subplots(1, 3, width_ratios=(1.0, 1.0, 1.4))
        levels.plot(curves.times, curves.a_t, "-", color=_COLOURS[0], label="$a_t$")
        levels.plot(curves.times, curves.sigma_t, "--", color=_COLOURS[1], label="$\\sigma_t$")
        levels.set(title="signal and noise", ylim=(-0.05, 1.05))
        levels.legend(fontsize=9)
        blur.plot(curves.times, curves.blur_sigma, color=_COLOURS[2])
        most = max(1.0, curves.blur_sigma.max())
        blur.set(title="blur", ylabel="blur_sigma in pixels", ylim=(-0.05 * most, 1.05 * most))
        has_noise = np.isfinite(curves.logsnr).all()
        values = curves.logsnr if has_noise else curves.log_alpha_squared
        colours = colormaps["viridis"](np.linspace(0.0, 0.9, len(curves.frequencies)))
        for frequency, of_frequency, colour in zip(curves.frequencies, values.T, colours):
            bands.plot(curves.times, of_frequency, color=colour, label=str(frequency))
        lowest, highest = max(_LOWEST_LOG, values.min()), values.max()
        margin = 0.05 * (highest - lowest)
        bands.set_ylim(lowest - margin, highest + margin)
        bands.set_title("log-SNR" if has_noise else "no noise: $\\log\\,\\alpha_t^2$")
        bands.legend(title="frequency", fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for axes in (levels, blur, bands):
            axes.set(xlabel="t", xlim=(0.0, 1.0))
            axes.grid(alpha=0.3)
    return figure


def solver_figure(errors: Sequence[SolverError]) -> "Figure":
    """Errors over numbers of steps, both on log scales.

    Args:
        errors: a list of `inspection.SolverError`.

    Returns:
        A matplotlib Figure; an error of 0, or one that is not finite, is not on it.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator

    figure = Figure(figsize=(6.5, 4.5), dpi=_CURVES_DPI, layout="constrained")
    axes = figure.subplots()
    # A log scale without a number on it is a warning.
    yscale = "log" if any(0.0 < error.error < math.inf for error in errors) else "linear"
    axes.set(xscale="log", yscale=yscale, xlabel="steps (calls of the network)")
    for number, sampler in enumerate(dict.fromkeys(error.sampler for error in errors)):
        own = [error for error in errors if error.sampler == sampler]
        axes.plot(
            [error.num_steps for error in own],
            [error.error for error in own],
            label=f"{sampler}, grid {own[0].grid}",
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
        )
    references = {error.reference for error in errors}
    name = references.pop() if len(references) == 1 else "itself"
    axes.set_ylabel(f"root mean square difference\nto {name} in {errors[0].reference_steps} steps")
    counts = sorted({error.num_steps for error in errors})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def save_figure(figure: "Figure", path: pathlib.Path) -> None:
    """Writes a matplotlib Figure; the suffix of the pathlib.Path, one of FIGURE_SUFFIXES, says how."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, bbox_inches="tight", pad_inches=0.05))


def save_animation(images: Sequence[Image.Image], path: pathlib.Path) -> None:
    """Writes PIL images as an endless animation; the suffix of the pathlib.Path, one of ANIMATION_SUFFIXES, says
    how. The last frame stays longer."""
    times = [_FRAME_TIME] * (len(images) - 1) + [_LAST_FRAME_TIME]
    kind = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG"}[path.suffix.lower()]
    arguments: dict[str, Any] = {"save_all": True, "append_images": images[1:], "duration": times, "loop": 0}
    if kind == "WEBP":
        arguments["lossless"] = True
    write_atomically(path, lambda temporary: images[0].save(temporary, format=kind, **arguments))


def save_table(rows: Sequence[SolverError], path: pathlib.Path) -> None:
    """Writes a list of NamedTuples as .csv, or as .json: a list of objects, numbers that are not finite as null."""
    write_atomically(path, lambda temporary: _write_table([row._asdict() for row in rows], temporary))


def _write_table(rows, path):
    with open(path, "w", newline="") as file:
        if path.suffix.lower() == ".csv":
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            rows = [{key: _number_or_null(value) for key, value in row.items()} for row in rows]
            file.write(json.dumps(rows, indent=1) + "\n")


def _number_or_null(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value
