"""How good a digits model's samples are, for several samplers and numbers of steps.

    python benchmarks/digits_quality.py --model runs/digits/model.keras

For each row: the Frechet distance in pixel space between samples and all real digits; the share of samples that a
classifier is more than 90 % sure of, over the same share of real digits; and the rarest class's share. The classifier,
a logistic regression, is fitted on one half of the real digits, and measured on the other. No figure here is an FID.
"""

import numpy as np
from absl import flags
from sklearn.linear_model import LogisticRegression

from tf_blurdiff import command_line
from tf_blurdiff.data.sources import open_images, to_uint8, to_unit_range
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.metrics import frechet_distance
from tf_blurdiff.model.diffusion_model import load_model

_MODEL = flags.DEFINE_string("model", "runs/digits/model.keras", "A model of the 8x8 digits.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 512, "Samples for each row.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 0, "The first sample's seed.")

_SURE = 0.9
SAMPLERS = [
    *(("multistep3", num_steps, 0.0) for num_steps in (5, 10, 20, 50)),
    *(("ddim", num_steps, eta) for num_steps in (20, 50) for eta in (0.0, 0.5)),
    *(("ancestral", num_steps, 0.0) for num_steps in (50, 250)),
]


def main():
    """Prints the table."""
    model = load_model(_MODEL.value)
    if model.image_shape != (8, 8, 1):
        raise UserError(f"{_MODEL.value} makes images of shape {model.image_shape}; (8, 8, 1) is expected")
    real, labels = _real_digits()
    order = np.random.default_rng(0).permutation(len(real))
    halves = np.array_split(order, 2)
    classifier = LogisticRegression(C=10, max_iter=2000).fit(_flat(real[halves[0]]), labels[halves[0]])
    floor = frechet_distance(real[halves[0]], real[halves[1]])
    real_sure = _sure_share(classifier, real[halves[1]])
    print(f"real digits, half against half: Frechet distance {floor:.3f}; sure of the held-out half: {real_sure:.3f}")
    print(f"{_NUM_IMAGES.value} samples, seeds from {_SEED.value}; default: {model.sampler}, {model.num_steps} steps")
    print("| sampler | steps | eta | Frechet distance (pixels) | over half/half | sure, over real | rarest class |")
    print("|---|---|---|---|---|---|---|")
    for sampler, num_steps, eta in SAMPLERS:
        seeds = range(_SEED.value, _SEED.value + _NUM_IMAGES.value)
        # As they are seen: rounded to 8 bits.
        images = to_unit_range(to_uint8(model.sample(seeds, num_steps, sampler, eta))).numpy()
        distance = frechet_distance(images, real)
        sure = _sure_share(classifier, images) / real_sure
        rarest = np.bincount(classifier.predict(_flat(images)), minlength=10).min() / len(images)
        figures = f"{distance:.3f} | {distance / floor:.2f} | {sure:.2f} | {rarest:.3f}"
        print(f"| {sampler} | {num_steps} | {eta} | {figures} |", flush=True)


def _real_digits():
    pairs = list(open_images("digits", image_size=8, channels=1).single_images(labels=True).as_numpy_iterator())
    return to_unit_range(np.stack([pixels for pixels, _ in pairs])).numpy(), np.array([label for _, label in pairs])


def _sure_share(classifier, images):
    return (classifier.predict_proba(_flat(images)).max(axis=1) > _SURE).mean()


def _flat(images):
    return images.reshape(len(images), -1)


if __name__ == "__main__":
    command_line.run(main)
