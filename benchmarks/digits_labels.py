"""Digits on request: how often a classifier sees the digit that a model with labels was asked for.

    python benchmarks/digits_labels.py --model runs/digits_labels/model.keras

For several strengths of guidance: the share of samples, as many of each class, that the classifier gives their label;
and their Frechet distances to the real digits, as in digits_solvers.py. The classifier is fitted on one half of the
real digits; what it gets right of the other half stands above the table.
"""

import numpy as np
from absl import flags
from digits_scores import Scores
from sklearn.neural_network import MLPClassifier

from tf_blurdiff import command_line
from tf_blurdiff.data.pictures import save_grid
from tf_blurdiff.model.diffusion_model import load_model

_MODEL = flags.DEFINE_string("model", "runs/digits_labels/model.keras", "A model of the 8x8 digits with labels.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 500, "Samples for each row.", lower_bound=10)
_OUT = flags.DEFINE_string("out", None, "A picture of ten samples of each class, one class a row.")

GUIDANCE_SCALES = [1.0, 1.5, 2.0, 3.0]


def main():
    """Prints the table."""
    scores = Scores()
    order = np.random.default_rng(0).permutation(len(scores.real))
    fitted, held_out = (scores.real[half].reshape(len(half), -1) for half in np.array_split(order, 2))
    fitted_labels, held_out_labels = (scores.labels[half] for half in np.array_split(order, 2))
    classifier = MLPClassifier((64,), max_iter=400, random_state=0).fit(fitted, fitted_labels)
    print(f"right of the real digits' other half: {classifier.score(held_out, held_out_labels):.3f}")
    model = load_model(_MODEL.value)
    seeds, labels = range(_NUM_IMAGES.value), np.arange(_NUM_IMAGES.value) % 10
    print(f"{_MODEL.value}: {_NUM_IMAGES.value} samples, seeds from 0, {model.sampler}, {model.num_steps} steps")
    print("| guidance scale | as asked | rarest right class | pixels | hidden layer |")
    print("|---|---|---|---|---|")
    for scale in GUIDANCE_SCALES:
        samples = model.sample(seeds, labels=labels, guidance_scale=scale)
        right = classifier.predict(samples.reshape(len(samples), -1)) == labels
        rarest = min(right[labels == label].mean() for label in range(10))
        pixels, hidden, _ = scores.row(samples)
        print(f"| {scale} | {right.mean():.3f} | {rarest:.2f} | {pixels:.2f} | {hidden:.2f} |", flush=True)
    if _OUT.value:
        save_grid(model.sample(range(100), labels=np.arange(100) // 10), _OUT.value)
        print(f"picture: {_OUT.value}")


if __name__ == "__main__":
    command_line.run(main)
