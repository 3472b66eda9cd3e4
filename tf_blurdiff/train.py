"""Trains a model.

    python -m tf_blurdiff.train --config digits.yaml
    python -m tf_blurdiff.train --config lsun.yaml --run_dir runs/lsun --set train.batch_size=64

The same command again goes on from the last checkpoint, also after a cut or a signal to stop (status 75). Follow it
with `tensorboard --logdir runs`. docs/training.md is about several GPUs and several machines.
"""

import pathlib

from absl import flags

from tf_blurdiff import command_line
from tf_blurdiff.config.schema import load_config
from tf_blurdiff.training.loop import train

_CONFIG = flags.DEFINE_string("config", None, "YAML file, or the name of one that is shipped.", required=True)
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Where the run is kept (default: runs/NAME of the config).")
_SET = flags.DEFINE_multi_string("set", [], "Overrides one value of the config, as in train.steps=200; repeatable.")
_OVERRIDE_CONFIG = flags.DEFINE_bool(
    "override_config", False, "Go on with a run directory that was begun with another config."
)


def main():
    """Trains."""
    config = load_config(_CONFIG.value, _SET.value)
    run_dir = pathlib.Path(_RUN_DIR.value or pathlib.Path("runs") / pathlib.Path(_CONFIG.value).stem)
    train(config, run_dir, override_config=_OVERRIDE_CONFIG.value)


if __name__ == "__main__":
    command_line.run(main)
