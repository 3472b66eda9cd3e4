"""An export's model card, README.md in its assets.extra: what it is, what it answers, how to ask it."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_blurdiff import __version__
from tf_blurdiff.diffusion.samplers import SamplingSettings
from tf_blurdiff.model import DiffusionModel
from tf_blurdiff.serving.signatures import Signature

_NOTES = """## Licence, and what it is for

To be filled in: of the pictures that were learned from, and of these weights. The images are of the kind that was
learned from, with its gaps and faults."""


def export_card(
    model: DiffusionModel,
    settings: SamplingSettings,
    signatures: Mapping[str, Signature],
    students: Mapping[str, DiffusionModel],
    notes: str | None,
) -> str:
    """The card as Markdown; the arguments are those of `assets.write_assets`."""
    height, width, channels = model.image_shape
    facts = {
        "images": f"{height}x{width} (height x width), {'grey' if channels == 1 else 'colour'}, made from seeds",
        "labels": ", ".join(model.class_names or ()) or model.num_classes or "none",
        "process": _settings(model.process.get_config()),
        "prediction": model.prediction,
        "network": f"{model.network.count_params():,} weights",
        "sampling": f"{settings.sampler}, {settings.num_steps} steps",
        **{f"sampling of {name}": "by a model that was distilled for it" for name in students},
        "versions": f"tf_blurdiff {__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }
    return f"""# A diffusion model for TF Serving

{_table(("what", ""), facts.items())}
## What it answers

{_table(("signature", "inputs", "answer"), ((n, ", ".join(s.inputs), s.meaning) for n, s in signatures.items()))}
manifest.json says of each input what it means and what is allowed; known/ has images that every server must give.

    tf_blurdiff serve --model_name NAME --model_base_path THE_FOLDER_ABOVE_THIS_VERSION
    tf_blurdiff client --model NAME --seeds 0:16 --out images.png
    tf_blurdiff export --verify THE_FOLDER_OF_THIS_VERSION

## How good it is

To be filled in: what `tf_blurdiff evaluate` says, of how many images.

{notes or _NOTES}
"""


def _table(titles, rows):
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join("| {} |\n".format(" | ".join(str(cell).replace("|", r"\|") for cell in line)) for line in lines)


def _settings(config):
    """In words; what Keras has saved as a class of its own is its name and its own settings."""
    of = lambda value: f"{value['class_name']} ({_settings(value['config'])})" if isinstance(value, dict) else value
    return ", ".join(f"{name} {of(value)}" for name, value in config.items())
