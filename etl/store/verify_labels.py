"""Check the labels of one series: metadata, chunks, digests, and that they lie on the grid that the volume has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from etl.store.encoding import entry_digest
from etl.store.keys import Keys
from etl.store.labels import published_labels
from etl.store.layout import LABEL_ARRAY, LABELS, METADATA, is_label_key
from etl.store.metadata import group, parsed
from etl.store.publish import published
from etl.volume.patient_space import Geometry


def label_problems(keys: Keys, node: str) -> Iterator[tuple[str, str]]:
    """Give path and problem of each label of ours that is not as it was written.

    Parameters
    ----------
    keys : Keys
    node : str
        ``<patient key>/<series key>``.
    """
    grid_digest = _grid_digest(published(keys, node))
    labels = published_labels(keys, node)
    for name, provenance in labels.items():
        path = f"{node}/{LABELS}/{name}"
        label: Any = parsed(keys.get(f"{path}/{METADATA}"))
        recorded = label["attributes"]["ct_etl"]["provenance"].pop("entry_digest", None)
        inside = {key: keys.get(f"{path}/{key}") for key in keys.sizes(path) if is_label_key(key)}
        inside.pop(METADATA)
        for key in (LABEL_ARRAY.metadata_key, LABEL_ARRAY.chunk_key):
            if key not in inside:
                yield path, f"{key} is missing"
        is_whole = label == group(label["attributes"])
        if not is_whole or recorded != entry_digest(inside, label["attributes"]):
            yield path, "its bytes or attributes are not those that were written"
        if provenance.get("grid_digest") != grid_digest:
            yield path, "it lies on another grid than the volume has now; ct-etl label makes it anew"
    listed = _listed(parsed(keys.get(f"{node}/{LABELS}/{METADATA}")))
    for name in sorted(set(labels) - listed):
        yield f"{node}/{LABELS}", f"it does not list {json.dumps(name)}, which is there"
    for name in sorted(listed):
        if keys.get(f"{node}/{LABELS}/{name}/{METADATA}") is None:
            yield f"{node}/{LABELS}", f"it lists {json.dumps(name)}, which is not there"


def _grid_digest(attributes: Mapping[str, Any] | None) -> str | None:
    try:
        return Geometry.from_attributes((attributes or {})["ct_etl"]["geometry"]).grid_digest
    except (KeyError, ValueError, TypeError):
        return None


def _listed(labels: Mapping[str, Any] | None) -> set[str]:
    attributes = (labels or {}).get("attributes")
    ome = attributes.get("ome") if isinstance(attributes, dict) else None
    names = ome.get("labels") if isinstance(ome, dict) else None
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
