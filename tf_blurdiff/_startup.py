"""Imports TensorFlow; if this process is one of the package's command lines, quietly and set for speed.

TensorFlow uses oneDNN's operations by itself only where the processor has AVX512-VNNI or newer; with AVX2 alone they
are as right and, but for tiny pictures, faster. On ARM they were not tried, and are left to TensorFlow. That is
decided as it loads, for the whole process, so other programs decide for themselves.

As it loads, TensorFlow's library reports on the processor and on missing GPUs, past every log level. Whoever runs a
command line would see that in place of its own messages. Other programs keep TensorFlow's messages as they are.

TensorFlow imports Keras, and Keras imports scikit-learn and matplotlib where they are, for wrappers and a plot that no
command line here uses; and all that these modules hold is searched for garbage many times, as they load and at the end.
Without, importing and ending together take about half of the time.
"""

import contextlib
import gc
import os
import platform
import sys


@contextlib.contextmanager
def _standard_error_to_nowhere():
    if sys.stderr is None:  # Closed, as some that start programs leave it.
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _without(*packages):
    """Within, these cannot be imported; Keras then goes without them. What is imported already stays."""
    missing = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


@contextlib.contextmanager
def _without_collecting():
    """Within, nothing is searched for garbage; and what is there at the end never is."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


# While `python -m package.module` imports the package, argv[0] is "-m".
if sys.argv[:1] == ["-m"] and sys.orig_argv[1:3] == ["-m", "tf_blurdiff"]:
    # Another process is to take this one's place: it should not wait for TensorFlow twice.
    import tf_blurdiff_command

    tf_blurdiff_command.main()
    sys.exit()
if sys.argv[:1] == ["-m"] and any(word.startswith("tf_blurdiff.") for word in sys.orig_argv):
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Whatever a user's keras.json has.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with _standard_error_to_nowhere(), _without("sklearn", "matplotlib"), _without_collecting():
        import tensorflow as tf

        tf.config.list_physical_devices()  # Looks for GPUs, and reports there being none as an error.

import keras  # noqa: E402 (after what is set above)

if keras.config.backend() != "tensorflow":
    raise ImportError(
        f"tf_blurdiff needs Keras on TensorFlow, and its backend here is {keras.config.backend()}: set the environment "
        "variable KERAS_BACKEND=tensorflow before Keras is imported"
    )
