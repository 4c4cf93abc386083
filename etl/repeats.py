"""Slices that lie where another one lies: copies, time points, acquisitions, phases."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from etl.errors import SeriesError
from etl.geometry import FARTHEST_MM, SAME_POSITION_MM

REPEAT_NAMES = ("Temporal Position", "cardiac phase", "Acquisition Number", "Acquisition Time")
SMALLEST_STACK = 2


def drop_copies(
    sop_instance_uid: NDArray[np.bytes_],
    frame: NDArray[np.int32],
    position_lps_mm: NDArray[np.float64],
    preference: NDArray[np.int64],
) -> NDArray[np.intp]:
    """Keep one of the slices that are the same instance at the same place.

    A folder that was exported twice holds every instance twice, perhaps once compressed. One UID at different
    places is not a copy but an anonymiser's mistake, and stays.

    Parameters
    ----------
    sop_instance_uid, frame : (n,) arrays
        What identifies a slice.
    position_lps_mm : (n, 3) float64 array
    preference : (n,) int array
        Of copies, the one with the lowest value is kept; then the first.

    Returns
    -------
    (m,) int array
        Indices of the slices to keep, ascending.
    """
    near = np.clip(np.nan_to_num(position_lps_mm), -FARTHEST_MM, FARTHEST_MM)
    places = np.round(near / SAME_POSITION_MM).astype(np.int64)
    kept: dict[tuple[object, ...], int] = {}
    for i in np.argsort(preference, kind="stable"):
        kept.setdefault((sop_instance_uid[i], int(frame[i]), *places[i].tolist()), int(i))
    return np.array(sorted(kept.values()), np.intp)


def split_repeats(position_lps_mm: NDArray[np.float64], repeat: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Split slices whose positions repeat into stacks in which they do not.

    The first attribute that does it decides: temporal position, cardiac phase, acquisition number, acquisition
    time. It must not cut finer than the positions repeat, or the slices of a sequential scan, each with a time of
    its own, would become stacks of one.

    Parameters
    ----------
    position_lps_mm : (n, 3) float64 array
    repeat : (n, 4) float64 array
        The attributes in that order; NaN where absent.

    Returns
    -------
    list of int arrays
        Indices of each stack, in the order of the attribute; one stack with all slices where nothing repeats.

    Raises
    ------
    SeriesError
        ``duplicate-positions``: positions repeat and no attribute tells them apart.

    Examples
    --------
    >>> z = np.array([[0, 0, 0], [0, 0, 5.0], [0, 0, 0], [0, 0, 5]])
    >>> time = np.array([[1.0], [1], [2], [2]])
    >>> [stack.tolist() for stack in split_repeats(z, time)]
    [[0, 1], [2, 3]]
    """
    places = _places(position_lps_mm)
    most = max(Counter(places).values(), default=1)
    if most == 1:
        return [np.arange(len(places))]
    for column in repeat.T:
        if np.isnan(column).any():
            continue
        stacks = [np.flatnonzero(column == value) for value in np.unique(column)]
        if 1 < len(stacks) <= most and all(_is_stack([places[i] for i in stack]) for stack in stacks):
            return stacks
    repeated = sum(count - 1 for count in Counter(places).values())
    names = ", ".join(REPEAT_NAMES[: repeat.shape[1]])
    raise SeriesError(
        "duplicate-positions",
        f"{repeated} of {len(places)} slices lie at a position that another one has; none of {names} tells them "
        "apart",
    )


def _is_stack(places: list[int]) -> bool:
    return len(places) >= SMALLEST_STACK and len(set(places)) == len(places)


def _places(position_lps_mm: NDArray[np.float64]) -> list[int]:
    """Give each distinct place a number; positions that print alike but for the last digit are one."""
    if not np.isfinite(position_lps_mm).all():
        return list(range(len(position_lps_mm)))
    order = np.lexsort(position_lps_mm.T)
    steps = np.linalg.norm(np.diff(position_lps_mm[order], axis=0), axis=1)
    numbers = np.zeros(len(order), np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(steps >= SAME_POSITION_MM)])
    return [int(number) for number in numbers]
