"""Masks that were drawn on planes: where the planes lie, and what each segment is on them.

The planes are parallel; each has a corner of its own, so they may lie at any distances and wander sideways, as
those of a tilted gantry do. What a segment is on a plane is a field that is above 0 inside: the signed distance
from its edge, or for fractions what exceeds one half. In a plane fields are interpolated linearly. Between planes
fractions are too, and distances by cubic Hermite splines, which makes round shapes of round sections: nearest
planes make steps on thick slices, and straight lines cut corners (docs/decisions/ has the numbers).

References
----------
Raya and Udupa, Shape-based interpolation of multidimensional objects, IEEE Trans. Med. Imaging 9 (1990) 32-42.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates

# Planes farther apart than this many usual distances do not belong together: between them there is nothing.
WIDE_GAP = 1.5 + 1e-3
# Of the usual distance; a plane that is nearer to a slice lies on it.
SAME_SLICE_SHARE = 0.1
# Of the smaller of two sections; where less of it is left half way, both are kept as they are.
LEAST_SHARE_HALF_WAY = 0.5
MARGIN = 2
STEADY_PIXELS = 0.01
Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MaskPlanes:
    """Where the planes of a mask lie.

    Parameters
    ----------
    origins_lps_mm : (n, 3) float64 array
        Center of pixel (0, 0) of each plane, LPS mm; by increasing position along `normal`.
    down_mm, along_mm : (3,) float64 array
        From a pixel to the one in the next row, and to the one in the next column, mm.
    lone_mm : float
        Thickness of a plane without neighbors, mm.
    usual_mm : float, optional
        Usual distance of neighbors; their median distance where not given.
    """

    origins_lps_mm: Float64
    down_mm: Float64
    along_mm: Float64
    lone_mm: float
    usual_mm: float | None = None

    @property
    def normal(self) -> Float64:
        """(3,) unit vector along which positions are measured."""
        across = np.cross(self.along_mm, self.down_mm)
        return np.asarray(across / np.linalg.norm(across))

    @cached_property
    def to_pixel(self) -> Float64:
        """(2, 3) from an offset in mm to (row, column); the axes need not be at right angles."""
        return np.asarray(np.linalg.pinv(np.stack([self.down_mm, self.along_mm], axis=1)))

    @cached_property
    def position_mm(self) -> Float64:
        """(n,) position of each plane along the normal."""
        return np.asarray(self.origins_lps_mm @ self.normal)

    def among(self, slices_mm: Float64, *, only_ends: bool) -> tuple[MaskPlanes, NDArray[np.int64]]:
        """Add the slices on which nothing was drawn, as planes without pixels: a structure ends half way to them.

        Parameters
        ----------
        slices_mm : (n,) float64 array
            Positions of the slices along the normal, in any order. Where a plane lies on none of them, the mask
            was not drawn on these slices, and nothing is added.
        only_ends : bool
            Add those next to the first and the last plane only: whoever drew left out what lies between.

        Returns
        -------
        MaskPlanes
        (n,) int64 array
            Where each plane is now.
        """
        own = self.position_mm
        distance = np.abs(own[:, None] - slices_mm)
        near = SAME_SLICE_SHARE * min(self.usual_gap_mm, self.lone_mm)
        empty = np.sort(slices_mm[distance.min(axis=0) > near])
        if (distance.min(axis=1) > near).any():
            return self, np.arange(len(own))
        if only_ends:
            empty = np.concatenate([empty[empty < own[0]][-1:], empty[empty > own[-1]][:1]])
        positions = np.concatenate([own, empty])
        order = np.argsort(positions, kind="stable")
        corners = self.origins_lps_mm[0] + (empty - own[0])[:, None] * self.normal
        origins = np.concatenate([self.origins_lps_mm, corners])[order]
        return replace(self, origins_lps_mm=origins), np.argsort(order, kind="stable")[: len(own)]

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns, mm."""
        return float(np.linalg.norm(self.down_mm)), float(np.linalg.norm(self.along_mm))

    @cached_property
    def usual_gap_mm(self) -> float:
        """Distance of neighbors that belong together."""
        if self.usual_mm is not None:
            return self.usual_mm
        gaps = np.diff(self.position_mm)
        return float(np.median(gaps)) if len(gaps) else self.lone_mm

    @cached_property
    def slabs_mm(self) -> tuple[Float64, Float64]:
        """How far each plane reaches down and up: half way to its neighbors."""
        gaps = np.diff(self.position_mm)
        gaps = np.where(gaps <= WIDE_GAP * self.usual_gap_mm, gaps, self.usual_gap_mm)
        usual = [self.usual_gap_mm]
        return np.concatenate([usual, gaps]) / 2, np.concatenate([gaps, usual]) / 2


@dataclass(frozen=True, eq=False)
class SegmentField:
    """One segment on the planes that have some of it.

    Parameters
    ----------
    planes : MaskPlanes
    index : (m,) int array
        Planes that have some, increasing.
    corner : tuple of int
        (row, column) of the first pixel of `values`.
    values : (m, rows, columns) float32 array
        Above 0 inside.
    pixels : (m,) float64 array
        Area on each plane, in pixels.
    is_distance : bool
        Whether the values are signed distances, mm; else fractions less one half.
    """

    planes: MaskPlanes
    index: NDArray[np.int64]
    corner: tuple[int, int]
    values: Float32
    pixels: Float64
    is_distance: bool

    @property
    def volume_ml(self) -> float:
        """Area of each plane times the slab that it stands for, ml."""
        low, high = self.planes.slabs_mm
        height, width = self.planes.pixel_mm
        return float(self.pixels @ (low + high)[self.index]) * height * width / 1000

    @cached_property
    def is_joined(self) -> NDArray[np.bool_]:
        """(m - 1,) whether what lies between two planes of the segment is interpolated."""
        steps, gaps = np.diff(self.index), np.diff(self.planes.position_mm[self.index])
        joined: NDArray[np.bool_] = (steps == 1) & (gaps <= WIDE_GAP * self.planes.usual_gap_mm)
        for n in np.flatnonzero(joined):
            half_way = np.count_nonzero(self._half_way(int(n)) > 0)
            joined[n] = half_way >= LEAST_SHARE_HALF_WAY * min(self.pixels[n], self.pixels[n + 1])
        return joined

    @cached_property
    def slopes(self) -> Float32:
        """(m, rows, columns) change of the field along the normal, per mm: of a parabola through neighbors."""
        found = np.zeros_like(self.values)
        gaps = np.diff(self.planes.position_mm[self.index])
        for n, (below, above) in enumerate(pairwise([False, *self.is_joined.tolist(), False])):
            low = (self.values[n] - self._as_on(n, n - 1)) / gaps[n - 1] if below else None
            high = (self._as_on(n, n + 1) - self.values[n]) / gaps[n] if above else None
            if low is not None and high is not None:
                found[n] = (low * gaps[n] + high * gaps[n - 1]) / (gaps[n - 1] + gaps[n])
            elif low is not None or high is not None:
                found[n] = low if high is None else high
        return found

    def _half_way(self, n: int) -> Float32:
        """Give the field in the middle of two planes, on the pixels of the lower one."""
        return np.asarray((self.values[n] + self._as_on(n, n + 1)) / 2, np.float32)

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


def binary_field(planes: MaskPlanes, masks: Mapping[int, NDArray[np.bool_]]) -> SegmentField | None:
    """Turn a mask into signed distances from its edge, mm.

    Parameters
    ----------
    planes : MaskPlanes
    masks : mapping of (rows, columns) bool arrays
        By plane, all of one shape; a plane that is not named is empty.

    Returns
    -------
    SegmentField or None
        None where no pixel is set.
    """
    found = _cropped({n: mask for n, mask in masks.items() if mask.any()}, padding=False)
    if found is None:
        return None
    index, corner, stack = found
    values = np.empty(stack.shape, np.float32)
    for n, mask in enumerate(stack):
        values[n] = distance_transform_edt(mask, planes.pixel_mm)
        values[n] -= distance_transform_edt(~mask, planes.pixel_mm)
    return SegmentField(planes, index, corner, values, stack.sum(axis=(1, 2), dtype=np.float64), is_distance=True)


def fractional_field(planes: MaskPlanes, fractions: Mapping[int, Float32]) -> SegmentField | None:
    """Turn fractions of 0 to 1 into what exceeds one half.

    Parameters
    ----------
    planes : MaskPlanes
    fractions : mapping of (rows, columns) float32 arrays

    Returns
    -------
    SegmentField or None
        None where there is nothing. Its volume counts each pixel by its fraction.
    """
    found = _cropped({n: plane for n, plane in fractions.items() if (plane > 0).any()}, padding=0.0)
    if found is None:
        return None
    index, corner, stack = found
    values = stack.astype(np.float32) - np.float32(0.5)
    return SegmentField(planes, index, corner, values, stack.sum(axis=(1, 2), dtype=np.float64), is_distance=False)


def _cropped(
    given: Mapping[int, NDArray[Any]], *, padding: float
) -> tuple[NDArray[np.int64], tuple[int, int], NDArray[Any]] | None:
    """Cut planes to what all of them need, with a margin of nothing around it."""
    if not given:
        return None
    index = np.array(sorted(given), np.int64)
    filled = np.logical_or.reduce([given[n] != 0 for n in index.tolist()])
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    stack = np.stack([given[n][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for n in index.tolist()])
    stack = np.pad(stack, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), constant_values=padding)
    return index, (int(rows[0]) - MARGIN, int(columns[0]) - MARGIN), stack
