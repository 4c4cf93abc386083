"""Where the record of a run lies: beside the store, one folder a run."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from etl.buckets.urls import local_stand_in
from etl.config import Config
from etl.errors import UsageError

if TYPE_CHECKING:
    # Loading them takes half of the time of a run that has nothing to do.
    pass

_OF_LABELS = "-labels"


def new_run_dir(store_path: str, config: Config) -> Path:
    """Give the folder of a run that begins now."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    return runs_folder(local_stand_in(store_path)) / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def new_label_dir(store_path: str, config: Config) -> Path:
    """Give the folder of a run of labels that begins now; it is no `newest_run`."""
    run_dir = new_run_dir(store_path, config)
    return run_dir if config.run_dir is not None else run_dir.with_name(f"{run_dir.name}{_OF_LABELS}")


def runs_folder(store: Path) -> Path:
    """Give the folder that holds the run directories of a store, of which `local_stand_in` gives the path."""
    return store.with_name(f"{store.name}.runs")


def check_run_dir(run_dir: Path, store: Path) -> None:
    """Refuse a run directory that cannot be one, before any work."""
    run_dir = Path(os.path.abspath(run_dir))
    if run_dir == store or store in run_dir.parents:
        raise UsageError(f"run directory {str(run_dir)!r} lies in the store; its ledger may hold paths")
    blocking = next((part for part in (run_dir, *run_dir.parents) if part.exists()), run_dir)
    if not blocking.is_dir():
        raise UsageError(f"run directory {str(run_dir)!r}: {str(blocking)!r} is a file")


def newest_run(store: Path) -> Path:
    """Give the newest run directory of a store; the folder of runs where there is none yet."""
    folder = runs_folder(store)
    inside = folder.iterdir() if folder.is_dir() else iter(())
    runs = sorted(entry for entry in inside if entry.is_dir() and not entry.name.endswith(_OF_LABELS))
    return runs[-1] if runs else folder
