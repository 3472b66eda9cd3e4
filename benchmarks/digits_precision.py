"""What bfloat16 does to quality: digits models trained in float32 and in mixed bfloat16, beside each other.

    python -m tf_blurdiff.train --config digits.yaml --run_dir runs/digits
    python -m tf_blurdiff.train --config digits.yaml --run_dir runs/digits_bf16 --set train.precision=mixed_bfloat16
    python benchmarks/digits_precision.py --model runs/digits/model.keras --model runs/digits_bf16/model.keras

For each model the distances of `digits_scores`, and how far the same seeds' images are from those of the same weights
in the other precision, in grey levels.
"""

import numpy as np
from absl import flags
from digits_scores import Scores

from tf_blurdiff import command_line
from tf_blurdiff.data.sources import to_uint8
from tf_blurdiff.model.diffusion_model import load_model

_MODELS = flags.DEFINE_multi_string("model", ["runs/digits/model.keras"], "A model of the digits; may be given again.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 2048, "Samples of each model, of the seeds 0, 1, ...", lower_bound=2)
_POLICIES = ("float32", "mixed_bfloat16")


def main():
    """Prints the table."""
    scores = Scores()
    print("| model | trained and sampled in | pixels | hidden layer | grey levels to the other: median | largest |")
    print("|---|---|---|---|---|---|")
    for path in _MODELS.value:
        model = load_model(path)
        policy = model.network.dtype_policy.name
        other = model.in_precision(*(name for name in _POLICIES if name != policy))
        seeds = range(_NUM_IMAGES.value)
        samples, others = model.sample(seeds), other.sample(seeds)
        difference = np.abs(to_uint8(samples).numpy().astype(int) - to_uint8(others).numpy())
        pixels, hidden, _ = scores.row(samples)
        far = f"{np.median(difference):.0f} | {difference.max()}"
        print(f"| {path} | {policy} | {pixels:.2f} | {hidden:.2f} | {far} |", flush=True)
        pixels, hidden, _ = scores.row(others)
        print(
            f"| the same | {policy}, sampled in {other.network.dtype_policy.name} | {pixels:.2f} | {hidden:.2f} | | |"
        )


if __name__ == "__main__":
    command_line.run(main)
