"""What is published is replaced on a folder so that a crash at any moment leaves the old or the new.

The new is written beside the store, in ``.<store>.<hex>.staged/``, each key at its place in the store. Once all
of it is on the disk, with a list of what is to be replaced, that folder gets the ending ``.ready``, in one step.
From there on the old may go, and whoever comes next can finish what was begun: a run that is killed then has
replaced it all the same.
"""

from __future__ import annotations

import glob
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from etl.errors import EtlError, StoreError
from etl.store import durable
from etl.store.layout import METADATA, own_keys_of
from etl.store.local_folder import take_back
from etl.store.metadata import parsed

Content = bytes | bytearray | memoryview
# No patient key begins with a dot.
_ORDER = ".order"


def replace_groups(store: Path, groups: Mapping[str, Mapping[str, Content]], check: Callable[[], None]) -> None:
    """Put the keys of groups in the place of those that are there: see `etl.store.keys.Keys.replace`."""
    staged = store.with_name(f".{store.name}.{uuid.uuid4().hex}.staged")
    ready = staged.with_suffix(".ready")
    try:
        for group, content in groups.items():
            for key, value in content.items():
                check()
                durable.write_durably(staged / group / key, value)
        durable.write_durably(staged / _ORDER, order_text(groups))
        files = [staged / group / key for group, content in groups.items() for key in content]
        durable.flush_folders([*files, staged / _ORDER], staged)
        check()
        # Another run may have cleared it away meanwhile; its lock is then not ours any more.
        if not all(path.is_file() for path in files):
            raise StoreError(f"{', '.join(groups)} was not replaced: another run removed what was written")
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


def order_text(groups: Mapping[str, Iterable[str]]) -> bytes:
    """Say which groups are to be replaced, and by which keys."""
    return json.dumps({group: list(keys) for group, keys in groups.items()}).encode()


def parsed_order(content: bytes | None) -> dict[str, list[str]]:
    """Read what `order_text` wrote; empty where it is lost."""
    return {str(group): [str(key) for key in keys] for group, keys in (parsed(content) or {}).items()}


def outdated(group: str, keys: Iterable[str]) -> Callable[[str], bool]:
    """Give what tells the keys of this package in a group that its replacement has not."""
    is_own, new = own_keys_of(group), frozenset(keys)
    return lambda key: is_own(key) and key not in new


def _complete(store: Path, ready: Path) -> None:
    """Move what is ready into the place of the old: the metadata of each group last."""
    order = parsed_order(durable.read_if_there(ready / _ORDER))
    # Of a group whose metadata was moved, all was.
    left = {group: keys for group, keys in order.items() if not keys or (ready / group / METADATA).is_file()}
    for group, keys in left.items():
        take_back(store / group, outdated(group, keys))
    for group, keys in left.items():
        if keys:
            _move(ready / group, store / group, keys, store)
    shutil.rmtree(ready, ignore_errors=True)


def _move(new: Path, group: Path, keys: Iterable[str], store: Path) -> None:
    others = [key for key in keys if key != METADATA]
    for key in others:
        (group / key).parent.mkdir(parents=True, exist_ok=True)
        if (new / key).is_file():
            (new / key).replace(group / key)
    durable.flush_folders((group / key for key in others), group)
    (new / METADATA).replace(group / METADATA)
    durable.flush_folders([group / METADATA], store)
