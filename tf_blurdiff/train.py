"""Trains a model.

    python -m tf_blurdiff.train --config digits.yaml
    python -m tf_blurdiff.train --config lsun.yaml --run_dir runs/lsun --set train.batch_size=64

The same command again goes on from the last checkpoint, also after a cut or a signal to stop (status 75). Follow it
with `tensorboard --logdir runs`. docs/training.md is about several GPUs and several machines.
"""

import pathlib

from tf_blurdiff import command_line
from tf_blurdiff.config import load_config
from tf_blurdiff.training import train

FLAGS = command_line.Flags()
_CONFIG = FLAGS.shared("config", required=True)
FLAGS.shared("imports")
_RUN_DIR = FLAGS.string("run_dir", None, "Where the run is kept (default: runs/NAME of the config).")
_SET = FLAGS.shared("set")
_OVERRIDE_CONFIG = FLAGS.bool(
    "override_config", False, "Go on with a run directory that was begun with another config."
)


def main() -> None:
    """Trains."""
    config = load_config(_CONFIG.value, _SET.value)
    run_dir = _RUN_DIR.value or pathlib.Path("runs") / pathlib.Path(_CONFIG.value).stem
    train(config, run_dir, override_config=_OVERRIDE_CONFIG.value)


if __name__ == "__main__":
    command_line.run(main, FLAGS.values)
