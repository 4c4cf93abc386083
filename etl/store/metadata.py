"""The metadata of the store's groups, as the text of ``zarr.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etl.digests import json_digest
from etl.software import software_versions
from etl.store.layout import FORMAT_VERSION


def parsed(content: bytes | None) -> dict[str, Any] | None:
    """Read metadata; None where it is absent, empty or no JSON object, as a power cut may leave it."""
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def ct_etl_attributes(node: Any) -> dict[str, Any]:
    """Give the attribute ``ct_etl`` of a node; empty where it has none."""
    attributes = node.get("attributes") if isinstance(node, dict) else None
    found = attributes.get("ct_etl") if isinstance(attributes, dict) else None
    return found if isinstance(found, dict) else {}


def is_own_label(node: Any) -> bool:
    """Whether the metadata of a label is this package's."""
    return isinstance(ct_etl_attributes(node).get("provenance"), dict)


def group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the metadata of a Zarr v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_attributes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Give the root's ``ct_etl`` before there is a fingerprint."""
    return {
        "format_version": FORMAT_VERSION,
        "config": dict(recipe),
        "config_digest": json_digest(recipe),
        "software": software_versions(),
    }


def sealed(attributes: dict[str, Any]) -> dict[str, Any]:
    """Stand a digest beside ours, by which verify knows an edited root; format 1.0 fixes what is inside."""
    return {"ct_etl": attributes, "ct_etl_digest": json_digest(attributes)}


def as_text(node: Mapping[str, Any]) -> str:
    """Write JSON, compact: the standard library indents in Python, ten times slower."""
    return json.dumps(node, separators=(",", ":"), allow_nan=False)


CONSOLIDATED = '"consolidated_metadata":{"kind":"inline","must_understand":false,"metadata":{'
"""How the consolidated metadata of a root begin, as this package writes them: last, and inline."""


def consolidated_frame(root: Mapping[str, Any]) -> tuple[str, str]:
    """Give what stands in the root's text before and after its `members`."""
    return f"{as_text(root)[:-1]},{CONSOLIDATED}", "}}}"


def members(nodes: Mapping[str, str]) -> str:
    """Give the text of nodes as consolidated metadata hold them.

    What lies below a node follows it, and keys are in order: `etl.read.consolidated` finds series by that.
    """
    ordered = sorted(nodes, key=lambda path: path.split("/"))
    return ",".join(f"{json.dumps(path)}:{nodes[path]}" for path in ordered)


def with_consolidated(root: Mapping[str, Any], nodes: Mapping[str, str]) -> str:
    """Give the root's text with the text of every node below it, inline as zarr-python reads it."""
    before, after = consolidated_frame(root)
    return f"{before}{members(nodes)}{after}"
