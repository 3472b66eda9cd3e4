"""Distances against steps of training: a table, and a picture with a line for each run."""

from matplotlib.figure import Figure
from miniature_tables import number


def curves_table(curves):
    """Rows, the titles first, of `{name: {steps: report.json of one model}}`."""
    steps = sorted({each for reports in curves.values() for each in reports})
    table = [["steps", *map(str, steps)]]
    for name, reports in curves.items():
        table.append([name, *(number(_distance(reports[each])) if each in reports else "" for each in steps)])
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
        axes.plot(steps, [_distance(reports[each]) for each in steps], marker="o", markersize=4, label=name, **style)
    axes.set_yticks([10, 20, 50, 100], [10, 20, 50, 100])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _distance(report):
    (scores,) = report["models"][0]["scores"].values()
    return scores["frechet"]
