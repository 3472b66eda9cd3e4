"""The four families on the digits, side by side: one picture, one table.

    python benchmarks/digits_families.py --runs runs --out docs/families.png

It expects the models of the configs digits, digits_gaussian, digits_heat_dissipation and digits_cold in folders of
these names: the same network, trained for the same number of steps. Each samples with its own sampler and steps. The
distances are those of digits_solvers.py, and the bits those of 512 of the real digits that the models were trained on;
no figure here is an FID.
"""

import pathlib

import numpy as np
from absl import flags
from digits_scores import Scores
from family_picture import family_picture

from tf_blurdiff import command_line
from tf_blurdiff.data.sources import to_uint8
from tf_blurdiff.model.diffusion_model import load_model

_RUNS = flags.DEFINE_string("runs", "runs", "The folder of the run directories.")
_OUT = flags.DEFINE_string("out", "docs/families.png", "The picture.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 2048, "Samples for the table.", lower_bound=36)

FAMILIES = {
    "gaussian": "digits_gaussian",
    "blurring": "digits",
    "heat dissipation": "digits_heat_dissipation",
    "cold": "digits_cold",
}
_SHOWN, _ZOOM = 36, 5
_BOUND_IMAGES = 512


def main():
    """Prints the table and writes the picture."""
    scores = Scores()
    print("half/half: pixels {:.3f}, hidden layer {:.3f}".format(*scores.floors))
    print("| family | prediction | sampler | calls | pixels | hidden layer | outside, of 1000 | bits per dimension |")
    print("|---|---|---|---|---|---|---|---|")
    sheets = {"real": to_uint8(scores.real[:_SHOWN])}
    for family, name in FAMILIES.items():
        model = load_model(pathlib.Path(_RUNS.value) / name / "model.keras")
        samples = model.sample(range(_NUM_IMAGES.value), return_trajectory=True)[-1]
        row = "{:.2f} | {:.2f} | {:.1f}".format(*scores.row(samples))
        bits = _bits(model, scores.real)
        print(f"| {family} | {model.prediction} | {model.sampler} | {model.num_steps} | {row} | {bits} |", flush=True)
        sheets[family] = to_uint8(samples[:_SHOWN])
    family_picture(sheets, _ZOOM).save(_OUT.value)
    print(f"picture: {_OUT.value}")


def _bits(model, real):
    """The bound of some real digits, in 1,000 steps of which 100 are looked at, and its standard error."""
    if not model.process.ends_in_noise:
        return "no bound"
    total = model.bits_per_dimension(real[:_BOUND_IMAGES], num_times=100).total
    return f"{total.mean():.3f} ± {total.std() / np.sqrt(len(total)):.3f}"


if __name__ == "__main__":
    command_line.run(main)
