"""What an export is: its size, how long it takes to write and to load, and whether its images are the model's.

    python benchmarks/exports/exports.py --model runs/digits/model.keras --model runs/digits_gaussian/model.keras

Each model is exported with its own sampler and steps, and loaded in TensorFlow's C++ runtime as a server would: in a
process of its own, without Python TensorFlow, XLA off. There the seeds 0 to 7 are drawn ten times, as one batch. The
first call prepares the graph, which is what warm-up requests are for; the tenth is what a server gives from then on.
About half a minute a model.

Columns of the table:
    MB: all files of the export. Written: tracing, saving, and drawing the known images.
    loaded: the graph and its weights, without the start of the process.
    first, tenth: the call, 8 images.
    known image: whether seed 0 came out with the SHA-256 that the manifest gives it.
    all signatures: the largest difference of `export --verify` to the known images, in grey levels.
    model.sample: the largest difference to what Python gives for the same seeds, in grey levels.
"""

import contextlib
import pathlib
import sys
import tempfile

from absl import flags
from export_figures import SEEDS, measured, row
from tqdm import tqdm

import tf_blurdiff as bd
from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writable_file
from tf_blurdiff.visualization import plotting

_MODELS = flags.DEFINE_multi_string(
    "model", None, "A model: a .keras file, or the name of one that is shipped; repeatable.", required=True
)
_OUT = flags.DEFINE_string("out", None, "The folder for the exports (default: a temporary one).")
_PICTURE = flags.DEFINE_string("picture", None, "The exports' images, a row a model: .png, .pdf or .svg.")
flags.register_validator(
    "picture",
    lambda path: path is None or path.lower().endswith(plotting.FIGURE_SUFFIXES),
    f"must end in {', '.join(plotting.FIGURE_SUFFIXES)}",
)

_COLUMNS = (
    "model", "process", "signatures", "sampler, steps", "MB", "written, s", "loaded, s", "first, s", "tenth, s",
    "known image", "all signatures", "model.sample",
)  # fmt: skip


def main():
    """Prints the table, and draws the picture."""
    picture = None
    if _PICTURE.value is not None:
        plotting.check_matplotlib()
        picture = writable_file(_PICTURE.value, f"--picture {_PICTURE.value}")
    models = {path: bd.load_model(path) for path in tqdm(_MODELS.value, desc="loading", unit="model", leave=False)}
    print(f"{len(SEEDS)} images a call; every time is that of one run")
    print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}", flush=True)
    exports = {}
    with contextlib.nullcontext(_OUT.value) if _OUT.value else tempfile.TemporaryDirectory() as folder:
        for path, model in models.items():
            exports[path] = measured(model, pathlib.Path(folder, short_name(path)))
            print(f"| {path} | {' | '.join(row(model.process, exports[path]))} |", flush=True)
            if _OUT.value:
                print(f"export: {exports[path].path}", file=sys.stderr)
    if picture is not None:
        draw(exports, picture)
    wrong = [path for path, export in exports.items() if export.worst_known is None]
    if wrong:
        raise UserError(f"the exports of {', '.join(wrong)} do not give their known images")


def short_name(path):
    """What tells models apart: the run's folder, for in it the file is always model.keras."""
    path = pathlib.Path(path)
    return path.absolute().parent.name if path.stem in ("model", "best") else path.stem


def draw(exports, picture):
    """A row of images for each export."""
    pictures = [list(export.times.answer) for export in exports.values()]
    labels = [short_name(path) for path in exports], [f"seed {seed}" for seed in SEEDS]
    plotting.save_figure(plotting.sheet(pictures, *labels), picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    command_line.run(main)
