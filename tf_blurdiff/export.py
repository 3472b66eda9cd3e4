"""Exports a trained model for TF Serving, as an ONNX file or as a small Keras file, or checks an export.

    python -m tf_blurdiff.export --model runs/digits/model.keras --out served/digits
    python -m tf_blurdiff.export --verify served/digits/1
    python -m tf_blurdiff.export --model runs/digits/model.keras --format onnx --out digits.onnx
    python -m tf_blurdiff.export --model runs/digits/model.keras --format keras --out digits.keras

--verify loads the export in TensorFlow's C++ runtime, in a process without Python TensorFlow and with XLA off, as TF
Serving does, and compares the images of known seeds. An ONNX file is tried as it is written. A Keras file holds the
averaged weights alone, as float16: about a quarter of the run's, for apps.
"""

import pathlib

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import find_model, load_model
from tf_blurdiff.serving import export_keras, export_onnx, export_savedmodel, verify
from tf_blurdiff.training import own_words

FLAGS = command_line.Flags()
_MODEL = FLAGS.shared("model")
FLAGS.shared("imports")
_OUT = FLAGS.string("out", None, "The folder that the server watches; the export is its subfolder VERSION. Or a file")
_FORMAT = FLAGS.enum(
    "format", "savedmodel", ["savedmodel", "onnx", "keras"], "For TF Serving, for ONNX Runtime, or for Keras."
)
_VERSION = FLAGS.integer("version", None, "Version number (default: the next).")
FLAGS.sampling()
_PRECISION = FLAGS.shared("precision")
_QUALITY = FLAGS.list(
    "quality_steps", [], "Numbers of steps, or distilled models, each for a signature steps_N of its own: 10,runs/x_4."
)
_RESTORATION = FLAGS.boolean(
    "restoration", False, "Signatures that take images: image_to_image, deblur, super_resolution, inpaint."
)
_KEEP = FLAGS.integer("keep", None, "Remove all but so many of the newest versions afterwards.", lower_bound=1)
_VERIFY = FLAGS.string(
    "verify", None, "Check this export, FOLDER/VERSION, or the newest in FOLDER, instead of writing one."
)


def main() -> None:
    """Exports or verifies, and says what came of it."""
    if _VERIFY.value:
        others = [name for name in FLAGS.values if FLAGS.values[name].present and name not in ("verify", "imports")]
        if others:
            raise UserError(f"--verify checks an export that is there; --{others[0]} is for another call")
        worst = verify(_VERIFY.value)
        print(f"{_VERIFY.value} is sound: known images within {worst} grey levels, all signatures")
        return
    if not (_MODEL.value and _OUT.value):
        raise UserError("give --model and --out to export, or --verify to check an export (--help says more)")
    if _FORMAT.value != "savedmodel":
        _refuse("savedmodel", _VERSION, _QUALITY, _RESTORATION, _KEEP)
    if _FORMAT.value == "keras":
        _refuse("savedmodel and onnx", *(FLAGS.values[name] for name in FLAGS.sampling_arguments()))
    suffix = pathlib.Path(_OUT.value).suffix
    if _FORMAT.value == "savedmodel" and suffix in (".keras", ".onnx"):
        raise UserError(f"--out {_OUT.value} would be a folder: a {suffix} file is made by --format {suffix[1:]}")
    model_file = find_model(_MODEL.value)
    model = load_model(model_file, _PRECISION.value)
    if _FORMAT.value == "onnx":
        print(f"export: {export_onnx(model, _OUT.value, **FLAGS.sampling_arguments())}")
        return
    if _FORMAT.value == "keras":
        path = export_keras(model, _OUT.value)
        print(f"export: {path}, {path.stat().st_size / 1e6:.1f} MB")
        return
    quality_steps = [_steps_or_model(word) for word in _QUALITY.value]
    more = {"quality_steps": quality_steps, "restoration": _RESTORATION.value, "keep": _KEEP.value}
    # A licence and the like, which the user has written into the card of the run.
    more["notes"] = own_words(model_file.parent)
    path = export_savedmodel(model, _OUT.value, _VERSION.value, **FLAGS.sampling_arguments(), **more)
    print(f"export: {path}")


def _refuse(formats, *flags):
    for flag in flags:
        if flag.present:
            received = f"--format {_FORMAT.value} --{flag.name}"
            raise UserError(f"--{flag.name} is for --format {formats}. Received: {received}")


def _steps_or_model(word):
    if word.lstrip("-").isdecimal():
        return int(word)
    try:
        return load_model(word, _PRECISION.value)
    except UserError as error:
        raise UserError(f"--{_QUALITY.name}: {error}") from error


if __name__ == "__main__":
    command_line.run(main, FLAGS.values)
