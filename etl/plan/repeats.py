"""Slices that are there more than once: the same instance, or the same image exported again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etl.scan.distinctions import DISTINCTIONS
from etl.stack import Slices
from etl.volume.geometry import MAX_POSITION_MM, SAME_POSITION_MM

# What an export may write anew.
_KEPT = [k for k, row in enumerate(DISTINCTIONS) if row.role != "record"]


def drop_copies(slices: Slices, preference: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Keep one of the slices that are the same instance at the same place, with the same rescale and padding.

    A folder that was exported twice holds every instance twice, perhaps once compressed. One UID at different
    places is not a copy but an anonymizer's mistake, and stays; so does one that means other Hounsfield units.
    Whether the pixels are the same is seen when they are read.

    Parameters
    ----------
    slices : Slices
    preference : (n,) int array
        Of copies, the one with the lowest value is kept; then the first.

    Returns
    -------
    keep : (m,) int array
        Indices of the slices to keep, ascending.
    dropped : (n - m,) int array
        The copies of them.
    """
    identities = copy_keys(slices)
    kept: dict[tuple[object, ...], int] = {}
    for i in np.argsort(preference, kind="stable"):
        kept.setdefault(identities[i], int(i))
    is_kept = np.zeros(len(slices), bool)
    is_kept[list(kept.values())] = True
    return np.flatnonzero(is_kept), np.flatnonzero(~is_kept)


def copy_keys(slices: Slices) -> list[tuple[object, ...]]:
    """Give for each slice what its copies have too: instance, frame, place, rescale and padding."""
    near = np.clip(np.nan_to_num(slices.position_lps_mm), -MAX_POSITION_MM, MAX_POSITION_MM)
    places = np.round(near / SAME_POSITION_MM).astype(np.int64).tolist()
    # NaN, which stands for absent, is not equal to itself; its bytes are.
    meaning = np.column_stack([slices.slope, slices.intercept, slices.padding])
    return [
        (slices.sop_instance_uid[i], int(slices.frame[i]), *places[i], meaning[i].tobytes())
        for i in range(len(slices))
    ]


def find_export_copies(
    slices: Slices, places: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Keep one of the slices at each place that agree in all that may tell slices apart, under whatever UID.

    Parameters
    ----------
    slices : Slices
    places : (n,) int array
        Number of each slice's place along the normal.

    Returns
    -------
    keep, dropped, originals : int arrays
        Indices; for each that is dropped the one that is kept for it.
    """
    near = np.clip(np.nan_to_num(slices.position_lps_mm), -MAX_POSITION_MM, MAX_POSITION_MM)
    sideways = np.round(near / SAME_POSITION_MM / 10).astype(np.int64)
    meaning = np.column_stack([slices.slope, slices.intercept, slices.padding, slices.thickness_mm])
    kept: dict[tuple[object, ...], int] = {}
    originals = []
    for i in np.argsort(slices.sop_instance_uid, kind="stable"):
        marks = slices.marks[i, _KEPT].tobytes() if slices.marks.size else b""
        same = (int(places[i]), *sideways[i].tolist(), meaning[i].tobytes(), marks)
        originals.append((int(i), kept.setdefault(same, int(i))))
    pairs = sorted((i, original) for i, original in originals if i != original)
    is_kept = np.ones(len(slices), bool)
    is_kept[[i for i, _ in pairs]] = False
    return (
        np.flatnonzero(is_kept),
        np.array([i for i, _ in pairs], np.intp),
        np.array([original for _, original in pairs], np.intp),
    )
