"""The root of a store: whether a run may write here, and the metadata that all volumes share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etl.errors import StoreConflictError, StoreError, UsageError
from etl.store.durable import is_partial
from etl.store.keys import Keys
from etl.store.layout import FORMAT_VERSION, METADATA
from etl.store.metadata import CONSOLIDATED, as_text, group, parsed, root_attributes, sealed

# Configuration, software and fingerprint take 3 kB.
_HEAD_BYTES = 1 << 16


def check_root(keys: Keys, recipe: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """Tell whether a run with this recipe may write here; write nothing.

    Returns
    -------
    dict or None
        The root's attributes; None where there is no store yet.

    Raises
    ------
    StoreConflictError
        The store was written with another recipe; names the keys.
    UsageError
        The path is a file, or a folder of something else.
    """
    keys.check_place()
    size = keys.size(METADATA)
    root = read_root(keys)
    if root is None:
        if size is not None and not overwrite:
            raise UsageError(f"store {keys.path!r} has a damaged {METADATA}; restore it, or use --overwrite")
        if size is None and not all(map(is_partial, keys.names(""))):
            raise UsageError(f"store {keys.path!r} is a folder that holds something else than a ct-etl store")
        return None
    attributes = root.get("attributes", {}).get("ct_etl")
    if not isinstance(attributes, dict):
        raise UsageError(f"store {keys.path!r} is a Zarr hierarchy that ct-etl did not write")
    if not overwrite:
        _check_compatible(attributes, recipe)
    return attributes


def prepare_root(keys: Keys, recipe: Mapping[str, Any], *, overwrite: bool) -> str | None:
    """Create the root where there is none; with `overwrite`, in the place of the store that is there.

    Returns
    -------
    str or None
        Where things of the old store lie that this package did not write; None where there were none.

    Raises
    ------
    StoreConflictError, UsageError
        As `check_root`.
    """
    root = check_root(keys, recipe, overwrite=overwrite)
    keys.clear_leftovers()
    if root is not None and not overwrite:
        return None
    new = as_text(group(sealed(root_attributes(recipe))))
    if overwrite:
        return keys.start_anew(new.encode())
    put_root(keys, new)
    return None


def withdraw_consolidated(keys: Keys) -> None:
    """Take the consolidated metadata out of the root before volumes change under it.

    Readers then look at each series' own metadata until the run has finished.

    Raises
    ------
    StoreError
        There is no root.
    """
    root = read_root(keys)
    if root is None:
        raise StoreError(f"the root has no {METADATA}")
    put_root(keys, as_text(root))


def read_root(keys: Keys) -> dict[str, Any] | None:
    """Read the root's metadata without its consolidated ones, which may be of many series.

    Returns
    -------
    dict or None
        None where there are none, or they are damaged.
    """
    size = keys.size(METADATA)
    if size is None:
        return None
    head = keys.part(METADATA, 0, _HEAD_BYTES) or b""
    own, mark, _ = head.partition(b"," + CONSOLIDATED.encode())
    # As `etl.store.metadata.consolidated_frame` ends it; what was cut off does not.
    if mark and keys.part(METADATA, size - 3, size) == b"}}}":
        return parsed(own + b"}")
    root = parsed(keys.get(METADATA))
    if root is not None:
        root.pop("consolidated_metadata", None)
    return root


def root_digest(keys: Keys) -> str | None:
    """Give the SHA-256 of the root's metadata, which names every series by the digest of all its bytes."""
    return keys.digest(METADATA)


def put_root_parts(keys: Keys, parts: Callable[[], Iterator[bytes]]) -> None:
    """Write the root's metadata as `put_root` does, of parts that need not fit into memory together."""
    digest, size = hashlib.sha256(), 0
    for part in parts():
        digest.update(part)
        size += len(part)
    if keys.size(METADATA) != size or keys.digest(METADATA) != digest.hexdigest():
        keys.put_parts(METADATA, parts)
    keys.settle([METADATA], "")


def put_root(keys: Keys, text: str) -> None:
    """Write the root's metadata, unless they are there already."""
    put_if_changed(keys, METADATA, text)
    keys.settle([METADATA], "")


def put_if_changed(keys: Keys, key: str, text: str) -> bool:
    """Write a key that has other content now, and tell whether it had: nothing that is right is touched."""
    content = text.encode()
    is_new = keys.size(key) != len(content) or keys.get(key) != content
    if is_new:
        keys.put(key, content)
    return is_new


def _check_compatible(root: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    version = str(root.get("format_version"))
    if version != FORMAT_VERSION:
        raise StoreConflictError(
            f"store has format version {version}; this ct-etl writes {FORMAT_VERSION}: use another store, or "
            "--overwrite"
        )
    there = root.get("config", {})
    # As JSON has it, so that a tuple is a list.
    now = json.loads(json.dumps(recipe))
    differing = sorted(key for key in {*there, *now} if there.get(key) != now.get(key))
    if differing:
        named = "; ".join(f"{key}: {there.get(key)} there, {now.get(key)} now" for key in differing)
        raise StoreConflictError(
            f"store was written with another configuration ({named}); use another store or --overwrite"
        )
