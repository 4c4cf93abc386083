"""Where the slices of several parts lie: behind each other, over each other, or between each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etl.scan.distinctions import Role
from etl.volume.geometry import SAME_POSITION_MM

# Two slices where two regions of a scan meet may be out of turn; more are another scan.
JOINT_SLICES = 2
JOINT_SHARE = 0.5
HOLE_RATIO = 1.5
MAX_LOST = 3
FIT_SHARE = 0.1
# Slices farther apart than this many of their thickness leave room for those of an interleaved acquisition.
CONTIGUOUS_GAP_RATIO = 1.5
EVEN_SHARE = 0.05
FAR_GAP_RATIO = 10.0
MIN_PART = 3


def places_of(along_mm: NDArray[np.float64]) -> NDArray[np.intp]:
    """Give each distinct place a number, in their order; positions that print alike but for a digit are one."""
    order = np.argsort(along_mm, kind="stable")
    numbers = np.zeros(len(order), np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(along_mm[order]) >= SAME_POSITION_MM)])
    return numbers


def usual_gap_mm(gaps_mm: NDArray[np.float64]) -> float:
    """Smallest gap that occurs more than once and is no overlap of two regions."""
    candidates = np.sort(gaps_mm[gaps_mm >= 0.5 * np.median(gaps_mm)])
    return float(candidates[min(1, len(candidates) - 1)])


def is_even(along_mm: NDArray[np.float64]) -> bool:
    """Whether sorted positions are equally far apart."""
    gaps = np.diff(along_mm)
    return bool(len(gaps) and np.abs(gaps - np.median(gaps)).max() <= EVEN_SHARE * np.median(gaps))


def between_and_in_holes(own_mm: NDArray[np.float64], others_mm: NDArray[np.float64]) -> tuple[int, int]:
    """Count the other slices that lie between neighbors of a part, and those where the part lacks some itself.

    Parameters
    ----------
    own_mm : (m,) float64 array
        Sorted positions of the part, at least three.
    others_mm : (n,) float64 array
    """
    gaps = np.diff(own_mm)
    usual = usual_gap_mm(gaps)
    inside = others_mm[(others_mm > own_mm[0]) & (others_mm < own_mm[-1])]
    at = np.clip(np.searchsorted(own_mm, inside, side="right") - 1, 0, len(gaps) - 1)
    lost = np.where(gaps > HOLE_RATIO * usual, np.round(gaps / usual) - 1, 0)
    steps = (inside - own_mm[at]) / usual
    # A few lost slices lay at the part's own steps; a region of another protocol has steps of its own.
    fits = (np.abs(steps - np.round(steps)) <= FIT_SHARE) | (lost[at] > MAX_LOST)
    filling = np.bincount(at[fits], minlength=len(gaps))
    in_holes = int(np.where(lost > MAX_LOST, filling, np.minimum(filling, lost)).sum())
    return len(inside) - in_holes, in_holes


def is_woven(
    labels: NDArray[np.intp], along_mm: NDArray[np.float64], thickness_mm: NDArray[np.float64], role: Role
) -> bool:
    """Whether slices of several values lie between each other, so that they are scans of their own.

    Not where a value merely changes along the way, nor where one value fills what the other leaves out.

    Parameters
    ----------
    labels, along_mm, thickness_mm : (n,) arrays
        Sorted by position, one slice a place.
    role : str
        The slices of one volume may be acquired in turn: then a part must be contiguous without the others.
    """
    runs = 1 + int((np.diff(labels) != 0).sum())
    found, sizes = np.unique(labels, return_counts=True)
    if runs == len(found) or role == "record":
        return False
    for label in found[sizes >= MIN_PART]:
        own = labels == label
        between, in_holes = between_and_in_holes(along_mm[own], along_mm[~own])
        smaller = min(int(own.sum()), int((~own).sum()))
        if between <= in_holes or not (between > JOINT_SLICES or between > JOINT_SHARE * smaller):
            continue
        if role != "acquisition" or not is_taken_in_turn(along_mm[own], thickness_mm[own], along_mm):
            return True
    return False


def is_taken_in_turn(
    own_mm: NDArray[np.float64], own_thickness_mm: NDArray[np.float64], all_mm: NDArray[np.float64]
) -> bool:
    """Whether a part leaves room for the others, which are there at even distances."""
    if not np.isfinite(own_thickness_mm).all():
        return False
    gap = float(np.median(np.diff(own_mm)))
    return gap > CONTIGUOUS_GAP_RATIO * float(np.median(own_thickness_mm)) and is_even(all_mm)


def alternates(labels: NDArray[np.intp], along_mm: NDArray[np.float64]) -> bool:
    """Whether two values go on changing places along a stack, though neither can stand alone."""
    runs = 1 + int((np.diff(labels) != 0).sum())
    found, sizes = np.unique(labels, return_counts=True)
    if runs < len(found) + 2:
        return False
    for label in found[sizes >= MIN_PART]:
        own = labels == label
        inside = sum(between_and_in_holes(along_mm[own], along_mm[~own]))
        if inside > JOINT_SLICES:
            return True
    return False


def complete_each_other(
    parts_mm: list[NDArray[np.float64]], parts_thickness_mm: list[NDArray[np.float64]]
) -> bool:
    """Whether parts are what one scan was torn into: slices of one lie where the other lacks its own.

    Parameters
    ----------
    parts_mm, parts_thickness_mm : list of float64 arrays
        Positions along the normal and Slice Thickness of each part, sorted.
    """
    every = np.sort(np.concatenate(parts_mm))
    if len(every) < 2 or (np.diff(every) < SAME_POSITION_MM).any():
        return False
    for i, (own, thickness) in enumerate(zip(parts_mm, parts_thickness_mm, strict=True)):
        if len(own) < MIN_PART:
            continue
        others = np.concatenate([part for j, part in enumerate(parts_mm) if j != i])
        between, in_holes = between_and_in_holes(own, others)
        if in_holes > between:
            return True
        within = every[(every >= own[0]) & (every <= own[-1])]
        is_known = bool(np.isfinite(thickness).all())
        if between > JOINT_SLICES and (
            is_even(within) if not is_known else is_taken_in_turn(own, thickness, within)
        ):
            return True
    return False


def adjoin(first_mm: NDArray[np.float64], second_mm: NDArray[np.float64]) -> bool:
    """Whether one part goes on where the other ends, at the distance that their slices have."""
    lower, upper = sorted((first_mm, second_mm), key=lambda part: float(part[0]))
    joint = float(upper[0] - lower[-1])
    gaps = np.concatenate([np.diff(first_mm), np.diff(second_mm)])
    return len(gaps) > 0 and SAME_POSITION_MM <= joint <= HOLE_RATIO * usual_gap_mm(gaps)


def regions_of(along_mm: NDArray[np.float64]) -> NDArray[np.intp]:
    """Give each slice the number of its region, where regions lie far apart.

    Parameters
    ----------
    along_mm : (n,) float64 array
        Sorted.
    """
    gaps = np.diff(along_mm)
    if len(gaps) < 3:
        return np.zeros(len(along_mm), np.intp)
    far = gaps > FAR_GAP_RATIO * usual_gap_mm(gaps)
    return np.concatenate([[0], np.cumsum(far)]).astype(np.intp)
