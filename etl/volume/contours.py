"""Fill closed contours of parallel planes: even-odd rule on the centers of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def contour_normal(contours: Sequence[Points]) -> Points:
    """Give the normal that closed contours have in common, by their areas (Newell's method).

    Parameters
    ----------
    contours : sequence of (n, 3) float64 arrays
        LPS mm; some may run the other way round, as holes do.

    Returns
    -------
    (3,) float64 array
        Of length 1, its largest component positive; zeros where no contour encloses an area.
    """
    if not contours:
        return np.zeros(3)
    centered = [points - points.mean(axis=0) for points in contours]
    areas = np.stack([np.cross(one, np.roll(one, -1, axis=0)).sum(axis=0) for one in centered])
    # The largest is known best: which component of a small one is its largest may be chance.
    largest = areas[np.argmax(np.linalg.norm(areas, axis=1))]
    total = np.where(areas @ largest < 0, -1.0, 1.0) @ areas
    length = float(np.linalg.norm(total)) * np.sign(total[np.argmax(np.abs(total))])
    return np.asarray(total / length) if length else np.zeros(3)


def fill_even_odd(polygons: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which pixel centers an odd number of edges separates from the outside.

    A polygon in another one is a hole, and a channel that is passed twice (a keyhole) encloses nothing. An edge
    counts for its lower end and not for its upper one, so that polygons that touch share no pixel and miss none.

    Parameters
    ----------
    polygons : sequence of (n, 2) float64 arrays
        (row, column) of the corners, in pixels; (0, 0) is the center of the first pixel. The last corner is joined
        with the first.
    shape : tuple of int
        (rows, columns).

    Returns
    -------
    (rows, columns) bool array

    Examples
    --------
    >>> square = np.array([[0.5, 0.5], [0.5, 2.5], [2.5, 2.5], [2.5, 0.5]])
    >>> fill_even_odd([square], (3, 4)).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    """
    rows, columns = shape
    toggles = np.zeros((rows, columns + 1), np.int64)
    for points in polygons:
        start, end = points, np.roll(points, -1, axis=0)
        upper = np.where((start[:, 0] <= end[:, 0])[:, None], start, end)
        lower = np.where((start[:, 0] <= end[:, 0])[:, None], end, start)
        first = np.clip(np.ceil(upper[:, 0]), 0, rows).astype(np.int64)
        stop = np.clip(np.ceil(lower[:, 0]), 0, rows).astype(np.int64)
        counts = np.maximum(stop - first, 0)
        edge = np.repeat(np.arange(len(points)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        # Edges that no row crosses, flat ones among them, are not here: the height is never 0.
        slope = (lower[edge, 1] - upper[edge, 1]) / (lower[edge, 0] - upper[edge, 0])
        crossing = upper[edge, 1] + (row - upper[edge, 0]) * slope
        column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
        np.add.at(toggles, (row, column), 1)
    inside: NDArray[np.bool_] = np.cumsum(toggles, axis=1)[:, :columns] % 2 == 1
    return inside
