"""A published series is replaced on a folder so that a crash at any moment leaves the old volume or the new one.

The new volume is written beside the store, in ``.<store>.<hex>.staged/<patient key>/<series key>/``. Once all of
it is on the disk that folder gets the ending ``.ready``, in one step. From there on the old volume may go, and
whoever comes next can finish what was begun: a run that is killed then has replaced the volume all the same.
"""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from etl.errors import EtlError, StoreError
from etl.store import durable
from etl.store.layout import ARRAYS, METADATA, arrays_of
from etl.store.metadata import parsed

Content = bytes | bytearray | memoryview


def replace_series(store: Path, node: str, content: Mapping[str, Content], check: Callable[[], None]) -> None:
    """Put the keys of a series in the place of those that are there.

    Parameters
    ----------
    store : Path
    node : str
        ``<patient key>/<series key>``.
    content : mapping of bytes-like
        By key relative to the series, its metadata among them.
    check : callable
        Called before each key; where it raises, the old volume stays.

    Raises
    ------
    DiskFullError, OSError
        The old volume stays.
    """
    staged = store.with_name(f".{store.name}.{uuid.uuid4().hex}.staged")
    ready = staged.with_suffix(".ready")
    try:
        for key, value in content.items():
            check()
            durable.write_durably(staged / node / key, value)
        durable.flush_folders((staged / node / key for key in content), staged)
        check()
        # Another run may have cleared it away meanwhile; its lock is then not ours any more.
        if not all((staged / node / key).is_file() for key in content):
            raise StoreError(f"{node} was not replaced: another run removed what was written")
        staged.replace(ready)
    except (OSError, EtlError):
        shutil.rmtree(staged, ignore_errors=True)
        raise
    durable.flush_folders([ready], store.parent)
    _complete(store, ready)


def complete_replacements(store: Path) -> None:
    """Finish what killed runs had ready, and remove what they had not."""
    for ready in store.parent.glob(f".{glob.escape(store.name)}.*.ready"):
        _complete(store, ready)
    for staged in store.parent.glob(f".{glob.escape(store.name)}.*.staged"):
        shutil.rmtree(staged, ignore_errors=True)


def _complete(store: Path, ready: Path) -> None:
    """Move a new volume that is ready into the place of the old one: its metadata last."""
    files = [path for path in ready.rglob("*") if path.is_file()]
    for new in (path for path in files if path.name == METADATA and len(path.relative_to(ready).parts) == 3):
        group = store / new.parent.relative_to(ready)
        metadata = group / METADATA
        metadata.unlink(missing_ok=True)
        durable.flush_folders([metadata], group)
        moved = [path for path in files if path != new and new.parent in path.parents]
        for path in moved:
            target = group / path.relative_to(new.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        _drop_arrays(group, new.read_bytes())
        durable.flush_folders((group / path.relative_to(new.parent) for path in moved), group)
        new.replace(metadata)
        durable.flush_folders([metadata], store)
    shutil.rmtree(ready, ignore_errors=True)


def _drop_arrays(group: Path, metadata: bytes) -> None:
    """Remove the arrays that the old volume had and the new one has not."""
    kept = arrays_of((parsed(metadata) or {}).get("attributes", {})) or ()
    for array in set(ARRAYS) - set(kept):
        keys = array.metadata_key, array.chunk_key
        if not any(os.path.lexists(group / key) for key in keys):
            continue
        for key in keys:
            (group / key).unlink(missing_ok=True)
        # Innermost first; what somebody else put there stays.
        for folder in list((group / array.chunk_key).parents)[: len(array.dimensions) + 1]:
            with suppress(OSError):
                folder.rmdir()
