"""A segment on its planes as fields that are above 0 inside, made so that they can be followed across planes.

A mask becomes the signed distance d from its edge, a fraction what exceeds one half. In a plane both are
interpolated linearly, and fractions across planes too. Across planes a distance is followed as d (w - d), with w
the width of the section: on the circles that a ball leaves on planes this is r^2 - x^2 - y^2 - z^2 with z the
height, so that parabolas give the ball back, its ends too. Of a large section it is nearly a multiple of d.

What hangs together is followed by itself, and what it encloses on all sides is a part of its own that is taken out
again. Otherwise a plane on which one of two parts has ended, or a cavity, would only say how far the nearest other
edge is: they would end too early.

References
----------
Raya and Udupa, Shape-based interpolation of multidimensional objects, IEEE Trans. Med. Imaging 9 (1990) 32-42.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, label, map_coordinates

from etl.volume.across_planes import beyond
from etl.volume.plane_masks import Float32, Float64, MaskPlanes

# Of the smaller of two sections; where less of it is left half way, both are kept as they are.
LEAST_SHARE_HALF_WAY = 0.5
# More are the noise of a mask, and are followed together.
MAX_PARTS = 64
MARGIN = 2
STEADY_PIXELS = 0.01
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SegmentField:
    """One part of a segment on the planes that have some of it.

    Parameters
    ----------
    planes : MaskPlanes
    index : (m,) int array
        Planes that have some, increasing.
    corner : tuple of int
        (row, column) of the first pixel of `values`.
    values : (m, rows, columns) float32 array
        Above 0 inside: signed distances, mm, or fractions less one half.
    pixels : (m,) float64 array
        Area on each plane, in pixels.
    width_mm : (m,) float64 array or None
        Twice the largest distance in a section whose holes are filled; None for fractions.
    cavities : tuple of SegmentField
        What the part encloses, and `values` do not leave out.
    """

    planes: MaskPlanes
    index: Index
    corner: tuple[int, int]
    values: Float32
    pixels: Float64
    width_mm: Float64 | None
    cavities: tuple[SegmentField, ...] = ()

    @property
    def volume_ml(self) -> float:
        """Area of each plane times the slab that it stands for, ml."""
        low, high = self.planes.slabs_mm
        height, width = self.planes.pixel_mm
        filled = float(self.pixels @ (low + high)[self.index]) * height * width / 1000
        return filled - sum(one.volume_ml for one in self.cavities)

    @cached_property
    def is_joined(self) -> NDArray[np.bool_]:
        """(m - 1,) whether what lies between two planes of the segment is interpolated."""
        joined = _are_neighbors(self.planes, self.index)
        for n in np.flatnonzero(joined).tolist():
            half_way = np.count_nonzero((self.values[n] + self._as_on(n, n + 1)) > 0)
            joined[n] = half_way >= LEAST_SHARE_HALF_WAY * min(self.pixels[n], self.pixels[n + 1])
        return joined

    @cached_property
    def reach_mm(self) -> tuple[Float64, Float64]:
        """(m,) how far each plane reaches down and up.

        Half way to the next plane; but to that plane where a section that shrinks will have ended before it.
        """
        low, high = (reach[self.index] for reach in self.planes.slabs_mm)
        neighbors = np.diff(self.index) == 1
        for reach, inwards, has_next in (
            (low, 1, np.append(False, neighbors)),
            (high, -1, np.append(neighbors, False)),
        ):
            for n in np.flatnonzero(~has_next).tolist():
                reach[n] *= 2 if self._ends_within(n, inwards, 2 * reach[n]) else 1
        return low, high

    def followed(self, values: NDArray[Any], plane: Index | int) -> Float64:
        """Turn values on planes into what is followed from plane to plane."""
        if self.width_mm is None:
            return np.asarray(values, np.float64)
        return np.asarray(values * (self.width_mm[plane] - values))

    def gap_mm(self, plane: Index | int) -> Float64:
        """Give the distance of a plane, which may lie outside, to the next one; NaN where not joined."""
        gaps = np.where(self.is_joined, np.diff(self.planes.position_mm[self.index]), np.nan)
        return np.asarray(np.pad(gaps, 2, constant_values=np.nan)[np.clip(np.add(plane, 2), 0, len(gaps) + 3)])

    def gaps_inwards_mm(self, end: Index | int, inwards: int) -> tuple[Float64, Float64]:
        """Give the distances from an end to its neighbor, and on to the next plane; `inwards` is 1 or -1."""
        first, second = (0, 1) if inwards > 0 else (-1, -2)
        return self.gap_mm(np.add(end, first)), self.gap_mm(np.add(end, second))

    def _ends_within(self, end: int, inwards: int, away_mm: float) -> bool:
        """Whether nothing of a section is left at a distance beyond an end."""
        if self.width_mm is None or np.isnan(self.gaps_inwards_mm(end, inwards)[0]):
            return False
        planes = np.clip([end, end + inwards, end + 2 * inwards], 0, len(self.index) - 1).tolist()
        at = [self.followed(self._as_on(end, n), n) for n in planes]
        return bool(beyond(at, self.gaps_inwards_mm(end, inwards), away_mm).max() <= 0)

    def _as_on(self, n: int, other: int) -> Float32:
        """Give the field of another plane at the pixels of a plane, looking along the normal."""
        planes = self.planes
        moved = planes.origins_lps_mm[self.index[other]] - planes.origins_lps_mm[self.index[n]]
        shift = planes.to_pixel @ moved
        if np.abs(shift).max() <= STEADY_PIXELS:
            return np.asarray(self.values[other])
        rows, columns = np.indices(self.values.shape[1:])
        where = [rows - shift[0], columns - shift[1]]
        return np.asarray(map_coordinates(self.values[other], where, order=1, mode="nearest"), np.float32)


def binary_fields(planes: MaskPlanes, masks: Mapping[int, NDArray[np.bool_]]) -> tuple[SegmentField, ...]:
    """Turn a mask into signed distances from its edge, mm.

    Parameters
    ----------
    planes : MaskPlanes
    masks : mapping of (rows, columns) bool arrays
        By plane, all of one shape; a plane that is not named is empty.

    Returns
    -------
    tuple of SegmentField
        One for each part; none where no pixel is set.
    """
    found = _cropped(planes, {n: mask for n, mask in masks.items() if mask.any()}, padding=False)
    return () if found is None else _parts(planes, *found)


def fractional_fields(planes: MaskPlanes, fractions: Mapping[int, Float32]) -> tuple[SegmentField, ...]:
    """Turn fractions of 0 to 1 into what exceeds one half.

    Parameters
    ----------
    planes : MaskPlanes
    fractions : mapping of (rows, columns) float32 arrays

    Returns
    -------
    tuple of SegmentField
        One, or none where there is nothing. Its volume counts each pixel by its fraction.
    """
    found = _cropped(planes, {n: plane for n, plane in fractions.items() if (plane > 0).any()}, padding=0.0)
    if found is None:
        return ()
    index, corner, stack = found
    values = stack.astype(np.float32) - np.float32(0.5)
    return (SegmentField(planes, index, corner, values, stack.sum(axis=(1, 2), dtype=np.float64), None),)


def _parts(
    planes: MaskPlanes, index: Index, corner: tuple[int, int], stack: NDArray[np.bool_]
) -> tuple[SegmentField, ...]:
    areas, count = label(stack, structure=np.ones((3, 3, 3)))
    if count > MAX_PARTS:
        return (_distances(planes, index, corner, stack),)
    margin = _margin(planes, index)
    found = []
    for number, (on, rows, columns) in enumerate(find_objects(areas), start=1):
        row, column = rows.start - margin, columns.start - margin
        part = areas[on, row : rows.stop + margin, column : columns.stop + margin] == number
        found.append(_distances(planes, index[on], (corner[0] + row, corner[1] + column), part))
    return tuple(found)


def _distances(
    planes: MaskPlanes, index: Index, corner: tuple[int, int], stack: NDArray[np.bool_]
) -> SegmentField:
    cavities = np.zeros_like(stack)
    starts = [0, *(np.flatnonzero(~_are_neighbors(planes, index)) + 1).tolist(), len(index)]
    for start, stop in pairwise(starts):
        cavities[start:stop] = _enclosed(stack[start:stop])
    filled = stack | cavities
    values, width_mm = np.empty(stack.shape, np.float32), np.empty(len(stack))
    # Distances are measured from center to center, and the edge lies half a pixel before.
    half_mm = min(planes.pixel_mm) / 2
    for n, mask in enumerate(filled):
        inside = distance_transform_edt(mask, planes.pixel_mm)
        values[n] = inside - distance_transform_edt(~mask, planes.pixel_mm)
        values[n] -= np.where(mask, half_mm, -half_mm)
        holes = _enclosed(mask)
        whole = distance_transform_edt(mask | holes, planes.pixel_mm) if holes.any() else inside
        width_mm[n] = 2 * (whole.max() - half_mm)
    has_some = np.flatnonzero(cavities.any(axis=(1, 2)))
    inner = _parts(planes, index[has_some], corner, cavities[has_some]) if len(has_some) else ()
    pixels = filled.sum(axis=(1, 2), dtype=np.float64)
    return SegmentField(planes, index, corner, values, pixels, width_mm, inner)


def _enclosed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark what is not in a mask, and from which no way leads out along the axes."""
    inner = (slice(1, -1),) * mask.ndim
    areas, _ = label(~np.pad(mask, 1))
    return np.asarray((areas > 0) & (areas != areas.flat[0]))[inner]


def _are_neighbors(planes: MaskPlanes, index: Index) -> NDArray[np.bool_]:
    """(m - 1,) whether nothing empty lies between two planes that have some."""
    return np.asarray((np.diff(index) == 1) & ~np.append(planes.is_wide, True)[index[:-1]])


def _cropped(
    planes: MaskPlanes, given: Mapping[int, NDArray[Any]], *, padding: float
) -> tuple[Index, tuple[int, int], NDArray[Any]] | None:
    """Cut planes to what all of them need, with a margin of nothing."""
    if not given:
        return None
    index = np.array(sorted(given), np.int64)
    filled = np.logical_or.reduce([given[n] != 0 for n in index.tolist()])
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    stack = np.stack([given[n][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for n in index.tolist()])
    margin = _margin(planes, index)
    stack = np.pad(stack, ((0, 0), (margin, margin), (margin, margin)), constant_values=padding)
    return index, (int(rows[0]) - margin, int(columns[0]) - margin), stack


def _margin(planes: MaskPlanes, index: Index) -> int:
    """Give the pixels around a section in which its neighbors still lie, though planes wander."""
    moved = np.diff(planes.origins_lps_mm[index], axis=0)[np.diff(index) == 1] @ planes.to_pixel.T
    return MARGIN + int(np.ceil(np.abs(moved).max(initial=0.0) - STEADY_PIXELS))
