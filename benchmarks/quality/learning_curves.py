"""Distances against steps of training: a table, and a picture with a line for each kind of run."""

import numpy as np
from matplotlib.figure import Figure
from miniature_tables import distance, mean_and_deviation

_STYLES = ("--", "-", ":")
_TICKS = (2, 3, 5, 7, 10, 12, 15, 20, 30, 50, 70, 100, 200, 300)


def curves_table(curves):
    """Rows, the titles first, of `{title: {steps: report.json of each run}}`; of several runs mean and deviation."""
    steps = sorted({each for of_row in curves.values() for each in of_row})
    table = [["steps", *map(str, steps)]]
    for title, of_row in curves.items():
        cells = {each: mean_and_deviation(_distances(reports)) for each, reports in of_row.items()}
        table.append([title, *(cells.get(each, "") for each in steps)])
    return table


def draw_curves(curves, path):
    """Writes the picture; titles are "family, kind": a family has a colour, a kind a style. Bars are deviations."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="steps of training", ylabel="Frechet distance, EfficientNet-Lite0", yscale="log")
    families, kinds = (list(dict.fromkeys(part)) for part in zip(*(title.split(", ") for title in curves)))
    for title, of_row in curves.items():
        family, kind = title.split(", ")
        style = {"color": f"C{families.index(family)}", "linestyle": _STYLES[kinds.index(kind)]}
        means = [np.mean(_distances(reports)) for reports in of_row.values()]
        axes.plot([*of_row], means, marker="o", markersize=4, label=title, **style)
        for steps, reports in of_row.items():
            if len(reports) > 1:
                deviation = np.std(_distances(reports), ddof=1)
                axes.errorbar(steps, np.mean(_distances(reports)), deviation, capsize=3, ecolor=style["color"])
    every = [value for of_row in curves.values() for reports in of_row.values() for value in _distances(reports)]
    low, high = 0.93 * min(every), 1.07 * max(every)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_ylim(low, high)
    axes.minorticks_off()
    axes.set_yticks(ticks, ticks)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _distances(reports):
    return [distance(report["models"][0]) for report in reports]
