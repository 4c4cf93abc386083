"""Planes that are one but for the last printed digits of their orientation and spacing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from etl.header import Plane

NEAR_COSINE = 1e-3
NEAR_SPACING_MM = 1e-4


def near_groups(planes: Sequence[Plane]) -> NDArray[np.intp]:
    """Give each of several distinct planes the number of its group.

    Planes are of one group where steps below the tolerance lead from one to the other, so that no order of files
    and no first file decides.

    Examples
    --------
    >>> turned = [Plane((1.0, t, 0.0, -t, 1.0, 0.0), (0.5, 0.5)) for t in (-0.0009, 0.0009, 0.0, 0.3)]
    >>> near_groups(turned).tolist()
    [0, 0, 0, 1]
    """
    group = np.full(len(planes), -1, np.intp)
    shapes = [(len(plane.orientation), len(plane.pixel_spacing_mm)) for plane in planes]
    count = 0
    for shape in dict.fromkeys(shapes):
        members = np.array([i for i, own in enumerate(shapes) if own == shape])
        steps = np.array([NEAR_COSINE] * shape[0] + [NEAR_SPACING_MM] * shape[1])
        values = np.array([[*planes[i].orientation, *planes[i].pixel_spacing_mm] for i in members])
        scaled = values.reshape(len(members), -1) / steps
        for start in range(len(members)):
            if group[members[start]] < 0:
                _spread(start, scaled, members, group, count)
                count += 1
    return group


def _spread(
    start: int, scaled: NDArray[np.float64], members: NDArray[np.intp], group: NDArray[np.intp], number: int
) -> None:
    """Give a number to all planes that steps of at most 1 lead to."""
    waiting = [start]
    group[members[start]] = number
    while waiting:
        at = waiting.pop()
        distance = np.abs(scaled - scaled[at]).max(axis=1, initial=0.0)
        reached = np.flatnonzero((distance <= 1 + 1e-9) & (group[members] < 0))
        group[members[reached]] = number
        waiting += reached.tolist()


def middle_plane(planes: Sequence[Plane]) -> Plane:
    """Give the plane that lies nearest to the median of all, one for each slice; of equals the smallest."""
    distinct = sorted(set(planes))
    if len(distinct) == 1:
        return distinct[0]
    every = np.array([[*plane.orientation, *plane.pixel_spacing_mm] for plane in planes])
    middle = np.median(every, axis=0)
    return min(
        distinct,
        key=lambda plane: (float(np.abs([*plane.orientation, *plane.pixel_spacing_mm] - middle).max()), plane),
    )
