"""What a command line does as TensorFlow loads."""

import platform

import pytest

from tests.support import commands

# `python -m tf_blurdiff.train` up to the import of the package, then what TensorFlow has made of it.
PROGRAM = """
import sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "tf_blurdiff.train"]
import tf_blurdiff
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is left to TensorFlow there")
@pytest.mark.parametrize("own_setting, enabled", [(None, "True"), pytest.param("0", "False", marks=pytest.mark.slow)])
def test_a_command_line_uses_onednn_unless_told_otherwise(own_setting, enabled, tmp_path):
    environment = commands.environment()
    environment.pop("TF_ENABLE_ONEDNN_OPTS")  # The tests' own.
    environment["KERAS_BACKEND"] = "numpy"  # Which is for other programs.
    if own_setting is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = own_setting
    assert commands.run_python(PROGRAM, tmp_path, env=environment).strip() == enabled


OTHER_BACKEND = """
import keras
keras.config.backend = lambda: "jax"
try:
    import tf_blurdiff
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_program_with_another_backend_is_told_so(tmp_path):
    told = commands.run_python(OTHER_BACKEND, tmp_path)
    assert "tf_blurdiff needs Keras on TensorFlow, and its backend here is jax: set the environment variable" in told


# Then what a program that goes on can use.
LIGHT_PROGRAM = """
import gc
import sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "tf_blurdiff.train"]
import tf_blurdiff
print(sorted({"sklearn", "matplotlib", "scipy.stats"}.intersection(sys.modules)))
print(gc.isenabled(), gc.get_freeze_count() > 0)
import sklearn, matplotlib
print(sklearn.__name__, matplotlib.__name__)
"""


def test_a_command_line_imports_nothing_that_it_may_not_need(tmp_path):
    printed = commands.run_python(LIGHT_PROGRAM, tmp_path)
    assert printed.splitlines() == ["[]", "True True", "sklearn matplotlib"]
