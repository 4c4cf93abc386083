"""Digests that tell whether a volume in the store is what would be written again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def json_digest(value: Mapping[str, Any]) -> str:
    """Give the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def source_digest(columns: Mapping[str, NDArray[Any]], **common: object) -> str:
    """Give the SHA-256 of what identifies the source of a volume: identities, geometry and lengths, not times.

    Parameters
    ----------
    columns : mapping of arrays
        One row a slice; rows are sorted first, so the order in which files were found does not matter.
    **common
        Plain values that all slices share.
    """
    # -0.0 and 0.0 are one value.
    columns = {name: column + 0 if column.dtype.kind == "f" else column for name, column in columns.items()}
    varying = {name: column for name, column in columns.items() if not _is_constant(column)}
    # Most columns are: said once, not a row.
    constant = {name: repr(column[:1].tolist()) for name, column in columns.items() if name not in varying}
    rows = sorted(
        "|".join(repr(v) for v in row) for row in zip(*(c.tolist() for c in varying.values()), strict=True)
    )
    count = len(next(iter(columns.values())))
    return json_digest(
        {"common": common, "slices": count, "constant": constant, "columns": list(varying), "rows": rows}
    )


def _is_constant(column: NDArray[Any]) -> bool:
    if len(column) == 0:
        return False
    return bool((column == column[0]).all()) or (column.dtype.kind == "f" and bool(np.isnan(column).all()))


def volume_digest(volume: NDArray[np.float32]) -> str:
    """Give the SHA-256 of a volume's values, little endian, in C order of (z, y, x)."""
    digest = hashlib.sha256()
    for plane in volume:
        digest.update(np.ascontiguousarray(plane, "<f4").data)
    return digest.hexdigest()
