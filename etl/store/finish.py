"""The end of a run: patients, the cohort's fingerprint, consolidated metadata. Only the driver writes these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError
from etl.store.fingerprint import fingerprint
from etl.store.keys import Keys
from etl.store.labels import list_labels, published_labels
from etl.store.layout import HISTOGRAM, LABEL_ARRAY, LABELS, METADATA, NODES, SOURCE
from etl.store.metadata import (
    as_text,
    ct_etl_attributes,
    group,
    parsed,
    root_attributes,
    sealed,
    with_consolidated,
)
from etl.store.patient_labels import kept_labels
from etl.store.publish import describes_volume, is_whole
from etl.store.root import put_if_changed, put_root


def finish_store(
    keys: Keys, recipe: Mapping[str, Any], default_series: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Write patients, the cohort's fingerprint and consolidated metadata; touch nothing that is right.

    Parameters
    ----------
    keys : Keys
    recipe : mapping
        What decides the bytes of the store's volumes.
    default_series : mapping
        Series key a run prefers, by Patient ID. It is the default unless a series of an earlier run has more
        points; a patient keeps the one it has where the run names none.

    Returns
    -------
    dict
        The fingerprint.
    list of str
        Damaged or foreign groups, as ``<patient key>/<series key>``: they are left out.
    """
    # As text and packed: of ten thousand series the parsed ones would take a gigabyte.
    nodes: dict[str, str] = {}
    histograms: list[bytes] = []
    damaged: list[str] = []
    for patient in keys.groups(""):
        published = {}
        for series in keys.groups(patient):
            node = f"{patient}/{series}"
            try:
                found = _series_nodes(keys, node)
                if found is not None:
                    histograms.append(_packed_histogram(keys, node))
                    published[series] = found
            except (StoreError, RuntimeError, ValueError):
                damaged.append(node)
        if not published:
            if _is_foreign(keys, patient):
                damaged.append(patient)
            continue
        try:
            _write_patient(keys, patient, published, default_series)
        except StoreError:
            damaged.append(patient)
            continue
        nodes[patient] = _node_text(keys, patient)
        for series_nodes in published.values():
            nodes.update(series_nodes)
    summary = fingerprint(map(_unpacked, histograms), tuple(recipe["window"]))
    root = group(sealed({**root_attributes(recipe), "fingerprint": summary}))
    keys.settle((f"{patient}/{METADATA}" for patient in nodes if "/" not in patient), "")
    put_root(keys, with_consolidated(root, nodes))
    return summary, damaged


def _is_foreign(keys: Keys, patient: str) -> bool:
    """Whether a group at the place of a patient is another program's."""
    content = keys.get(f"{patient}/{METADATA}")
    if content is None:
        return False
    return not ct_etl_attributes(parsed(content))


def _series_nodes(keys: Keys, node: str) -> dict[str, str] | None:
    """Metadata of every node of a series; None for one that a crash left unfinished, and for plain folders.

    Raises
    ------
    StoreError
        It is not a series of this package, or lacks something that it says it consists of.
    """
    content = keys.get(f"{node}/{METADATA}")
    if content is None:
        return None
    own = parsed(content) or {}
    about = ct_etl_attributes(own)
    if not about or not describes_volume(own["attributes"]):
        raise StoreError(f"{node} is no series of this package")
    if not is_whole(keys, node, own["attributes"]):
        raise StoreError(f"{node} lacks an array")
    # What other programs leave in a folder (@eaDir, .DS_Store) is not ours to describe.
    inside = {*keys.groups(node), *(f"{SOURCE}/{name}" for name in keys.groups(f"{node}/{SOURCE}"))}
    below = {f"{node}/{name}": _node_text(keys, f"{node}/{name}") for name in NODES if name in inside}
    labels = _label_nodes(keys, node) if LABELS in inside else {}
    return {node: as_text(own), **below, **labels}


def _label_nodes(keys: Keys, node: str) -> dict[str, str]:
    """Metadata of the labels of a series; a damaged one is left out, and costs the volume nothing."""
    nodes: dict[str, str] = {}
    for name in published_labels(keys, node):
        label = f"{node}/{LABELS}/{name}"
        with suppress(StoreError):
            array = _node_text(keys, f"{label}/{LABEL_ARRAY.path}")
            nodes |= {label: _node_text(keys, label), f"{label}/{LABEL_ARRAY.path}": array}
    if nodes:
        # Whoever published them may have been killed before they were listed.
        list_labels(keys, node)
        nodes[f"{node}/{LABELS}"] = _node_text(keys, f"{node}/{LABELS}")
    return nodes


def _write_patient(
    keys: Keys, patient: str, published: Mapping[str, Mapping[str, str]], default_series: Mapping[str, str]
) -> None:
    about = {
        series: json.loads(nodes[f"{patient}/{series}"])["attributes"]["ct_etl"]
        for series, nodes in published.items()
    }
    points = {series: _points(found) for series, found in about.items()}
    best = [series for series in published if points[series] == max(points.values())]
    patient_id = about[best[0]]["patient_id"]
    node = parsed(keys.get(f"{patient}/{METADATA}")) or {}
    known = ct_etl_attributes(node)
    wanted = [default_series.get(patient_id), known.get("default_series"), best[0]]
    default = next(series for series in wanted if series in best)
    attributes = {"ct_etl": {"patient_id": patient_id, "default_series": default, **kept_labels(known)}}
    put_if_changed(keys, f"{patient}/{METADATA}", as_text(group(attributes)))


def _points(about: Mapping[str, Any]) -> Any:
    quality = about.get("qc")
    return quality.get("default_series_points", 0) if isinstance(quality, dict) else 0


def _node_text(keys: Keys, node: str) -> str:
    found = parsed(keys.get(f"{node}/{METADATA}"))
    if found is None:
        raise StoreError(f"{node} has no {METADATA}")
    return as_text(found)


def _packed_histogram(keys: Keys, node: str) -> bytes:
    content = keys.get(f"{node}/{HISTOGRAM.chunk_key}")
    if content is None:
        raise StoreError(f"{node}/{HISTOGRAM.path} has no chunk")
    _unpacked(content)  # raises here and not when all are summed
    return content


def _unpacked(histogram: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(numcodecs.blosc.decompress(histogram), "<u4")
