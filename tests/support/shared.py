"""Folders that one process of a test run makes, and all of them read."""

import fcntl
import os
import shutil


def shared_folder(tmp_path_factory, name, make):
    """The folder of that name, which `make(folder)` fills unless another process has: the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # What a process left that failed.
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
