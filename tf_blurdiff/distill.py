"""Distills a model: an image in four calls of the network in place of twenty.

    python -m tf_blurdiff.distill --model runs/digits/model.keras --config digits.yaml --run_dir runs/digits_4 --steps 4

The same command again goes on where it was cut off. The last student is RUN_DIR/model.keras, a model as any other that
samples in its own number of steps alone. docs/distillation.md says what it is and what it costs.
"""

from tf_blurdiff import command_line
from tf_blurdiff.config import load_config
from tf_blurdiff.model import DISTILLATION_GRIDS
from tf_blurdiff.training import distill

FLAGS = command_line.Flags()
_MODEL = FLAGS.shared("model", required=True)
_CONFIG = FLAGS.shared("config", required=True)
FLAGS.shared("imports")
_RUN_DIR = FLAGS.string("run_dir", None, "Where the run is kept.", required=True)
_STEPS = FLAGS.integer("steps", 4, "Of the last student, a power of two.")
_GUIDANCE_SCALE = FLAGS.float("guidance_scale", 1.0, "Of the teacher; the student has it built in.")
_STAGE_STEPS = FLAGS.integer("stage_steps", 1500, "Optimizer steps of each stage.")
_LEARNING_RATE = FLAGS.float("learning_rate", 5e-4, "Of each stage; it falls to 0 as a cosine.")
_TEACHER_STEPS = FLAGS.integer(
    "teacher_steps",
    None,
    "To start from, of which the first student has a quarter (default: twice the model's own, rounded up to a power of "
    "two). A distilled model has its own, and the first student half of them.",
)
_GRID = FLAGS.enum("grid", None, DISTILLATION_GRIDS, "Of the steps (default: quadratic, or a student's own).")
_SET = FLAGS.shared("set")


def main() -> None:
    """Distills."""
    distill(
        _MODEL.value,
        load_config(_CONFIG.value, _SET.value),
        _RUN_DIR.value,
        steps=_STEPS.value,
        guidance_scale=_GUIDANCE_SCALE.value,
        stage_steps=_STAGE_STEPS.value,
        peak_learning_rate=_LEARNING_RATE.value,
        teacher_steps=_TEACHER_STEPS.value,
        grid=_GRID.value,
    )


if __name__ == "__main__":
    command_line.run(main, FLAGS.values)
