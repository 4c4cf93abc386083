"""A file for what a run has found and does not look at yet, so that memory does not grow with the cohort."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple


class Place(NamedTuple):
    """Where something lies in a spool."""

    offset: int
    size: int


class Spool:
    """A file without a name, which goes with the process.

    Parameters
    ----------
    folder : Path, optional
        Where it lies; with other temporary files if not given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by `__exit__`
        self._end = 0

    def put(self, content: bytes) -> Place:
        """Keep some bytes, from one thread at a time.

        Raises
        ------
        OSError
            The disk takes no more.
        """
        place = Place(self._end, len(content))
        waiting = memoryview(content)
        while waiting:
            written = os.pwrite(self._file.fileno(), waiting, self._end)
            self._end += written
            waiting = waiting[written:]
        return place

    def get(self, place: Place) -> bytes:
        """Read what was kept, from any thread."""
        return os.pread(self._file.fileno(), place.size, place.offset)

    def __enter__(self) -> Spool:
        """Give it itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what was kept."""
        self._file.close()
