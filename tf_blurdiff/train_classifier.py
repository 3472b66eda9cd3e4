"""Trains a small classifier on a config's labelled images, whose features `evaluate` can then use.

    python -m tf_blurdiff.train_classifier --config digits.yaml --out runs/digits_classifier.keras

A tenth of the images is held out; how many of them it is right for is printed and kept in the file.
"""

from tf_blurdiff import command_line
from tf_blurdiff.config import build_images, load_config
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation import train_classifier
from tf_blurdiff.files import writable_file, write_atomically, writing

FLAGS = command_line.Flags()
_CONFIG = FLAGS.shared("config", required=True)
FLAGS.shared("imports")
_SET = FLAGS.shared("set")
_OUT = FLAGS.string("out", "classifier.keras", "The classifier's file.")
_EPOCHS = FLAGS.integer("epochs", 20, "Passes over the data.")
_BATCH_SIZE = FLAGS.integer("batch_size", 64, "Images a step.")
_SEED = FLAGS.integer("seed", 0, "Of the weights, the order, and which images are held out.")


def main() -> None:
    """Trains and saves."""
    config, out = load_config(_CONFIG.value, _SET.value), _place()
    settings = _EPOCHS.value, _BATCH_SIZE.value, _SEED.value
    classifier = train_classifier(build_images(config), *settings, verbose=True)
    with writing(out):
        write_atomically(out, classifier.save)
    print(f"right for {classifier.held_out_accuracy:.4f} of the held-out images")
    print(f"classifier: {out}")


def _place():
    if not _OUT.value.endswith(".keras"):
        raise UserError(f"--out must be a .keras file. Received: {_OUT.value}")
    return writable_file(_OUT.value, f"--out {_OUT.value}")


if __name__ == "__main__":
    command_line.run(main, FLAGS.values)
