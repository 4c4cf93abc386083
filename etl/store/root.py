"""The root of a store: whether a run may write here, and the metadata that all volumes share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etl.errors import StoreConflictError, StoreError, UsageError
from etl.store.durable import is_partial
from etl.store.keys import Keys
from etl.store.layout import FORMAT_VERSION, METADATA
from etl.store.metadata import as_text, group, parsed, root_attributes, sealed


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
    content = keys.get(METADATA)
    root = parsed(content)
    if root is None:
        if content is not None and not overwrite:
            raise UsageError(f"store {keys.path!r} has a damaged {METADATA}; restore it, or use --overwrite")
        if content is None and not all(map(is_partial, keys.names(""))):
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
    root = parsed(keys.get(METADATA))
    if root is None:
        raise StoreError(f"the root has no {METADATA}")
    if root.pop("consolidated_metadata", None) is not None:
        put_root(keys, as_text(root))


def root_digest(keys: Keys) -> str | None:
    """Give the SHA-256 of the root's metadata, which names every series by the digest of all its bytes."""
    content = keys.get(METADATA)
    return None if content is None else hashlib.sha256(content).hexdigest()


def put_root(keys: Keys, text: str) -> None:
    """Write the root's metadata, unless they are there already."""
    put_if_changed(keys, METADATA, text)
    keys.settle([METADATA], "")


def put_if_changed(keys: Keys, key: str, text: str) -> None:
    """Write a key that has other content now: nothing that is right is touched."""
    content = text.encode()
    if keys.get(key) != content:
        keys.put(key, content)


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
