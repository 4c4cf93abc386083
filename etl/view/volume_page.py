"""What the page of one volume says: facts, planes, windows, overlays, and HU at a voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from etl.codes import words_of
from etl.errors import UsageError
from etl.read.catalog import list_nodes
from etl.read.facts import facts_of
from etl.read.patients import Volume
from etl.view.cohort import labels_of
from etl.view.pictures import LABEL, STORE_WINDOW, VALIDITY, WINDOWS, usual_window, window_ends
from etl.view.planes import lay_out_plane

_PLANES = ("axial", "coronal", "sagittal")
_VALIDITY_WORDS = {0: "outside the scanned field, or padding", 1: "measured", 2: "interpolated across a gap"}


def describe(volume: Volume) -> dict[str, Any]:
    """Give all that the page needs to know of a volume, as plain JSON values.

    Raises
    ------
    StoreError
        Its metadata cannot be read.
    """
    geometry = volume.geometry
    windows = {name: window_ends(name, volume.window_hu) for name in (*WINDOWS, STORE_WINDOW)}
    return {
        "node": volume.node,
        "patient_id": volume.patient_id,
        "series_key": volume.key,
        "shape": list(geometry.shape),
        "planes": [{"name": name, **lay_out_plane(geometry, axis).to_json()} for axis, name in enumerate(_PLANES)],
        "windows": {name: list(ends) for name, ends in windows.items()},
        "usual_window": usual_window(volume),
        "overlays": overlays_of(volume),
        "facts": facts_of(volume),
        "warnings": [{"code": code, "words": words_of(code)} for code in volume.warnings],
    }


def overlays_of(volume: Volume) -> list[str]:
    """List what can be laid over a volume's slices; see `etl.view.pictures.draw_slice`."""
    # Stores of format 1.0 do not list their arrays.
    has_validity = f"{volume.node}/{VALIDITY}" in list_nodes(volume.store_path, volume.node)
    labels = labels_of(volume.store_path, volume.node)
    return [*([VALIDITY] if has_validity else []), *(f"{LABEL}{name}" for name in labels)]


def look_up(volume: Volume, index: Sequence[int]) -> dict[str, Any]:
    """Say what lies at a voxel.

    Parameters
    ----------
    volume : Volume
    index : (k, j, i)

    Returns
    -------
    dict
        ``hu``, ``position_lps_mm`` and ``validity`` in words; ``clipped`` where the store's window cut the value
        off.

    Raises
    ------
    UsageError
        It lies outside the volume.
    StoreError
        The chunk cannot be read.
    """
    if len(index) != 3 or not all(0 <= n < side for n, side in zip(index, volume.shape, strict=True)):
        raise UsageError(f"voxel {tuple(index)}: allowed is (0, 0, 0) to {tuple(n - 1 for n in volume.shape)}")
    hu = float(volume.to_hu(tuple(index)))
    position = volume.affine_lps @ [*index, 1]
    [validity] = volume.validity_of([range(n, n + 1) for n in index]).ravel().tolist()
    return {
        "hu": round(hu, 1),
        "clipped": any(abs(hu - end) < 0.5 for end in volume.window_hu),
        "position_lps_mm": np.round(position[:3], 1).tolist(),
        "validity": _VALIDITY_WORDS.get(validity, str(validity)),
    }
