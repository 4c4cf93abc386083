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

    def __init__(
        self, what: str, total: int, *, is_shown: bool, bar: Progress | None, total_bytes: int = 0
    ) -> None:
        self._what, self._total, self._is_shown, self._bar = what, total, is_shown, bar
        self._total_bytes = total_bytes
        # Series differ in size by a hundred times: what is left is told by bytes where they are known.
        whole = total_bytes or total
        self._task = (
            None if bar is None else bar.add_task(what, total=whole, count=f"0/{total}", rate="", failed="")
        )
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
            step, count = byte_count if self._total_bytes else 1, f"{self._done}/{self._total}"
            self._bar.update(self._task, advance=step, count=count, rate=shown_rate, failed=shown_failed)
        elif self._is_shown and self._is_due():
            self._said = time.monotonic()
            share = self._bytes / self._total_bytes if self._total_bytes else self._done / self._total
            left_s = (self._said - self._start) * (1 - share) / share if share else 0.0
            count = f"{self._done}/{self._total}"
            _print(f"{self._what}: {count}, {shown_rate or '-'}, {left_s:.0f} s left, {self._failed} failed")

    def _is_due(self) -> bool:
        return self._done == self._total or time.monotonic() - self._said >= LINE_EVERY_S


@contextmanager
def metered(what: str, total: int, *, quiet: bool, total_bytes: int = 0) -> Iterator[Meter]:
    """Show the progress of `total` pieces of work.

    Parameters
    ----------
    what : str
        What is counted, such as ``"series"``.
    total : int
    quiet : bool
        Show nothing.
    total_bytes : int
        Of all of it, by which the time that is left is told; 0 where that is not known.
    """
    if quiet:
        yield Meter(what, total, is_shown=False, bar=None)
    elif sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - nobody watches most runs
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            yield Meter(what, total, is_shown=True, bar=bar, total_bytes=total_bytes)
    else:
        yield Meter(what, total, is_shown=True, bar=None, total_bytes=total_bytes)


def say(message: str, *, quiet: bool) -> None:
    """Write one line to stderr."""
    if not quiet:
        _print(message)


def _print(line: str) -> None:
    """Print to stderr, or to nobody where it is closed: a run goes on without a reader."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
