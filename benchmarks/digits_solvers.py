"""How good a digits model's samples are by sampler, grid, number of calls and spectral clipping.

    python benchmarks/digits_solvers.py --model runs/digits/model.keras

Two tables. The first goes through samplers and grids; the second through ways to tame `x0_hat`: spectral clipping with
several bounds or none, and the Wiener weight with several assumed errors or none. Each row: the Frechet distance to all
real digits, of pixels and of a classifier's hidden layer, each over that of two halves of the real digits; and how many
samples in a thousand have a pixel outside [-1.5, 1.5] before the final clip to [-1, 1]. No figure here is an FID.
"""

from absl import flags
from digits_scores import Scores

from tf_blurdiff import command_line
from tf_blurdiff.model.diffusion_model import load_model

_MODEL = flags.DEFINE_string("model", "runs/digits/model.keras", "A model of the 8x8 digits that predicts eps.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 2048, "Samples for each row.", lower_bound=2)
_CALLS = flags.DEFINE_list("calls", ["5", "10", "20", "50"], "Calls of the network in the first table.")
_SHRINK_CALLS = flags.DEFINE_list("shrink_calls", ["10", "20"], "Calls of the network in the second table.")

SOLVERS = [
    ("ddim", "uniform"), ("ddim", "quadratic"), ("multistep2", "quadratic"), ("multistep2", "logsnr"),
    ("multistep3", "quadratic"), ("ancestral", "uniform"),
]  # fmt: skip
SHRUNK_SOLVERS = [("ddim", "uniform"), ("multistep2", "quadratic")]
# assumed_error of the Wiener weight, and clip_stds.
SHRINKINGS = [
    (0.0, None), (0.0, 2.0), (0.0, 3.0), (0.0, 4.0), (0.05, None), (0.03, 3.0), (0.05, 3.0), (0.1, 3.0),
]  # fmt: skip


def main():
    """Prints the tables."""
    scores = Scores()
    print("half/half: pixels {:.3f}, hidden layer {:.3f}".format(*scores.floors))
    print(f"{_MODEL.value}, {_NUM_IMAGES.value} samples, seeds from 0")
    model = load_model(_MODEL.value)
    _print_head("sampler | grid | calls")
    for sampler, grid in SOLVERS:
        for calls in map(int, _CALLS.value):
            _print_row(scores, model, f"{sampler} | {grid} | {calls}", calls, sampler, grid)
    print()
    _print_head("assumed error | clip, stds | sampler | grid | calls")
    for assumed_error, clip_stds in SHRINKINGS:
        # A copy, since what was traced once stays.
        copy = type(model).from_config({**model.get_config(), "assumed_error": assumed_error, "clip_stds": clip_stds})
        copy.set_weights(model.get_weights())
        for sampler, grid in SHRUNK_SOLVERS:
            for calls in map(int, _SHRINK_CALLS.value):
                name = f"{assumed_error or 'none'} | {clip_stds or 'none'} | {sampler} | {grid} | {calls}"
                _print_row(scores, copy, name, calls, sampler, grid)


def _print_head(columns):
    print(f"| {columns} | pixels | hidden layer | outside, of 1000 |")
    print("|---" * (columns.count("|") + 4) + "|")


def _print_row(scores, model, name, calls, sampler, grid):
    seeds = range(_NUM_IMAGES.value)
    samples = model.sample(seeds, calls, sampler, grid=grid, return_trajectory=True)[-1]
    print("| {} | {:.2f} | {:.2f} | {:.1f} |".format(name, *scores.row(samples)), flush=True)


if __name__ == "__main__":
    command_line.run(main)
