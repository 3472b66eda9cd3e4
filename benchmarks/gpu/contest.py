"""Contenders that are prepared side by side, a process each, and then take turns round after round.

A process each: its peak of memory is its own, one that fails takes no other along, and all can compile at once.
"""

import concurrent.futures
import dataclasses
import math
import pathlib
import statistics
import sys
import time

import rounds
from sides import Side

_FOLDER = pathlib.Path(__file__).resolve().parent
_PROGRAMS = {"tf_blurdiff": "side_gpu_tf.py", "diffusers": "side_gpu_torch.py"}
_WARMUP, _SECONDS_PER_TURN, _MOST_RUNS = 2, 1.0, 10
# Of a contest's time, what preparing may take.
_TO_PREPARE = 0.85


@dataclasses.dataclass(frozen=True)
class Entrant:
    """What a side is asked to prepare; see side_gpu_tf.py and side_gpu_torch.py."""

    side: str
    what: str
    size: str
    precision: str


def start(part, side, environment=None):
    """A new process of the side, with these variables beside this process's."""
    python = part.request["diffusers_python"] if side == "diffusers" else sys.executable
    return Side(side, str(_FOLDER / _PROGRAMS[side]), python, environment)


class Contest:
    """A context manager: inside, the processes live.

    Args:
        part: a `Part`.
        entrants: in order of worth.
        seconds: for all of it.

    Attributes:
        failures: `{entrant: why it takes no part}`.
        peaks: `{entrant: peak GPU memory in GB after some runs, None without a GPU}`.
        parameters: `{entrant: number}`, of the network.
        times: `{entrant: seconds of an action, its least in each round}`.
    """

    def __init__(self, part, entrants, seconds):
        self._part, self.entrants = part, list(entrants)
        self._end = time.monotonic() + seconds
        self._ready_by = time.monotonic() + _TO_PREPARE * seconds
        self._sides, self._contenders, self._counts = {}, {}, {}
        self.failures, self.peaks, self.parameters, self.times = {}, {}, {}, {}

    def __enter__(self):
        with concurrent.futures.ThreadPoolExecutor(len(self.entrants)) as pool:
            futures = {pool.submit(self._prepare, entrant): entrant for entrant in self.entrants}
            late = concurrent.futures.wait(futures, max(1.0, self._ready_by - time.monotonic())).not_done
            for future in late:  # Its process being ended, the thread ends too.
                self.failures[futures[future]] = "not ready in time"
                if futures[future] in self._sides:
                    self._sides[futures[future]].kill()
        for future, entrant in futures.items():
            error = future.exception()
            if error is not None:
                self.failures.setdefault(entrant, str(error))
        return self

    def __exit__(self, *_):
        for side in self._sides.values():
            side.kill()
            side.close()

    def _prepare(self, entrant):
        side = self._sides[entrant] = start(self._part, entrant.side)
        contender = rounds.Contender(side, entrant.what, entrant.size, entrant.precision)
        seconds = min(contender.run(_WARMUP))
        self._counts[entrant] = max(1, min(_MOST_RUNS, math.ceil(_SECONDS_PER_TURN / seconds)))
        self.peaks[entrant], self.parameters[entrant] = side.ask("peak")["gb"], contender.parameters
        self._contenders[entrant] = contender

    def rounds(self, most):
        """Runs rounds while there is time, at least one; yields after each, for who wants to write down `times`."""
        most = 1 if self._part.small else most
        self.times = {entrant: [] for entrant in self.entrants if entrant in self._contenders}
        longest = 0.0
        for number in range(most):
            started = time.monotonic()
            if not self.times or (number and started + longest > self._end):
                return
            for entrant in list(self.times):
                self._take_turn(entrant)
            longest = max(longest, time.monotonic() - started)
            yield number + 1

    def _take_turn(self, entrant):
        try:
            self.times[entrant].append(min(self._contenders[entrant].run(self._counts[entrant])))
        except Exception as error:  # Of its process; the others go on.
            self.failures[entrant] = str(error)
            del self.times[entrant]

    def seconds(self, entrant):
        """The median over the rounds; None of one that takes no part."""
        return statistics.median(self.times[entrant]) if self.times.get(entrant) else None

    def memory_cell(self, entrant):
        """The peak, for a table."""
        peak = self.peaks.get(entrant)
        return "" if peak is None else f"{peak:.2f}"

    def parameters_cell(self, entrant):
        """Millions, for a table."""
        return f"{self.parameters[entrant] / 1e6:.2f}" if entrant in self.parameters else ""

    def ratio(self, entrant, other):
        """A `rounds.Ratio` of times; None if either takes no part."""
        if not (self.times.get(entrant) and self.times.get(other)):
            return None
        return rounds.ratio(self.times[entrant], self.times[other])


def ask_within(side, seconds, do, **command):
    """As `side.ask`, but ends the side if it takes longer, which raises what an ended side raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(side.ask, do, **command)
        if concurrent.futures.wait([future], max(1.0, seconds)).not_done:
            side.kill()
        return future.result()
