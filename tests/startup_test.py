"""What a command line sets before TensorFlow loads."""

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
    if own_setting is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = own_setting
    assert commands.run_python(PROGRAM, tmp_path, env=environment).strip() == enabled
