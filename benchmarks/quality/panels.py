"""The same seeds' images of several models, or of one in several ways, side by side.

    python benchmarks/quality/panels.py --panel "20=digits" --panel "4=digits,multistep2,4" --panel "student=digits_4"

Seeds count from 0, labels are in turn. A student has its guidance built in, and is not asked for another.
"""

import numpy as np
from absl import flags
from family_picture import check_picture, family_picture

import tf_blurdiff as bd
from tf_blurdiff import command_line
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError

_PANELS = flags.DEFINE_multi_string("panel", None, "TITLE=MODEL or TITLE=MODEL,SAMPLER,CALLS.", required=True)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 25, "Images of each panel.", lower_bound=1)
_GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", 1.0, "Of models with label dropout.")
_ZOOM = flags.DEFINE_integer("zoom", 2, "How many pixels wide a pixel is shown.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "panels.png", "The picture.")


def main():
    """Draws the panels, three in a row."""
    check_picture(_OUT.value)
    titles = [panel.partition("=")[0] for panel in _PANELS.value]
    if len(set(titles)) < len(titles):
        raise UserError(f"--panel: each title may be given once. Received: {', '.join(titles)}")
    panels = [_read(panel) for panel in _PANELS.value]
    if len({model.image_shape for _, model, *_ in panels}) > 1 or panels[0][1].image_shape[-1] != 1:
        shapes = ", ".join(f"{title}: {model.image_shape}" for title, model, *_ in panels)
        raise UserError(f"--panel: models of images of one size and one channel are expected. Received: {shapes}")
    family_picture({title: _images(*way) for title, *way in panels}, _ZOOM.value).save(_OUT.value)
    print(f"picture: {_OUT.value}")


def _read(panel):
    """Title, model, and sampler and calls, which are None for the model's own."""
    title, _, way = panel.partition("=")
    path, *rest = way.split(",")
    if not path or len(rest) not in (0, 2) or (rest and not rest[1].isdecimal()):
        raise UserError(f"--panel must be TITLE=MODEL or TITLE=MODEL,SAMPLER,CALLS. Received: {panel}")
    return title, bd.load_model(path), *((rest[0], int(rest[1])) if rest else (None, None))


def _images(model, sampler, calls):
    count = _NUM_IMAGES.value
    labels = np.arange(count) % model.num_classes if model.num_classes else None
    scale = _GUIDANCE_SCALE.value if model.distilled_guidance is None else 1.0
    return to_uint8(model.sample(range(count), calls, sampler, labels=labels, guidance_scale=scale))


if __name__ == "__main__":
    command_line.run(main)
