"""Slices that lie where another one lies: copies, time points, acquisitions, phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.errors import SeriesError
from etl.stack import Slices
from etl.volume.geometry import MAX_POSITION_MM, SAME_POSITION_MM

REPEAT_NAMES = ("Temporal Position", "cardiac phase", "Acquisition Number", "Acquisition Time")
TIME_COLUMN = 3
MIN_STACK = 2
# Parts of one sweep touch or overlap at their ends; repeats of it lie over each other.
OVERLAP_SHARE = 0.5
# Slices farther apart than this many of their thickness leave room for those of an interleaved acquisition.
CONTIGUOUS_GAP_RATIO = 1.5


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


def split_repeats(
    along_mm: NDArray[np.float64], repeat: NDArray[np.float64], thickness_mm: NDArray[np.float64]
) -> list[NDArray[np.intp]]:
    """Split slices that cover the same places more than once into stacks that cover them once.

    The first attribute that does it decides: temporal position, cardiac phase, acquisition number, acquisition
    time, then two of them together, then the order of the times at each place. Places repeat where positions do.
    Where none does, an attribute splits all the same if its parts lie over each other and are complete without
    each other: the table of a second time point may stop a fraction of a millimeter further on. No attribute may
    cut finer than the places repeat, or the slices of a sequential scan, each with a time of its own, would become
    stacks of one.

    Parameters
    ----------
    along_mm : (n,) float64 array
        Positions along the normal; where one is not finite nothing is split.
    repeat : (n, 4) float64 array
        The attributes in that order; NaN where absent.
    thickness_mm : (n,) float64 array
        Slice Thickness (0018,0050); NaN where absent.

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
    >>> z = np.array([0, 5.0, 0, 5])
    >>> time = np.array([[1.0], [1], [2], [2]])
    >>> [stack.tolist() for stack in split_repeats(z, time, np.full(4, 5.0))]
    [[0, 1], [2, 3]]
    """
    if not np.isfinite(along_mm).all():
        return [np.arange(len(along_mm))]
    places = _places(along_mm)
    most = max(Counter(places).values(), default=1)
    for stacks in _partitions(repeat, pairs=most > 1):
        if not all(_is_stack([places[i] for i in stack]) for stack in stacks):
            continue
        if len(stacks) <= most or _lie_over_each_other(stacks, along_mm, thickness_mm):
            return stacks
    if most == 1:
        return [np.arange(len(places))]
    by_time = _in_turn(places, repeat[:, TIME_COLUMN]) if repeat.shape[1] > TIME_COLUMN else None
    if by_time is not None:
        return by_time
    repeated = sum(count - 1 for count in Counter(places).values())
    names = ", ".join(REPEAT_NAMES[: repeat.shape[1]])
    raise SeriesError(
        FailureCode.DUPLICATE_POSITIONS,
        f"{repeated} of {len(places)} slices lie at a position that another one has; none of {names} tells them "
        "apart",
    )


def _partitions(repeat: NDArray[np.float64], *, pairs: bool) -> Iterator[list[NDArray[np.intp]]]:
    """Give the parts into which attributes, alone and then two together, cut the slices."""
    usable = [_labels(column) for column in repeat.T if not np.isnan(column).any() and np.ptp(column) > 0]
    yield from filter(None, map(_parts, usable))
    if pairs:
        for first, second in combinations(usable, 2):
            parts = _parts(_labels(first * (second.max() + 1) + second))
            if parts:
                yield parts


def _labels(values: NDArray[Any]) -> NDArray[np.intp]:
    """Give each distinct value a number, in their order."""
    found: NDArray[np.intp] = np.unique(values, return_inverse=True)[1]
    return found


def _parts(labels: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Give the indices of each label; nothing where some must be alone."""
    count = int(labels.max()) + 1
    if count * MIN_STACK > len(labels):
        return []
    return [np.flatnonzero(labels == label) for label in range(count)]


def _lie_over_each_other(
    stacks: list[NDArray[np.intp]], along_mm: NDArray[np.float64], thickness_mm: NDArray[np.float64]
) -> bool:
    """Whether each of the stacks is a scan of the same region, and no half of an interleaved one."""
    starts = np.array([along_mm[stack].min() for stack in stacks])
    ends = np.array([along_mm[stack].max() for stack in stacks])
    if ends.min() - starts.max() < OVERLAP_SHARE * (ends - starts).min():
        return False
    for stack in stacks:
        gap = float(np.median(np.diff(np.sort(along_mm[stack]))))
        thickness = thickness_mm[stack]
        if np.isfinite(thickness).all() and gap > CONTIGUOUS_GAP_RATIO * float(np.median(thickness)):
            return False
    return True


def _in_turn(places: list[int], time: NDArray[np.float64]) -> list[NDArray[np.intp]] | None:
    """Make the first slices at every place one stack, the second ones the next: a cine scan."""
    members: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        members.setdefault(place, []).append(i)
    counts = {len(found) for found in members.values()}
    if len(counts) != 1 or len(members) < MIN_STACK or np.isnan(time).any():
        return None
    if any(len(set(time[found])) < len(found) for found in members.values()):
        return None
    ordered = [sorted(found, key=lambda i: float(time[i])) for found in members.values()]
    return [np.array(sorted(turn), np.intp) for turn in zip(*ordered, strict=True)]


def _is_stack(places: list[int]) -> bool:
    return len(places) >= MIN_STACK and len(set(places)) == len(places)


def _places(along_mm: NDArray[np.float64]) -> list[int]:
    """Give each distinct place a number; positions that print alike but for the last digit are one."""
    order = np.argsort(along_mm, kind="stable")
    numbers = np.zeros(len(order), np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(along_mm[order]) >= SAME_POSITION_MM)])
    return [int(number) for number in numbers]
