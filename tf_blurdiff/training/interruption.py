"""Signals to stop: SIGTERM, as of a machine that is about to be taken away, SIGHUP of a closed terminal, and Ctrl-C."""

import contextlib
import os
import signal
import threading
from typing import Self


class Interruption:
    """While entered, SIGTERM, SIGHUP and Ctrl-C are noted and nothing more; Ctrl-C after one interrupts at once.

    SIGHUP that is ignored, as below nohup, stays so.

    Attributes:
        signal: the one that came, or None.

    Example:
        >>> with Interruption() as interruption:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interruption.signal.name
        'SIGTERM'
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # Python hands signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._restore.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def __exit__(self, *error: object) -> None:
        self._restore.close()

    def _note(self, number, frame):
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        if self.signal is None:
            # Not print, which may be in the middle of a line; and who reads may have gone.
            with contextlib.suppress(OSError):
                os.write(
                    2, f"\n{signal.Signals(number).name}: stopping at the next point where nothing is lost\n".encode()
                )
        self.signal = signal.Signals(number)
