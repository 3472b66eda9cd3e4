"""Contenders that run in turn, round after round, so that a change in the machine's speed falls on all of them."""

import dataclasses
import math
import statistics
import time

# A contender's turn lasts about this long or longer, unless that takes too many runs.
_SECONDS_PER_TURN, _MOST_RUNS = 0.5, 20


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Of times, round by round."""

    median: float
    lowest: float
    highest: float


def ratio(times, others):
    """How much longer `times` are than `others`, both by round.

    Example:
        >>> ratio([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
        Ratio(median=1.0, lowest=0.5, highest=2.0)
    """
    ratios = [time / other for time, other in zip(times, others, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def geometric_mean(ratios):
    """Of several sizes' median ratios."""
    return statistics.geometric_mean(each.median for each in ratios)


def times_of(action, count):
    """The seconds of each of `count` calls of an action."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


class Contender:
    """Something a side does, prepared.

    Args:
        side: a `Side`.
        what, size, precision: see the side's program.
    """

    def __init__(self, side, what, size, precision):
        self.side, self.what, self.size, self.precision = side, what, size, precision
        answer = side.ask("prepare", what=what, size=size, precision=precision)
        self._key, self.parameters = answer["key"], answer["parameters"]

    def run(self, count):
        """The seconds of each run."""
        return self.side.ask("run", key=self._key, count=count)["seconds"]


def take_turns(contenders, rounds, least_runs, warmup):
    """Warms all up, then lets each run in every round.

    Args:
        contenders: functions of a number of runs, which return the seconds of each.
        rounds: their number.
        least_runs: runs of a contender in a round; more if they are short.
        warmup: runs before the first round.

    Returns:
        Seconds, a list for each contender of its least in each round.
    """
    slowest = max(min(contender(warmup)) for contender in contenders)
    count = max(least_runs, min(_MOST_RUNS, math.ceil(_SECONDS_PER_TURN / slowest)))
    times = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, own in zip(contenders, times):
            own.append(min(contender(count)))
    return times
