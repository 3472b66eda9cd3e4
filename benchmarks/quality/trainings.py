"""Calls of the package's command lines, one after another or side by side."""

import concurrent.futures
import contextlib
import os
import shlex
import subprocess
import sys

from tf_blurdiff.errors import UserError

EPS = ("model.prediction=eps",)
# Overrides of a config, by the name of what the network predicts.
PREDICTIONS = {
    "eps": EPS,
    "v": ("model.prediction=v",),
    **{
        f"preconditioned_{exponent:g}": ("model.prediction=preconditioned", f"model.loss_exponent={exponent:g}")
        for exponent in (0, 0.25, 0.5, 1)
    },
}


def run(command, *arguments, log=None):
    """Runs `python -m tf_blurdiff.COMMAND`, which it prints; what that says goes to the file log, if there is one.

    Raises:
        UserError: if it fails.
    """
    words = [sys.executable, "-m", f"tf_blurdiff.{command}", *map(str, arguments)]
    print("$", shlex.join(["python", *words[1:]]), flush=True)
    with open(log, "a") if log else contextlib.nullcontext() as output:
        # Trainings that share a GPU take of its memory what they need.
        environment = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ}
        status = subprocess.run(words, stdout=output, stderr=output, env=environment).returncode
    if status:
        said = f", see {log}" if log else ""
        raise UserError(f"{command} ended with status {status}{said}; the same command again goes on")


def side_by_side(do, calls, jobs):
    """Calls do with each of the tuples, so many at a time; the first error ends it."""
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        for call in [pool.submit(do, *arguments) for arguments in calls]:
            call.result()
    finally:
        pool.shutdown(cancel_futures=True)


def overrides(settings):
    """The flags of a config's overrides."""
    return [each for setting in settings for each in ("--set", setting)]
