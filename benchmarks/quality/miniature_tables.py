"""Tables of what `evaluate` found of several runs: lists of rows, the titles first."""

import numpy as np


def runs_table(rows, reports):
    """One row for each kind of run: the mean, and of more than one run the standard deviation between them.

    Args:
        rows: `{title: names of runs that differ in the seed alone}`.
        reports: `{name of a run: its report.json}`; a row of which there is none is left out.
    """
    a_report = next(iter(reports.values()))
    networks = a_report["real"]["features"]
    names = [network["name"].partition(":")[0] for network in networks]
    titles = ["", "runs", "sampler, calls"]
    titles += [f"{what}, {name}" for name in names for what in ("Frechet", "kernel", "precision", "recall")]
    floor = [number(value) for network in networks for value in _scores(network["floor"])]
    table = [[*titles, "bits per dimension"], ["real, one part against the rest", "", "", *floor, ""]]
    for title, of_row in rows.items():
        models = [reports[name]["models"][0] for name in of_row if name in reports]
        if models:
            columns = zip(
                *[[each for scores in model["scores"].values() for each in _scores(scores)] for model in models]
            )
            way = f"{models[0]['sampler']}, {models[0]['num_steps']}"
            table.append([title, str(len(models)), way, *map(mean_and_deviation, columns), _bits(models)])
    return table


def calls_table(reports):
    """One row for each way of sampling, of `(name of a run, its report.json)`.

    A kernel distance's ± is its standard error.
    """
    names = [network["name"].partition(":")[0] for network in reports[0][1]["real"]["features"]]
    titles = ["run", "samples", "sampler", "calls"]
    table = [[*titles, *(f"{what}, {name}" for name in names for what in ("Frechet", "kernel"))]]
    for name, report in reports:
        for model in report["models"]:
            row = [name, *(str(model[key]) for key in ("num_images", "sampler", "num_steps"))]
            for scores in model["scores"].values():
                kernel = scores["kernel"]
                row += [number(scores["frechet"]), f"{number(kernel['value'])} ± {kernel['standard_error']:.2g}"]
            table.append(row)
    return table


def samplers_table(rows, reports):
    """One row for each kind of run, and a column of Frechet distances by one network for each sampler.

    Args:
        rows: `{title: names of runs that differ in the seed alone}`.
        reports: `{name of a run: its report.json}`; a row of which there is none is left out.
    """
    samplers = [model["sampler"] for model in next(iter(reports.values()))["models"]]
    table = [["", "runs", *samplers]]
    for title, of_row in rows.items():
        distances = [[distance(model) for model in reports[name]["models"]] for name in of_row if name in reports]
        if distances:
            table.append([title, str(len(distances)), *map(mean_and_deviation, zip(*distances))])
    return table


def print_rows(table):
    """Prints a table as Markdown, each row as soon as it is there."""
    for number, row in enumerate(table):
        print(f"| {' | '.join(map(str, row))} |", flush=True)
        if not number:
            print("|" + " --- |" * len(row), flush=True)


def mean_and_deviation(values):
    """The mean, and of more than one value the standard deviation."""
    mean = number(np.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.2g}"


def number(value):
    """Three digits, and no exponent that can be done without."""
    return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3g}"


def distance(model):
    """The Frechet distance of a report's model that has one network's scores."""
    (scores,) = model["scores"].values()
    return scores["frechet"]


def _scores(scores):
    return [scores["frechet"], scores["kernel"]["value"], scores["precision"], scores["recall"]]


def _bits(models):
    bits = [model["bits"] for model in models]
    if "none" in bits[0]:
        return "no bound"
    if len(bits) == 1:
        return f"{bits[0]['total']:.3f}"
    return mean_and_deviation([each["total"] for each in bits])
