"""Exports a trained model for TF Serving, or checks an export.

    python -m tf_blurdiff.export --model runs/digits/model.keras --out served/digits
    python -m tf_blurdiff.export --verify served/digits/1

--verify loads the export in TensorFlow's C++ runtime, in a process without Python TensorFlow and with XLA off, as TF
Serving does, and compares the images of known seeds.
"""

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import load_model
from tf_blurdiff.serving import export_savedmodel, verify

_MODEL = flags.DEFINE_string("model", None, "The model, a .keras file.")
_OUT = flags.DEFINE_string("out", None, "The folder that the server watches; the export is its subfolder VERSION.")
_VERSION = flags.DEFINE_integer("version", None, "Version number (default: the next).")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Calls of the network (default: the model's own).")
_SAMPLER = flags.DEFINE_string("sampler", None, "ancestral or ddim (default: the model's own).")
_ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim, from 0 (deterministic) to 1 (ancestral).")
_VERIFY = flags.DEFINE_string("verify", None, "Check this export, a folder FOLDER/VERSION, instead of writing one.")


def main():
    """Exports or verifies, and says what came of it."""
    if _VERIFY.value:
        worst = verify(_VERIFY.value)
        print(f"{_VERIFY.value} is sound: known images within {worst} grey levels, both signatures")
        return
    if not (_MODEL.value and _OUT.value):
        raise UserError("give --model and --out to export, or --verify to check an export (--help says more)")
    model = load_model(_MODEL.value)
    path = export_savedmodel(model, _OUT.value, _VERSION.value, _NUM_STEPS.value, _SAMPLER.value, _ETA.value)
    print(f"export: {path}")


if __name__ == "__main__":
    command_line.run(main)
