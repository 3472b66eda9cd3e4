"""Distances against steps of training: a table, and a picture with a line for each run."""

from matplotlib.figure import Figure
from miniature_tables import distance, number


def curves_table(curves):
    """Rows, the titles first, of `{name: {steps: report.json of one model}}`."""
    steps = sorted({each for reports in curves.values() for each in reports})
    table = [["steps", *map(str, steps)]]
    for name, reports in curves.items():
        cells = {each: number(distance(report["models"][0])) for each, report in reports.items()}
        table.append([name, *(cells.get(each, "") for each in steps)])
    return table


def draw_curves(curves, path):
    """Writes the picture; names are "family, prediction": a family has a colour, a prediction a style."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="steps of training", ylabel="Frechet distance, EfficientNet-Lite0", yscale="log")
    families, predictions = (list(dict.fromkeys(part)) for part in zip(*(name.split(", ") for name in curves)))
    for name, reports in curves.items():
        family, prediction = name.split(", ")
        style = {"color": f"C{families.index(family)}", "linestyle": ("--", "-")[predictions.index(prediction)]}
        steps = sorted(reports)
        distances = [distance(reports[each]["models"][0]) for each in steps]
        axes.plot(steps, distances, marker="o", markersize=4, label=name, **style)
    axes.set_yticks([10, 20, 50, 100], [10, 20, 50, 100])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
