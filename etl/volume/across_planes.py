"""Go from plane to plane: what a value is between planes, and beyond the last one, by parabolas through them.

Planes that are not joined have a gap of NaN between them, and what lies beyond such a gap counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
MOST_BEND = 10.0
"""Of what is followed, d (w - d): a ball bends by 1, an ellipsoid three times as wide as high by 9.

Where one section is followed by a far smaller one, a parabola bends by hundreds, and what lies between two equal
planes would bulge.
"""


def between(at: Sequence[Float64], gaps_mm: Sequence[Float64], share: Float64) -> Float64:
    """Interpolate between two planes: from one plane's parabola to the other's (a cubic Hermite spline).

    The parabola of a plane runs through it and both neighbors; where a neighbor is lacking, that of the other
    plane is taken, and a straight line where both lack one.

    Parameters
    ----------
    at : four float64 arrays
        Values on the plane before, on the two planes, and on the plane behind.
    gaps_mm : three float64 arrays
        Distances of these planes, mm; the outer ones may be NaN.
    share : float64 array
        Where to interpolate: 0 on the second plane, 1 on the third.

    Returns
    -------
    float64 array

    Examples
    --------
    A parabola comes back, whichever neighbor is lacking:

    >>> at, gap = [np.array(v**2) for v in (-1.0, 0.0, 2.0, 3.0)], [np.array(v) for v in (1.0, 2.0, 1.0)]
    >>> float(between(at, gap, np.array(0.25))), float(between(at, [np.nan, *gap[1:]], np.array(0.25)))
    (0.25, 0.25)
    """
    before_mm, gap_mm, behind_mm = gaps_mm
    steepness = (at[2] - at[1]) / gap_mm
    low = (steepness - (at[1] - at[0]) / before_mm) / (before_mm + gap_mm)
    high = ((at[3] - at[2]) / behind_mm - steepness) / (gap_mm + behind_mm)
    low, high = np.where(np.isnan(low), high, low), np.where(np.isnan(high), low, high)
    rest = 1 - share
    bend = np.clip(np.nan_to_num(rest * low + share * high), -MOST_BEND, MOST_BEND)
    return np.asarray(rest * at[1] + share * at[2] - bend * gap_mm**2 * share * rest)


def beyond(at: Sequence[Float64], gaps_mm: Sequence[Float64], away_mm: Float64 | float) -> Float64:
    """Go on beyond an end by the parabola through it and the two planes before it.

    A line where only one plane is joined with it, or where the parabola would open outwards again; constant where
    none is.

    Parameters
    ----------
    at : three float64 arrays
        Values on the end, on its neighbor, and on the one behind that.
    gaps_mm : two float64 arrays
        Distances of these planes, mm; NaN where they are not joined.
    away_mm : float64 array or float
        Distance from the end.

    Returns
    -------
    float64 array

    Examples
    --------
    >>> at = [np.array(v) for v in (5.0, 8.0, 9.0)]
    >>> float(beyond(at, [np.array(1.0), np.array(1.0)], 1.0))
    0.0
    >>> float(beyond(at, [np.array(1.0), np.array(np.nan)], 1.0))
    2.0
    """
    steepness = (at[0] - at[1]) / gaps_mm[0]
    bend = (steepness - (at[1] - at[2]) / gaps_mm[1]) / (gaps_mm[0] + gaps_mm[1])
    bend = np.clip(np.nan_to_num(bend), -MOST_BEND, 0.0)
    return np.asarray(at[0] + np.nan_to_num(steepness + bend * (gaps_mm[0] + away_mm)) * away_mm)
