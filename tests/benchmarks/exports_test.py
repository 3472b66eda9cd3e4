"""What the benchmark of exports is made of: a process of the C++ runtime, and differences that are seen."""

import hashlib

import export_figures
import numpy as np
import pytest
import runtime_times
import tensorflow as tf

from tests.support import models


@pytest.mark.parametrize("name", models.PROCESSES)
def test_the_family_of_a_process(name):
    assert name.split(",")[0] == export_figures.family(models.PROCESSES[name])


def test_differences_between_an_export_and_what_it_should_be_are_seen(rng):
    images = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    others = images.copy()
    others[1, 2, 3] = 255 - images[1, 2, 3]
    assert export_figures.largest_difference(images, others) == abs(255 - 2 * int(images[1, 2, 3, 0]))
    manifest = {"known": {"image_sha256": hashlib.sha256(images[1].tobytes()).hexdigest()}}
    assert export_figures.is_known(images[1], manifest) and not export_figures.is_known(others[1], manifest)


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    """(folder, input, output) of a SavedModel that doubles a number."""
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], tf.int64, name="x")])
    path = tmp_path_factory.mktemp("doubling")
    tf.saved_model.save(module, str(path), signatures=module.double)
    return path, "serving_default_x:0", "PartitionedCall:0"


def test_an_export_is_called_so_many_times_in_the_cpp_runtime(doubling):
    path, given, output = doubling
    done = []
    times = runtime_times.times_in_cpp_runtime(path, {given: np.arange(3)}, output, 4, lambda: done.append(1))
    np.testing.assert_array_equal(times.answer, [0, 2, 4])
    assert times.load > 0 and len(times.calls) == 4 and min(times.calls) > 0
    assert len(done) == 5


@pytest.mark.parametrize("output, message", [("nothing:0", "no tensor nothing:0"), (None, "cannot load")])
def test_what_the_cpp_runtime_says_is_passed_on(doubling, tmp_path, output, message):
    path, given, _ = doubling
    with pytest.raises(RuntimeError, match=message):
        runtime_times.times_in_cpp_runtime(path if output else tmp_path, {given: np.arange(3)}, output, 1)
