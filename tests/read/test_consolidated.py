"""Consolidated metadata are found without parsing all of them; the oracle parses them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from etl.read.consolidated import parse_root
from etl.store.metadata import as_text, group, sealed, with_consolidated

PATIENTS = st.sampled_from(["P", "P-1", "P.1", "p", "0001", "CASE"])
DIGITS = st.text("0123456789abcdef", min_size=1, max_size=1)
SUFFIXES = st.sampled_from(["", "-01234567", "-89abcdef", "-2"])
ARRAYS = ("volume", "hu_histogram", "source", "source/position_mm", "validity")


def series_key(digit: str, suffix: str) -> str:
    return f"0001-{digit * 16}{suffix}"


@given(st.dictionaries(PATIENTS, st.sets(st.builds(series_key, DIGITS, SUFFIXES), min_size=1), min_size=1))
def test_every_series_has_the_text_of_its_own_group(stored: dict[str, set[str]]) -> None:
    nodes: dict[str, dict[str, Any]] = {}
    for patient, keys in stored.items():
        nodes[patient] = group({"ct_etl": {"patient_id": patient, "default_series": min(keys)}})
        for key in keys:
            node = f"{patient}/{key}"
            nodes[node] = group({"ct_etl": {"patient_id": patient, "key": key}, "ome": {"name": node}})
            nodes.update({f"{node}/{name}": {"node_type": "array", "attributes": {}} for name in ARRAYS})
    count = sum(map(len, stored.values()))
    root = group(sealed({"format_version": "1.1", "fingerprint": {"volumes": count}}))
    text = with_consolidated(root, {path: as_text(node) for path, node in nodes.items()})
    document, groups = parse_root(text.encode())
    assert document == root
    assert groups is not None
    assert {patient: set(series) for patient, (_, series) in groups.items()} == stored
    for patient, (about, series) in groups.items():
        assert about == nodes[patient]["attributes"]["ct_etl"]
        assert {key: json.loads(found) for key, found in series.items()} == {
            key: nodes[f"{patient}/{key}"] for key in series
        }
