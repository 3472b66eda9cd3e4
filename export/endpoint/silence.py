"""A quiet start of TensorFlow, for the programs of this folder. Standard library only."""

import contextlib
import os


@contextlib.contextmanager
def silent_stderr():
    """TensorFlow's library logs to file descriptor 2 while it loads, whatever TF_CPP_MIN_LOG_LEVEL says."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
