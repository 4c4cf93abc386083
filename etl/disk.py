"""What a crash or a power cut does to files, and what is done against it."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from etl.inventory import is_partial


def flush(paths: Iterable[Path]) -> None:
    """Bring files and the folders that name them to the disk."""
    files = list(paths)
    for path in [*files, *dict.fromkeys(path.parent for path in files)]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def has_content(path: Path) -> bool:
    """Whether a file is there and not empty; a power cut may leave its name alone."""
    return path.is_file() and path.stat().st_size > 0


def has_chunks(folder: Path) -> bool:
    """Whether an array has chunks, none of them empty."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return bool(files) and all(path.stat().st_size for path in files)


def clear_leftovers(store: Path) -> None:
    """Remove what a run that was killed left above the series: half-written keys, a store it was removing."""
    folders = [store, *(entry for entry in store.glob("*") if entry.is_dir())]
    for path in (entry for folder in folders if folder.is_dir() for entry in folder.iterdir()):
        if is_partial(path.name) and path.is_file():
            path.unlink(missing_ok=True)
    for doomed in store.parent.glob(f".{glob.escape(store.name)}.*.removed"):
        shutil.rmtree(doomed, ignore_errors=True)
