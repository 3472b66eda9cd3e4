"""Set-up that must come before TensorFlow starts, and what several test files share."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the command lines do.

import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support import commands

# What is traced stays in memory for long, and looking through all of it often takes a tenth of the tests' time.
gc.set_threshold(200_000, 20, 100)
# Two logical processors, so that replicas can be tested; they can only be made before anything runs.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


# The longest; the names begin as they do in `tests/`.
LONG_FILES = (
    "documentation", "serving/savedmodel", "training/distribution", "training/faults", "command_line",
    "model/keras_interface", "training/loop", "benchmarks/programs", "packaging", "serving/signatures",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Puts the longest files first, so that of two processes none ends long before the other."""
    ends = [f"tests/{name}_test.py" for name in LONG_FILES]

    def place(item):
        name = item.nodeid.split("::")[0]
        return ends.index(name) if name in ends else len(ends)

    items.sort(key=place)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests: a second one in the same process would collide with its collective operations."""
    return tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The run directory of a tiny model that a command line has trained to its end."""
    folder = tmp_path_factory.mktemp("trained")
    result = commands.run("train", "--config", "digits.yaml", *commands.overrides(commands.TINY), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "digits"


@pytest.fixture(scope="session")
def trained_model(trained_run):
    return bd.load_model(trained_run / "model.keras")


@pytest.fixture(scope="session")
def exported(trained_model, tmp_path_factory):
    """The export of the trained model: `<base_dir>/1`."""
    return bd.export_savedmodel(trained_model, tmp_path_factory.mktemp("served"))
