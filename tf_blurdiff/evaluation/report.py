"""The report of an evaluation: report.html, with pictures, and report.json for programs."""

import html
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from tf_blurdiff.data import save_grid
from tf_blurdiff.evaluation.reference import Reference
from tf_blurdiff.evaluation.scores import NEIGHBOURS_OF, Scored
from tf_blurdiff.files import write_atomically, writing

# Published FIDs are of so many samples.
PUBLISHED_NUM_IMAGES = 50_000
_SHEET = 64
_STYLE = """body { font: 15px/1.45 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { border-bottom: 1px solid #ccc; padding: .25em .7em;
text-align: left; vertical-align: top } td.number { text-align: right; font-variant-numeric: tabular-nums }
img { image-rendering: pixelated; max-width: 100%; border: 1px solid #ccc }
figure { display: inline-block; margin: 1em; vertical-align: top }
figcaption { max-width: 32em } .bar { background: #59c; height: .8em; display: inline-block }"""


def write_report(
    scored: Sequence[Scored],
    real: dict[str, Any],
    reference: Reference,
    about: dict[str, str],
    out_dir: pathlib.Path,
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes report.json, report.html and the pictures into a folder.

    Args:
        scored, real: of `scores.score`.
        reference: the `Reference`.
        about: of `provenance.describe_run`.
        out_dir: the folder, which is there.

    Returns:
        The two files' paths.

    Raises:
        UserError: if the folder cannot be written.
    """
    report = {"about": about, "real": real, "models": [each.figures for each in scored]}
    as_json, as_html = out_dir / "report.json", out_dir / "report.html"
    with writing(out_dir):
        page = _page(report, _write_pictures(scored, reference, out_dir))
        write_atomically(as_json, lambda path: path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n"))
        write_atomically(as_html, lambda path: path.write_text(page))
    return as_json, as_html


def as_text(report: dict[str, Any]) -> str:
    """The scores as a table in Markdown, the bits per dimension, and the notes."""
    titles, rows = score_table(report)
    lines = [f"| {' | '.join(row)} |" for row in [titles, ["---"] * len(titles), *rows]]
    for model in report["models"]:
        if bits := model["bits"]:
            total = bits.get("none") or f"{bits['total']:.4f} ± {bits['standard_error']:.4f}"
            lines.append(f"bits per dimension of real images, {model['name']}: {total}")
    return "\n".join([*lines, *(f"- {note}" for note in notes(report))])


def score_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The scores, one row for each model and network: the titles, and rows of strings.

    A network's first row is the floor: the real images themselves, one part against the rest.
    """
    titles = ["features", "images", "Frechet distance", "kernel distance", "precision", "recall", "nearest / real"]
    rows = []
    for network in report["real"]["features"]:
        floor = network["floor"]
        rows.append(_row(network["name"], "real", floor, floor))
        rows += [
            _row(network["name"], each["name"], each["scores"][network["name"]], floor) for each in report["models"]
        ]
    shown = [column for column in range(len(titles)) if any(row[column] for row in rows)]
    return [titles[column] for column in shown], [[row[column] for column in shown] for row in rows]


def notes(report: dict[str, Any]) -> list[str]:
    """What has to be known to read the scores: a list of sentences."""
    smallest = min(model["num_images"] for model in report["models"])
    networks = report["real"]["features"]
    others = ", ".join(network["name"] for network in networks if not network["is_fid"])
    found = [f"Distances of {others} features are no FID, and compare with no published figure."] if others else []
    for network in networks:
        name = network["name"]
        if network["is_fid"]:
            found.append(
                f"{name}: the Frechet distance is an FID. Published ones are mostly of {PUBLISHED_NUM_IMAGES:,} "
                f"samples, and with fewer it is larger; here they are {smallest:,}. It compares only with those of the "
                "same real images, resized in the same way."
            )
        if min(smallest, *network["floor"]["sizes"]) <= network["num_features"]:
            found.append(
                f"{name}: a set has no more images than there are features ({network['num_features']:,}), so its "
                "covariance is singular and the Frechet distance too large: compare it at equal sizes only."
            )
    found += [
        "The rows named real are the floor: one part of the real images, as many as there are samples or half of them, "
        "against the rest. A model cannot be expected to be below it, except by a larger number of images.",
        "Precision and recall are the shares of samples among the real images and the reverse, with three neighbours; "
        "they, the kernel distance and the neighbours are of the first images only, as many as stand under kept in "
        "report.json.",
        "Whether a model was trained on these real images, the report cannot know: see the split.",
    ]
    if networks:
        searched, others = networks[0]["kept"], report["real"]["of"] - networks[0]["kept"]
        found.append(
            f"nearest / real: the median distance of a sample to the nearest of {searched:,} real images, over that of "
            "one of these to the nearest other. Copies of these would make it much smaller than 1"
            + (f"; copies of the {others:,} other images would not show." if others else ".")
        )
    return found


def _row(network, name, scores, floor):
    kernel = scores.get("kernel")
    number = lambda key: f"{scores[key]:.3f}" if key in scores else ""
    return [
        network,
        name,
        f"{scores['frechet']:.4g}" if "frechet" in scores else "",
        f"{kernel['value']:.3g} ± {kernel['standard_error']:.2g}" if kernel else "",
        number("precision"),
        number("recall"),
        f"{scores['nearest'] / floor['nearest']:.3f}" if floor["nearest"] else "",
    ]


def _write_pictures(scored, reference, out_dir):
    """Writes the pictures; returns for each of the parts a list of (file name, caption)."""
    real = reference.read(np.arange(min(_SHEET, reference.num_images)))
    save_grid(real, out_dir / "real.png")
    pictures = {"real": [("real.png", f"{len(real)} of the real images, at random")]}
    for candidate, _, images, neighbours in scored:
        name = f"samples_{candidate.name}.png"
        save_grid(images[:_SHEET], out_dir / name)
        pictures[candidate.name] = [(name, f"{len(images[:_SHEET])} samples, the first seeds, not selected")]
        for space, numbers in neighbours.items():
            rows = [np.concatenate([images[i : i + 1], reference.read(numbers[i])]) for i in range(NEIGHBOURS_OF)]
            name = f"neighbours_{candidate.name}_{space}.png"
            save_grid(np.concatenate(rows), out_dir / name)
            caption = f"first column: samples; right of each its nearest real images, by {space}, the nearest first"
            pictures[candidate.name].append((name, caption))
    return pictures


def _page(report, pictures):
    titles, rows = score_table(report)
    parts = [
        "<h1>Evaluation</h1>",
        _table([], list(report["about"].items())),
        "<h2>Distances to the real images</h2>",
        _table(titles, rows),
        "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes(report)) + "</ul>",
        "<h2>Feature networks</h2>",
        _table(*_network_table(report)),
        *_bits_parts(report),
        "<h2>Real images</h2>",
        _figures(pictures["real"]),
    ]
    for model in report["models"]:
        described = [(key, value) for key, value in model.items() if key not in ("scores", "bits")]
        parts += [f"<h2>{html.escape(model['name'])}</h2>", _table([], described), _figures(pictures[model["name"]])]
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _network_table(report):
    titles = ["name", "FID", "length", "images are", "digest", "remark", "sizes of the floor's sets"]
    rows = []
    for each in report["real"]["features"]:
        sizes = " against ".join(f"{size:,}" for size in each["floor"]["sizes"])
        is_fid = "yes" if each["is_fid"] else "no"
        own = [each["num_features"], each["preparation"], each["digest"], each["remark"]]
        rows.append([each["name"], is_fid, *own, sizes])
    return titles, rows


def _bits_parts(report):
    bits_of = {model["path"]: model["bits"] for model in report["models"] if model["bits"]}
    if not bits_of:
        return []
    rows = []
    for path, bits in bits_of.items():
        if "none" in bits:
            rows.append([path, bits["none"], "", "", "", ""])
            continue
        how = f"{bits['num_images']} images, {bits['num_times']} of {bits['num_steps']} steps"
        parts = [f"{bits[name]:.4f}" for name in ("prior", "diffusion", "reconstruction")]
        rows.append([path, f"{bits['total']:.4f} ± {bits['standard_error']:.4f}", *parts, how])
    titles = ["model", "bits per dimension", "prior", "diffusion", "reconstruction", "of"]
    parts = ["<h2>Variational bound of the real images</h2>", _table(titles, rows)]
    return parts + [_spectrum(path, bits) for path, bits in bits_of.items() if "none" not in bits]


def _spectrum(path, bits):
    """Prior and diffusion terms by frequency, as bars."""
    largest = max(*bits["spectrum"], 1e-12)
    rows = ""
    for low, high, value in zip(bits["bands"], bits["bands"][1:], bits["spectrum"]):
        bar = f'<span class="bar" style="width: {max(0.0, 20 * value / largest):.2f}em"></span>'
        rows += f'<tr><td>{low:.2f} to {high:.2f}</td><td class="number">{value:.4f}</td><td>{bar}</td></tr>'
    title = f"{html.escape(path)}: prior and diffusion by frequency (1 is the highest along an axis)"
    return f"<p>{title}</p><table>{rows}</table>"


def _table(titles, rows):
    head = "<tr>" + "".join(f"<th>{html.escape(title)}</th>" for title in titles) + "</tr>" if titles else ""
    body = "".join("<tr>" + "".join(_cell(value, bool(titles)) for value in row) + "</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _cell(value, align):
    text = "-" if value is None else str(value)
    kind = ' class="number"' if align and re.fullmatch(r"-?\d[\d.,e+-]*( ± .*)?", text) else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _figures(pictures):
    figure = '<figure><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>'
    return "".join(figure.format(quote(name), html.escape(caption), html.escape(caption)) for name, caption in pictures)
