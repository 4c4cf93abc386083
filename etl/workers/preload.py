"""Run by Dask in each local worker as it starts, also in one that replaces a worker that died."""

from __future__ import annotations

import signal


def dask_setup(_: object) -> None:
    """Leave Ctrl-C to the process that was called; it ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
