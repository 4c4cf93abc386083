"""Signals that end a run: SIGTERM (SLURM, systemd, Kubernetes) and SIGHUP like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from etl.errors import TerminatedError

_NAMES = ("SIGTERM", "SIGHUP")


class StopSignals:
    """Decides what a signal does; see `stop_signals`."""

    def __init__(self) -> None:
        self._is_held = False

    def handle(self, number: int, _: FrameType | None) -> None:
        """Raise, unless signals are held: then the run is at its end, and stays whole."""
        if self._is_held:
            return
        raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing interrupt what is done here: a ledger that is being written stays whole."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions of the main thread.

    What is ignored stays ignored: nohup, and a shell's background jobs.
    """
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = [signal.SIGINT, *(getattr(signal, name) for name in _NAMES if hasattr(signal, name))]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        # None: a handler that was not set from Python; it could not be set back.
        if handler not in (None, signal.SIG_IGN):
            signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
