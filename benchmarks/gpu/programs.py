"""Python programs that a part starts and waits for, alone or side by side."""

import concurrent.futures
import os
import subprocess
import sys
import time


class Failure(Exception):
    """One line on a program that failed, or was not done in time."""


def run(words, seconds, **environment):
    """Runs `python *words`; returns its standard output and the seconds it took.

    Raises:
        Failure: if it ends with another status than 0, or is ended because it takes longer.
    """
    name, started = " ".join(map(str, words[:2])), time.monotonic()
    if seconds < 1:
        raise Failure(f"{name}: no time was left")
    try:
        done = subprocess.run(
            [sys.executable, *map(str, words)], capture_output=True, text=True, errors="replace", timeout=seconds,
            env={**os.environ, **environment},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failure(f"{name}: not done after {seconds:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Failure(f"{name}: ended with status {done.returncode}: {last}")
    return done.stdout, time.monotonic() - started


def side_by_side(part, calls):
    """Calls functions in threads; what they raise becomes a problem of the part.

    Args:
        calls: `{name: function without arguments}`.

    Returns:
        `{name: result}` of those that raised nothing.
    """
    results = {}
    with concurrent.futures.ThreadPoolExecutor(max(1, len(calls))) as pool:
        futures = {pool.submit(call): name for name, call in calls.items()}
        for future in concurrent.futures.as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except Exception as error:  # Whatever it is, the others go on and the reader hears of it.
                part.problem(f"{futures[future]}: {error}")
    return {name: results[name] for name in calls if name in results}


# A network that is traced and trained in seconds, of digits.yaml and others.
TINY = (
    "network.channels=8", "network.multipliers=[1]", "network.num_res_blocks=1", "network.attention_resolutions=[]",
    "train.batch_size=16", "sample.num_steps=2", "sample.num_images=4",
)  # fmt: skip


def overrides(*settings):
    """Settings of a config as words of a command line."""
    return [f"--set={setting}" for setting in settings]
