"""Labels as OME-Zarr has them, written with plain zarr: what tests of readers start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

AXES = ("z", "y", "x")


def add_label(store: Path, node: str, name: str, mask: np.ndarray, names: dict[int, str] | None = None) -> None:
    """Write a label below a series: a group with one level, or a plain array where there are no `names`."""
    labels = zarr.open_group(store, path=node, mode="r+").require_group("labels")
    if names is None:
        labels.create_array(name, data=mask, dimension_names=AXES)
        return
    properties = [{"label-value": value, "name": text} for value, text in names.items()]
    colors = [{"label-value": value, "rgba": [255, 0, 0, 255]} for value in names]
    about: dict[str, Any] = {"version": "0.5", "image-label": {"properties": properties, "colors": colors}}
    labels.create_group(name, attributes={"ome": about}).create_array("0", data=mask, dimension_names=AXES)
