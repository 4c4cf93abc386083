"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 10.0


class Meter:
    """Counts work done; see `metered`."""

    def __init__(self, what: str, total: int, *, is_shown: bool, bar: Progress | None) -> None:
        self._what, self._total, self._is_shown, self._bar = what, total, is_shown, bar
        self._task = None if bar is None else bar.add_task(what, total=total, rate="", failed="")
        self._done = self._failed = self._bytes = 0
        self._start = self._said = time.monotonic()

    def advance(self, *, byte_count: int = 0, failed: bool = False) -> None:
        """Count one more as done."""
        self._done += 1
        self._failed += failed
        self._bytes += byte_count
        rate = self._bytes / 1e6 / max(1e-3, time.monotonic() - self._start)
        shown_rate = f"{rate:.0f} MB/s" if self._bytes else ""
        shown_failed = f"[red]{self._failed} failed[/]" if self._failed else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, rate=shown_rate, failed=shown_failed)
        elif self._is_shown and self._is_due():
            self._said = time.monotonic()
            left_s = (self._said - self._start) / self._done * (self._total - self._done)
            count = f"{self._done}/{self._total}"
            _print(f"{self._what}: {count}, {shown_rate or '-'}, {left_s:.0f} s left, {self._failed} failed")

    def _is_due(self) -> bool:
        return self._done == self._total or time.monotonic() - self._said >= LINE_EVERY_S


@contextmanager
def metered(what: str, total: int, *, quiet: bool) -> Iterator[Meter]:
    """Show the progress of `total` pieces of work.

    Parameters
    ----------
    what : str
        What is counted, such as ``"series"``.
    total : int
    quiet : bool
        Show nothing.
    """
    if quiet:
        yield Meter(what, total, is_shown=False, bar=None)
    elif sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - nobody watches most runs
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            yield Meter(what, total, is_shown=True, bar=bar)
    else:
        yield Meter(what, total, is_shown=True, bar=None)


def say(message: str, *, quiet: bool) -> None:
    """Write one line to stderr."""
    if not quiet:
        _print(message)


def _print(line: str) -> None:
    """Print to stderr, or to nobody where it is closed: a run goes on without a reader."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
