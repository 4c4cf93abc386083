"""What tables say of patients: in the attributes of their groups, which only one process at a time writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from etl.digests import json_digest
from etl.errors import StoreError
from etl.store.keys import Keys
from etl.store.layout import METADATA
from etl.store.metadata import as_text, ct_etl_attributes, group, parsed, with_consolidated
from etl.store.root import put_if_changed, put_root

LABELS, DIGEST = "labels", "labels_digest"


def kept_labels(about: Mapping[str, Any]) -> dict[str, Any]:
    """Give the part of a patient's attributes that tables made: what a run hands on as it is."""
    return {name: about[name] for name in (LABELS, DIGEST) if name in about}


def are_intact(about: Mapping[str, Any]) -> bool:
    """Whether what tables made is what was written."""
    return LABELS not in about or about.get(DIGEST) == json_digest(about[LABELS])


def put_labels(
    keys: Keys, level: str, columns: Collection[str], rows: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Put a table's columns into the attributes of the patients, and those into the consolidated metadata.

    The caller holds the store's lock. A process that dies on the way leaves patients of which some have the new
    columns; readers go on with the consolidated metadata of before, and the next call completes them.

    Parameters
    ----------
    keys : Keys
    level : {"patient", "study", "series"}
    columns : collection of str
        What the table has: of all patients, values of before are dropped.
    rows : mapping
        Values by column, by Patient ID or UID, by patient key.

    Raises
    ------
    StoreError
        No run has finished, or a patient's metadata are damaged.
    """
    root = parsed(keys.get(METADATA)) or {}
    nodes = (root.pop("consolidated_metadata", None) or {}).get("metadata")
    if not isinstance(nodes, dict):
        raise StoreError("no run into the store has finished: there is no consolidated metadata; finish one first")
    texts = {path: as_text(node) for path, node in nodes.items()}
    patients = [path for path in nodes if "/" not in path]
    for patient in patients:
        about = ct_etl_attributes(parsed(keys.get(f"{patient}/{METADATA}")))
        if "patient_id" not in about:
            raise StoreError(f"{patient}/{METADATA} is damaged: it names no patient; run again first")
        labels = _merged(about.get(LABELS, {}), level, columns, rows.get(patient, {}))
        new = {name: value for name, value in about.items() if name not in (LABELS, DIGEST)}
        if labels:
            new |= {LABELS: labels, DIGEST: json_digest(labels)}
        texts[patient] = as_text(group({"ct_etl": new}))
        put_if_changed(keys, f"{patient}/{METADATA}", texts[patient])
    keys.settle((f"{patient}/{METADATA}" for patient in patients), "")
    put_root(keys, with_consolidated(root, texts))


def _merged(
    there: Mapping[str, Any], level: str, columns: Collection[str], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Give a patient's labels with a table's columns in place of those of before, in an order of their own."""
    merged = {name: value for name, value in there.items() if name != level}
    before = there.get(level, {})
    by_key = {"": before} if level == "patient" else dict(before)
    kept = {key: {n: v for n, v in values.items() if n not in columns} for key, values in by_key.items()}
    for key, values in rows.items():
        at = "" if level == "patient" else key
        kept[at] = {**kept.get(at, {}), **values}
    kept = {key: dict(sorted(values.items())) for key, values in sorted(kept.items()) if values}
    found = kept.get("", {}) if level == "patient" else kept
    if found:
        merged[level] = found
    return dict(sorted(merged.items()))
