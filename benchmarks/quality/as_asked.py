"""How often a classifier sees in an image the label that was asked for, of each label and of all.

    python -m tf_blurdiff.sample --model fashion_mnist --num_images 1000 --guidance_scale 1.5 --out guided.npz
    python -m tf_blurdiff.train_classifier --config fashion_mnist.yaml --epochs 2 --out classifier.keras
    python benchmarks/quality/as_asked.py --samples guided.npz --classifier classifier.keras

Without guidance it says how well the model listens by itself.
"""

import zipfile

import numpy as np
from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.classifier import load_classifier

_SAMPLES = flags.DEFINE_string(
    "samples", None, "What `sample --out NAME.npz` wrote of a model with labels.", required=True
)
_CLASSIFIER = flags.DEFINE_string("classifier", None, "What `train_classifier` wrote.", required=True)
_AT_ONCE = 500


def main():
    """Prints the table."""
    classifier = load_classifier(_CLASSIFIER.value)
    images, labels = read_samples(_SAMPLES.value)
    if images.shape[1:] != classifier.image_shape or labels.max() >= classifier.num_classes:
        raise UserError(
            f"--classifier {_CLASSIFIER.value} is of images {classifier.image_shape} and {classifier.num_classes} "
            f"labels. Received: {_SAMPLES.value} of images {images.shape[1:]} and labels up to {labels.max()}"
        )
    print(f"the classifier: {classifier.accuracy_in_words()}")
    starts = range(0, len(images), _AT_ONCE)
    seen = np.concatenate([np.argmax(classifier(images[start : start + _AT_ONCE]), axis=1) for start in starts])
    print("| label | images | as asked |\n|---|---|---|")
    for name, rows in {**{label: labels == label for label in np.unique(labels)}, "all": labels >= 0}.items():
        print(f"| {name} | {rows.sum()} | {np.mean(seen[rows] == labels[rows]):.3f} |")


def read_samples(path):
    """The images, uint8 `[N, H, W, C]`, and labels, `[N]`, of a file; or a UserError."""
    try:
        with np.load(path) as arrays:
            return arrays["image"], arrays["label"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--samples must be an .npz file of `sample` with a model that has labels. Received: {path}, of which "
            f"{error}"
        ) from error


if __name__ == "__main__":
    command_line.run(main)
