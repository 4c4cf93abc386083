"""Gaps between slices: which ones a lost slice left, and which ones slices do not cover.

Slice Thickness, the neighbors and the steps of Instance Number tell together; none is right alone. Thickness
overlaps on helical scans, numbers may run either way, jump between two acquisitions or be all the same, and a
sequential scan of thin slices far apart is what somebody asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MISSING_GAP_RATIO = 1.5
MISSING_RUN_RATIO = 2.5
# No scanner's slice is thicker; a Slice Thickness beyond it, or of zero, is none.
MAX_THICKNESS_MM = 30.0
# Where no thickness is known, what no slice of CT reaches across.
UNKNOWN_THICKNESS_MM = 10.0
# A numbered gap may stray by a quarter of the distance of neighbors: positions are rounded, tables are not exact.
STEP_TOLERANCE = 0.25
# Numbers that run one way but for a few, as at the joint of two parts.
ONE_WAY_SHARE = 0.9


def find_missing(
    gaps_mm: NDArray[np.float64],
    thickness_mm: NDArray[np.float64],
    instance_number: NDArray[np.integer] | None = None,
) -> NDArray[np.bool_]:
    """Tell which gaps were left by lost slices.

    A gap is one if it is more than 1.5 times the Slice Thickness and the gaps on either side; two in a row count
    together where there is a gap on both sides. Longer runs may be another part of the protocol, as in a head
    with 4 mm at the base and 7 mm above, unless they leave more than 2.5 times the thickness and the stack's
    usual gap. A gap is one too if numbers are left out in it, and it is as wide as these slices would make it.

    Parameters
    ----------
    gaps_mm : (n - 1,) float64 array
    thickness_mm : (n,) float64 array
        NaN where absent; then only the neighbors tell.
    instance_number : (n,) int array, optional
        Instance Number (0020,0013).

    Returns
    -------
    (n - 1,) bool array

    Examples
    --------
    >>> find_missing(np.array([5.0, 5.0, 10.0, 5.0]), np.full(5, 5.0))
    array([False, False,  True, False])
    >>> find_missing(np.array([4.0, 4.0, 1.1, 7.0, 7.0, 7.0]), np.array([4.0, 4, 4, 7, 7, 7, 7])).any()
    np.False_
    >>> find_missing(np.array([10.0, 10.0]), np.full(3, 5.0), np.array([1, 3, 5]))
    array([ True,  True])
    """
    if len(gaps_mm) < 2:
        # Nothing to compare with: two slices far apart are no volume.
        return find_uncovered(gaps_mm, thickness_mm)
    known = _between(thickness_mm)
    thickness = np.nan_to_num(known)
    padded = np.concatenate([[-np.inf], gaps_mm, [-np.inf]])
    missing = gaps_mm > MISSING_GAP_RATIO * np.maximum(np.maximum(padded[:-2], padded[2:]), thickness)
    for start in range(1, len(gaps_mm) - 2):
        pair = slice(start, start + 2)
        flanks = max(gaps_mm[start - 1], gaps_mm[start + 2])
        missing[pair] |= bool((gaps_mm[pair] > MISSING_GAP_RATIO * np.maximum(flanks, thickness[pair])).all())
    wide = np.maximum(thickness, _usual_gap_mm(gaps_mm))
    missing |= np.isfinite(known) & (gaps_mm > MISSING_RUN_RATIO * wide)
    if instance_number is not None:
        number = instance_number.astype(np.int64)
        missing |= _left_out(gaps_mm, known, number[1:] - number[:-1])
    return np.asarray(missing)


def find_uncovered(gaps_mm: NDArray[np.float64], thickness_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which gaps are more than 1.5 times as wide as the slices beside them are thick.

    What lies in them is interpolated from slices that do not reach it, whether one was lost or none was planned.

    Parameters
    ----------
    gaps_mm : (n - 1,) float64 array
    thickness_mm : (n,) float64 array
        NaN where absent.

    Examples
    --------
    >>> find_uncovered(np.array([10.0, 1.0]), np.array([1.0, 1.0, 1.0]))
    array([ True, False])
    """
    thickness = np.nan_to_num(_between(thickness_mm), nan=UNKNOWN_THICKNESS_MM)
    return np.asarray(gaps_mm > MISSING_GAP_RATIO * thickness + 1e-6)


def _between(thickness_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the thickness that counts in each gap, (n - 1,): the larger one, NaN where neither can be one."""
    sound = np.where((thickness_mm > 0) & (thickness_mm <= MAX_THICKNESS_MM), thickness_mm, np.nan)
    return np.asarray(np.fmax(sound[:-1], sound[1:]))


def _left_out(
    gaps_mm: NDArray[np.float64], thickness_mm: NDArray[np.float64], step: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which gaps are as wide as the numbers that are left out in them make them."""
    none = np.zeros(len(gaps_mm), bool)
    way = np.sign(step)
    onward = way == np.sign(way.sum())
    if way.sum() == 0 or onward.mean() < ONE_WAY_SHARE:
        return none
    size = np.abs(step)
    found = none.copy()
    for part in np.unique(np.round(np.nan_to_num(thickness_mm, nan=-1.0), 2)):
        alike = onward & (np.round(np.nan_to_num(thickness_mm, nan=-1.0), 2) == part)
        single = alike & (size == 1)
        if single.any():
            pitch = float(np.median(gaps_mm[single]))
            off = np.abs(gaps_mm - size * pitch)
            found |= alike & (size > 1) & (off <= STEP_TOLERANCE * pitch)
        elif part > 0:
            # Every second one is lost, or was never made: then slices would not touch with it either.
            would_touch = gaps_mm / np.maximum(size, 1) <= MISSING_GAP_RATIO * part
            found |= alike & (size > 1) & would_touch & (gaps_mm > MISSING_GAP_RATIO * part)
    return found


def _usual_gap_mm(gaps_mm: NDArray[np.float64]) -> float:
    """Smallest gap that is no overlap of two parts of a scan and that the stack has more than once."""
    candidates = np.sort(gaps_mm[gaps_mm >= 0.5 * np.median(gaps_mm)])
    return float(candidates[min(1, len(candidates) - 1)])
