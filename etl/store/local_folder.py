"""A store's folder as a whole: taken back, started anew, cleared of what a crash left.

Nothing that this package did not write is ever removed.
"""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from etl.store.durable import flush_folders, is_partial, write_durably
from etl.store.inventory import take_inventory
from etl.store.layout import METADATA, is_own_key


def take_back(group: Path, is_own: Callable[[str], bool] = is_own_key) -> None:
    """Remove the keys of a series; first its metadata, so that they never describe what is half there.

    Folders go where they are empty then; what others left there stays. `is_own` tells other keys than a series's.
    """
    metadata = group / METADATA
    if metadata.exists():
        metadata.unlink()
        flush_folders([metadata], group)
    if not group.exists():
        return
    inside = sorted(group.rglob("*"), reverse=True)
    for path in inside:
        if path.is_file() and (is_own(path.relative_to(group).as_posix()) or is_partial(path.name)):
            path.unlink()
    for folder in (*(path for path in inside if path.is_dir() and not path.is_symlink()), group):
        if not any(folder.iterdir()):
            folder.rmdir()


def start_anew(store: Path, root: bytes) -> Path | None:
    """Put a store with nothing but a root in the place of the one that is there.

    The new root is ready before the old store goes, which takes one step: it is never there by half.

    Returns
    -------
    Path or None
        Where things of the old store lie that this package did not write; None where there were none.
    """
    new = store.with_name(f".{store.name}.{uuid.uuid4().hex}.new")
    write_durably(new / METADATA, root)
    flush_folders([new / METADATA], new)
    foreign = None
    if store.exists():
        doomed = store.with_name(f".{store.name}.{uuid.uuid4().hex}.removed")
        store.rename(doomed)
        new.rename(store)
        flush_folders([store], store.parent)
        foreign = _remove(doomed, store)
    else:
        new.rename(store)
        flush_folders([store], store.parent)
    return foreign


def clear_leftovers(store: Path) -> None:
    """Remove what a run that was killed left above the series: half-written keys, a store it was removing."""
    folders = [store, *(entry for entry in store.glob("*") if entry.is_dir() and not entry.is_symlink())]
    for path in (entry for folder in folders if folder.is_dir() for entry in folder.iterdir()):
        if is_partial(path.name) and path.is_file():
            path.unlink(missing_ok=True)
    for doomed in store.parent.glob(f".{glob.escape(store.name)}.*.removed"):
        _remove(doomed, store)
    for unused in store.parent.glob(f".{glob.escape(store.name)}.*.new"):
        shutil.rmtree(unused, ignore_errors=True)


def _remove(doomed: Path, store: Path) -> Path | None:
    """Remove an old store; what is not of this package goes to ``<store>.foreign/``."""
    kept = store.with_name(f"{store.name}.foreign")
    foreign = take_inventory(doomed).foreign
    for name in foreign:
        target = kept / name
        while os.path.lexists(target):
            target = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        (doomed / name).rename(target)
    shutil.rmtree(doomed, ignore_errors=True)
    return kept if foreign else None
