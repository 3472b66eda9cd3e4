"""Trains a small classifier on a config's labelled images, whose features `evaluate` can then use.

    python -m tf_blurdiff.train_classifier --config digits.yaml --out runs/digits_classifier.keras

A tenth of the images is held out; how many of them it is right for is printed and kept in the file.
"""

import pathlib

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.config.schema import build_images, load_config
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writable_file

_CONFIG = flags.DEFINE_string("config", None, "YAML file, or the name of one that is shipped.", required=True)
_SET = flags.DEFINE_multi_string("set", [], "Overrides one value of the config, as in data.split=test; repeatable.")
_OUT = flags.DEFINE_string("out", "classifier.keras", "The classifier's file.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the data.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the weights, the order, and which images are held out.")


def main():
    """Trains and saves."""
    from tf_blurdiff.evaluation.classifier import train_classifier
    from tf_blurdiff.files import write_atomically

    config, out = load_config(_CONFIG.value, _SET.value), _place()
    settings = _EPOCHS.value, _BATCH_SIZE.value, _SEED.value
    classifier = train_classifier(build_images(config), *settings, verbose=True)
    try:
        write_atomically(out, classifier.save)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    print(f"right for {classifier.held_out_accuracy:.4f} of the held-out images")
    print(f"classifier: {out}")


def _place():
    out = pathlib.Path(_OUT.value)
    if out.suffix != ".keras":
        raise UserError(f"--out must be a .keras file. Received: {out}")
    return writable_file(out, f"--out {out}")


if __name__ == "__main__":
    command_line.run(main)
