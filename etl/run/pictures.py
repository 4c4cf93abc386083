"""The pictures of a run's report: workers draw them beside their volumes, while those are in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from etl.buckets.urls import local_stand_in
from etl.run.finish import MAX_PICTURES, report_order
from etl.run.run_dir import runs_folder
from etl.run.tickets import Ticket


@contextmanager
def folder_of_pictures(run_dir: Path, store_path: str) -> Iterator[Path]:
    """Give a folder for the workers' pictures; it goes when they are in the report."""
    new = [folder for folder in (run_dir, run_dir.parent) if not folder.exists()]
    run_dir.mkdir(parents=True, exist_ok=True)
    # A run that was killed had a directory of its own.
    for folder in (run_dir, *runs_folder(local_stand_in(store_path)).glob("*/")):
        for left in folder.glob(".pictures-*"):
            shutil.rmtree(left, ignore_errors=True)
    # Workers have working folders of their own.
    folder = Path(tempfile.mkdtemp(prefix=".pictures-", dir=os.path.abspath(run_dir)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            # They are empty where the run ended before it wrote anything.
            for unused in new:
                unused.rmdir()


def with_pictures(tickets: list[Ticket], folder: Path) -> list[Ticket]:
    """Have those drawn that the report shows."""
    ordered = sorted(tickets, key=lambda ticket: report_order(ticket.entry))
    drawn = [replace(ticket, picture=str(folder / f"{n}.jpg")) for n, ticket in enumerate(ordered[:MAX_PICTURES])]
    return drawn + ordered[MAX_PICTURES:]
