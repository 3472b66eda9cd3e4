"""Which signals are noted while work is under way, and what becomes of them afterwards."""

import signal

import pytest

from tf_blurdiff.training.interruption import Interruption


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_is_noted_and_what_was_there_comes_back(name, capfd):
    number, seen = signal.Signals[name], []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    try:
        with Interruption() as interruption:
            signal.raise_signal(number)
            assert interruption.signal is number and not seen
            assert f"{name}: stopping at the next" in capfd.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        signal.raise_signal(number)
        assert seen == [number]
    finally:
        signal.signal(number, before)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
        assert interruption.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)
