"""lsun.yaml's network at full size, 128x128x3: training images/s and peak GPU memory, and the largest batch that fits.

Batches of 8, 16 and 32, with `network.rematerialize` and without, in the precision that suits the device, compiled;
each is a process, for a peak of memory is one's. They take turns, two steps at a time. Then the largest batch in 24 GB
and in 80 GB, of which TensorFlow is allowed so much: what the peaks let expect is tried, and somewhat more or less.
"""

import functools
import os

import programs
from contest import Contest, Entrant, ask_within, start
from part import Part

_BATCHES, _HOWS = (8, 16, 32), ("plain", "rematerialized")
_STEPS_PER_ACTION = 2
_MOST_ROUNDS = 6
_TO_MEASURE = 0.7
# Of the batch that is expected to fit, what is tried next, after one that did and after one that did not.
_MORE, _LESS = (1.1, 1.2), (0.9, 0.75)
_LIMITS = {"24 GB": 24.0, "80 GB": 80.0}


def main(part):
    """Two tables."""
    keys = [("plain", 2)] if part.small else [(how, batch) for batch in _BATCHES for how in _HOWS]
    prefix = "small " if part.small else ""
    entrants = {(how, batch): Entrant("tf_blurdiff", f"lsun, {how}", f"{prefix}{batch}", "auto") for how, batch in keys}
    with Contest(part, entrants.values(), _TO_MEASURE * part.left()) as contest:
        _measure(part, contest, entrants)
    _find_largest(part, {key: contest.peaks.get(entrant) for key, entrant in entrants.items()})


def _measure(part, contest, entrants):
    table = part.table(
        "Training steps of lsun.yaml's network", "rematerialize", "batch", "ms a step", "images/s",
        "peak GPU memory, GB", "parameters, millions", "why not measured",
    )  # fmt: skip

    def write():
        for (how, batch), entrant in entrants.items():
            seconds = contest.seconds(entrant)
            speed = ("", "")
            if seconds:
                step = seconds / _STEPS_PER_ACTION
                speed = f"{1e3 * step:.1f}", f"{batch / step:.1f}"
            about = contest.memory_cell(entrant), contest.parameters_cell(entrant), contest.failures.get(entrant, "")
            table.put(entrant, how == "rematerialized", batch, *speed, *about)

    write()
    for _ in contest.rounds(_MOST_ROUNDS):
        write()
    write()


def _find_largest(part, peaks):
    table = part.table(
        "The largest batch for lsun.yaml's network", "in", "rematerialize", "largest that fitted",
        "smallest that did not",
    )  # fmt: skip
    for name, gb in list(_LIMITS.items())[: 1 if part.small else None]:
        if gb > (_card_gb(part) or gb):
            continue
        calls = {}
        for how in _HOWS[: 1 if part.small else None]:
            own = {batch: peak for (of, batch), peak in peaks.items() if of == how}
            calls[f"{how} in {name}"] = functools.partial(_search, part, table, name, gb, how, own)
        # Side by side where both fit on the card.
        together = len(calls) * gb <= (_card_gb(part) or 0)
        for group in [calls] if together else [{key: call} for key, call in calls.items()]:
            programs.side_by_side(part, group)


def _search(part, table, name, gb, how, peaks):
    fitted, refused = [], []
    # Without trying kernels out, which takes most of compiling: it is memory that is looked for.
    flags = {"XLA_FLAGS": f"--xla_gpu_autotune_level=0 {os.environ.get('XLA_FLAGS', '')}"}
    with start(part, "tf_blurdiff", flags) as side:
        side.ask("limit", gb=gb)
        for batch in candidates(expected_largest(peaks, gb) or min(peaks), fitted, refused):
            answer = ask_within(
                side, part.left() - 2, "fits", rematerialize=how == "rematerialized", precision="auto", batch=batch,
                small=part.small,
            )  # fmt: skip
            (fitted if answer["fits"] else refused).append(batch)
            table.put((name, how), name, how == "rematerialized", max(fitted, default=""), min(refused, default=""))


def candidates(expected, fitted, refused):
    """The expected batch, then larger ones while they fit, or smaller ones until one does."""
    yield expected
    for factor in _MORE if fitted else _LESS:
        if bool(fitted) == bool(refused):
            return
        if (batch := max(1, int(expected * factor))) != expected:
            yield batch


def expected_largest(peaks, gb):
    """The largest batch by a straight line through the peaks of two batches; None without two.

    Args:
        peaks: `{batch: GB or None}`.
        gb: that there are.
    """
    known = sorted((batch, peak) for batch, peak in peaks.items() if peak is not None)
    if len(known) < 2 or known[-1][1] <= known[0][1]:
        return None
    (few, low), (many, high) = known[0], known[-1]
    return max(1, int(few + (gb - low) * (many - few) / (high - low)))


def _card_gb(part):
    """What TensorFlow takes of the card when it may take all, nearly; None without one."""
    mebibytes = part.request["card_mib"]
    return None if mebibytes is None else 0.95 * mebibytes * 2**20 / 1e9


if __name__ == "__main__":
    main(Part.from_command_line())
