"""What a worker elsewhere has to be to get work: of the same versions, and within reach of input and store.

Asked of a worker when it is first seen, and once more by the first task that it gets: workers join in mid-run, and
one may have been given a task before anybody could ask.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from etl.software import differing_versions


@dataclass(frozen=True)
class Needs:
    """What the workers of a run need.

    Parameters
    ----------
    reads : tuple of str
        Paths that must be there.
    writes : str or None
        Path of the store, which need not be there yet.
    versions : tuple of (name, version)
        Of the decisive packages where the run was started; see `etl.software`.
    """

    reads: tuple[str, ...] = ()
    writes: str | None = None
    versions: tuple[tuple[str, str | None], ...] = ()


def witnesses(inputs: Iterable[str]) -> tuple[str, ...]:
    """Give paths by which a worker shows that it sees the inputs: each, and of a folder one entry.

    A host that lacks a mount still has the folder where it belongs, and that is empty.
    """
    found: list[str] = []
    for path in inputs:
        found.append(path)
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                found += [entry.path for _, entry in zip(range(1), entries, strict=False)]
    return tuple(found)


@lru_cache(maxsize=8)
def unfit(needs: Needs) -> str | None:
    """Say why this process cannot do the work; None if it can.

    Looked at once a process: a task asks again, and must not pay for it.
    """
    named = differing_versions(dict(needs.versions)) if needs.versions else ""
    if named:
        return f"differs from where the run was started: {named}"
    for path in needs.reads:
        if not os.path.lexists(path):
            return f"does not see the input: no {path!r} there"
    return None if needs.writes is None else _cannot_write(Path(needs.writes))


def _cannot_write(store: Path) -> str | None:
    """Say why nothing can be written into a store; what is tried leaves nothing, also if the process is killed."""
    folder = store if store.is_dir() else store.parent
    try:
        # Without a name where the file system can (O_TMPFILE).
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
            probe.flush()
    except OSError as error:
        return f"cannot write the store: {error.strerror or error} ({str(folder)!r})"
    return None
