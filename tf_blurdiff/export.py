"""Exports a trained model for TF Serving, or checks an export.

    python -m tf_blurdiff.export --model runs/digits/model.keras --out served/digits
    python -m tf_blurdiff.export --verify served/digits/1

--verify loads the export in TensorFlow's C++ runtime, in a process without Python TensorFlow and with XLA off, as TF
Serving does, and compares the images of known seeds.
"""

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.diffusion.grids import GRIDS
from tf_blurdiff.diffusion.samplers import SAMPLERS
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.diffusion_model import load_model
from tf_blurdiff.networks.precision import PRECISIONS
from tf_blurdiff.serving.savedmodel import export_savedmodel
from tf_blurdiff.serving.verification import verify

_MODEL = flags.DEFINE_string("model", None, "The model: a .keras file, or digits or fashion_mnist, which are shipped.")
_OUT = flags.DEFINE_string("out", None, "The folder that the server watches; the export is its subfolder VERSION.")
_VERSION = flags.DEFINE_integer("version", None, "Version number (default: the next).")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Calls of the network (default: the model's own).")
_SAMPLER = flags.DEFINE_enum("sampler", None, list(SAMPLERS), "The sampler (default: the model's own).")
_GRID = flags.DEFINE_enum("grid", None, list(GRIDS), "Times of the steps (default: the model's or sampler's own).")
_ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim, from 0 (deterministic) to 1 (ancestral).")
_DELTA = flags.DEFINE_float("delta", None, "Noise of heat (default: 1.25 times the process's sigma).")
_PRECISION = flags.DEFINE_enum(
    "precision", None, list(PRECISIONS), "Of the network's arithmetic (default: as the model was trained)."
)
_QUALITY = flags.DEFINE_list("quality_steps", [], "Numbers of steps, each for a signature steps_N of its own: 10,50.")
_RESTORATION = flags.DEFINE_boolean(
    "restoration", False, "Signatures that take images: image_to_image, deblur, super_resolution, inpaint."
)
_KEEP = flags.DEFINE_integer("keep", None, "Remove all but so many of the newest versions afterwards.", lower_bound=1)
_VERIFY = flags.DEFINE_string("verify", None, "Check this export, a folder FOLDER/VERSION, instead of writing one.")


def main():
    """Exports or verifies, and says what came of it."""
    if _VERIFY.value:
        worst = verify(_VERIFY.value)
        print(f"{_VERIFY.value} is sound: known images within {worst} grey levels, all signatures")
        return
    if not (_MODEL.value and _OUT.value):
        raise UserError("give --model and --out to export, or --verify to check an export (--help says more)")
    model = load_model(_MODEL.value, _PRECISION.value)
    settings = _NUM_STEPS.value, _SAMPLER.value, _ETA.value, _GRID.value, _DELTA.value
    more = {"quality_steps": _quality_steps(), "restoration": _RESTORATION.value, "keep": _KEEP.value}
    path = export_savedmodel(model, _OUT.value, _VERSION.value, *settings, **more)
    print(f"export: {path}")


def _quality_steps():
    for text in _QUALITY.value:
        if not (text.isascii() and text.isdecimal() and int(text)):
            raise UserError(f"--quality_steps must be integers of 1 or more, as 10,50. Received: {text!r}")
    return [int(text) for text in _QUALITY.value]


if __name__ == "__main__":
    command_line.run(main)
