"""What the files of each volume looked like when their pixels were last known to be those of the store.

A file that looks untouched is trusted; one that does not is read, and its pixels compared by checksum alone. The
record is a part of a run's, wherever its directory is; without one everything is compared once.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from etl.buckets.urls import is_bucket_url, local_stand_in
from etl.entry import Entry
from etl.plan.task import SeriesTask
from etl.run.ledger import read_totals
from etl.run.run_dir import runs_folder
from etl.store.durable import write_durably

RECORD_FIELD = "input_files"
"""In ``run.json``."""
POINTER_NAME = ".newest"
# A file that was written as late as this may change again within the same tick of its time stamp.
SETTLED_S = 2.0


def read_record(store_path: str, run_dir: Path) -> dict[str, str]:
    """Read what the newest record of a run into a store says of files, by node.

    Parameters
    ----------
    store_path : str
    run_dir : Path
        Of the run that asks: it may have been that of the run before, too.

    Returns
    -------
    dict
        Digests as `FilesSeen` has them; empty where no record can be read.
    """
    for folder in (run_dir, *_run_dirs(local_stand_in(store_path))):
        try:
            totals = read_totals(folder)
        except (OSError, ValueError, RecursionError):
            continue
        found = (totals or {}).get(RECORD_FIELD)
        if isinstance(found, dict) and (totals or {}).get("store") == store_path:
            return {str(node): str(digest) for node, digest in found.items()}
    return {}


def update_record(
    record: Mapping[str, str], files: Iterable[tuple[str, FilesSeen]], entries: Iterable[Entry]
) -> dict[str, str]:
    """Give the record after a run: what it wrote or compared is known, what it failed at is not.

    Parameters
    ----------
    record : mapping
        Before it.
    files : iterable of (str, FilesSeen)
        By node, of everything that it was to do.
    entries : iterable of Entry
        What became of it.
    """
    known = {entry.node for entry in entries if entry.outcome in {"written", "unchanged"}}
    updated = dict(record)
    for node, seen in files:
        if node in known and seen.are_settled:
            updated[node] = seen.digest
        else:
            updated.pop(node, None)
    return updated


def leave_pointer(store_path: str, run_dir: Path) -> None:
    """Say beside the store where the newest run has its directory, if that is elsewhere.

    Raises
    ------
    DiskFullError
    OSError
    """
    runs = runs_folder(local_stand_in(store_path))
    if run_dir.resolve().parent == runs.resolve():
        (runs / POINTER_NAME).unlink(missing_ok=True)
    else:
        write_durably(runs / POINTER_NAME, os.fsencode(run_dir.resolve()))


def _run_dirs(store: Path) -> Iterator[Path]:
    """Give the directories of runs into a store, the newest first."""
    runs = runs_folder(store)
    with suppress(OSError):
        yield Path(os.fsdecode((runs / POINTER_NAME).read_bytes()))
    with suppress(OSError):
        yield from sorted((entry for entry in runs.iterdir() if entry.is_dir()), reverse=True)


@dataclass(frozen=True, slots=True)
class FilesSeen:
    """What the files of a volume looked like when they were scanned.

    Parameters
    ----------
    digest : str
        SHA-256 of their names, sizes, times and inodes.
    newest_ns : int
        The last change of any file whose time stamp counts: an object of a bucket has another ETag after one,
        whatever the clocks say.
    """

    digest: str
    newest_ns: int

    @property
    def are_settled(self) -> bool:
        """Whether the digest would tell a change from now on."""
        return self.newest_ns <= time.time_ns() - int(SETTLED_S * 1e9)


def is_trusted(node: str, files: FilesSeen, record: Mapping[str, str]) -> bool:
    """Whether all files of a volume look as they did when it was last known to be theirs."""
    return files.are_settled and files.digest == record.get(node)


def files_seen(task: SeriesTask) -> FilesSeen:
    """Tell what the files of a task looked like when they were scanned."""
    slices = task.stack.slices
    are_objects = all(is_bucket_url(location.container) for location in slices.locations)
    newest_ns = 0 if are_objects else max(int(slices.modified_ns.max()), int(slices.changed_ns.max()))
    rows = zip(
        slices.locations,
        slices.file_bytes.tolist(),
        slices.modified_ns.tolist(),
        slices.changed_ns.tolist(),
        slices.inode.tolist(),
        strict=True,
    )
    digest = hashlib.sha256()
    for location, *state in sorted(rows):
        digest.update(repr((location.container, location.member, *state)).encode("utf-8", "surrogateescape"))
    return FilesSeen(digest.hexdigest(), newest_ns)
