"""What several test files share, and set-up that must come before TensorFlow starts."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the command lines do.
# Small operations are not worth sharing, and other tests run beside.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support import commands, models
from tests.support.shared import shared_folder
from tf_blurdiff.data.images import untuned

# What is traced stays in memory for long, and looking through all of it often takes a tenth of the tests' time.
gc.set_threshold(200_000, 20, 100)
# Keras's data sets too: at the end of an iterator the tests would stand still for up to a minute.
_iterate = tf.data.Dataset.__iter__
tf.data.Dataset.__iter__ = lambda dataset: _iterate(untuned(dataset))
# Two logical processors, so that replicas can be tested; they can only be made before anything runs.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests: a second one in the same process would collide with its collective operations."""
    return tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The run directory of a tiny model that a command line has trained to its end. For all: only to be read."""

    def train(folder):
        result = commands.run("train", "--config", "digits.yaml", *commands.overrides(commands.TINY), cwd=folder)
        assert result.returncode == 0, result.stderr

    return shared_folder(tmp_path_factory, "trained", train) / "runs" / "digits"


@pytest.fixture(scope="session")
def trained_model(trained_run):
    return bd.load_model(trained_run / "model.keras")


@pytest.fixture(scope="session")
def exported(trained_model, tmp_path_factory):
    """The export of the trained model: `<base_dir>/1`. For all: only to be read."""
    return shared_folder(tmp_path_factory, "served", lambda folder: bd.export_savedmodel(trained_model, folder)) / "1"


@pytest.fixture(scope="session")
def restoring_model():
    return models.randomized(models.make(models.small_network(num_classes=3), "gaussian", label_dropout=0.1))


@pytest.fixture(scope="session")
def restoring_export(restoring_model, tmp_path_factory):
    """An export with every signature there is: `<base_dir>/1`. For all: only to be read."""

    def export(folder):
        bd.export_savedmodel(restoring_model, folder, num_steps=4, quality_steps=[2], restoration=True)

    return shared_folder(tmp_path_factory, "restoring", export) / "1"
