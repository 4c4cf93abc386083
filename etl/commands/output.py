"""What commands print, and the status that they end with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

EXIT_BROKEN, EXIT_USAGE, EXIT_FAILED_SERIES = 1, 2, 3


@contextmanager
def printing() -> Iterator[None]:
    """Print what a reader that has gone need not see; the status stays what it is."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, OSError):
        for stream in (sys.stdout, sys.stderr):
            silence(stream)


def silence(stream: TextIO) -> None:
    """Lead a stream into nothing, so that the interpreter can flush it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
