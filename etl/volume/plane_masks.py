"""Put a mask that was drawn on planes onto the grid of a volume, by geometry alone.

The planes are parallel; each has a corner of its own, so they may lie at any distances and wander sideways, as those
of a tilted gantry do. What a segment is on a plane is a field that is above 0 inside: the signed distance from its
edge, or for fractions what exceeds one half. Fields are interpolated linearly in a plane and between two planes, which
for a distance is shape-based interpolation (Raya and Udupa, IEEE Trans. Med. Imaging 9, 1990): nearest planes alone
make steps on thick slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates

# Planes farther apart than this many usual distances do not belong together: between them there is nothing.
WIDE_GAP = 1.5
# Of the smaller of two sections; where less of it is left half way, both are kept as they are.
LEAST_SHARE_HALF_WAY = 0.5
MARGIN = 2
# Half-open pixels and slabs: what lies in the middle of two belongs to the upper one, and to it alone.
TIE_PIXELS = 1e-6
TIE_MM = 1e-6
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
    def position_mm(self) -> Float64:
        """(n,) position of each plane along the normal."""
        return np.asarray(self.origins_lps_mm @ self.normal)

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
    """

    planes: MaskPlanes
    index: NDArray[np.int64]
    corner: tuple[int, int]
    values: Float32
    pixels: Float64

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

    def _half_way(self, n: int) -> Float32:
        """Give the field in the middle of two planes, on the pixels of the lower one."""
        planes = self.planes
        moved = planes.origins_lps_mm[self.index[n + 1]] - planes.origins_lps_mm[self.index[n]]
        height, width = planes.pixel_mm
        shift = np.array([moved @ planes.down_mm / height**2, moved @ planes.along_mm / width**2])
        rows, columns = np.indices(self.values.shape[1:])
        upper = self.values[n + 1]
        if np.abs(shift).max() > 0.01:
            upper = map_coordinates(upper, [rows - shift[0], columns - shift[1]], order=1, mode="nearest")
        return np.asarray((self.values[n] + upper) / 2, np.float32)


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
    return SegmentField(planes, index, corner, values, stack.sum(axis=(1, 2), dtype=np.float64))


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
    return SegmentField(planes, index, corner, values, stack.sum(axis=(1, 2), dtype=np.float64))


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


def place(
    field: SegmentField, affine_lps: Float64, shape: tuple[int, int, int]
) -> tuple[tuple[slice, slice, slice], Float32]:
    """Sample a segment at the centers of voxels.

    A voxel lies in the slab of a plane, or between two planes that are joined; beyond the slabs of the first and
    the last plane there is nothing.

    Parameters
    ----------
    field : SegmentField
    affine_lps : (4, 4) float64 array
        Of the volume, from (k, j, i, 1) to LPS mm.
    shape : tuple of int
        (z, y, x) of the volume.

    Returns
    -------
    tuple of slices
        The part of the volume that the segment may reach; empty where it lies outside.
    (z, y, x) float32 array
        The field there: above 0 inside the segment.
    """
    box = _box(field, affine_lps, shape)
    values = np.full([one.stop - one.start for one in box], -np.inf, np.float32)
    j, i = np.meshgrid(
        np.arange(box[1].start, box[1].stop, dtype=np.float64),
        np.arange(box[2].start, box[2].stop, dtype=np.float64),
        indexing="ij",
    )
    for n, k in enumerate(range(box[0].start, box[0].stop)):
        points = k * affine_lps[:3, 0] + j[..., None] * affine_lps[:3, 1] + i[..., None] * affine_lps[:3, 2]
        values[n] = _sampled(field, points + affine_lps[:3, 3])
    return box, values


def _sampled(field: SegmentField, points_lps_mm: Float64) -> Float32:
    planes = field.planes
    position_mm = points_lps_mm @ planes.normal + TIE_MM
    known_mm = planes.position_mm[field.index]
    last = len(known_mm) - 1
    above = np.searchsorted(known_mm, position_mm, side="right")
    lower, upper = np.clip(above - 1, 0, last), np.clip(above, 0, last)
    joined = np.concatenate([[False], field.is_joined, [False]])[above]
    reach_low, reach_high = (reach[field.index] for reach in planes.slabs_mm)
    found = np.full(position_mm.shape, -np.inf, np.float32)
    # Where nothing is interpolated a voxel has one plane: the one whose slab it lies in.
    in_lower = (above > 0) & (position_mm < known_mm[lower] + reach_high[lower])
    in_upper = (above <= last) & (position_mm >= known_mm[upper] - reach_low[upper])
    for chosen, plane in ((in_upper & ~in_lower & ~joined, upper), (in_lower & ~joined, lower)):
        if chosen.any():
            found[chosen] = _on_plane(field, points_lps_mm[chosen], plane[chosen])
    if joined.any():
        points, low, high = points_lps_mm[joined], lower[joined], upper[joined]
        share = (position_mm[joined] - known_mm[low]) / (known_mm[high] - known_mm[low])
        found[joined] = (1 - share) * _on_plane(field, points, low) + share * _on_plane(field, points, high)
    return found


def _on_plane(field: SegmentField, points_lps_mm: Float64, plane: NDArray[np.int64]) -> Float32:
    """Interpolate the field of a plane where points fall on it along the normal."""
    planes = field.planes
    offset = points_lps_mm - planes.origins_lps_mm[field.index[plane]]
    # The axes of a plane need not be at right angles: a sheared affine has others.
    to_pixel = np.linalg.pinv(np.stack([planes.down_mm, planes.along_mm], axis=1))
    row, column = (offset @ to_pixel[n] + TIE_PIXELS - field.corner[n] for n in (0, 1))
    return np.asarray(map_coordinates(field.values, [plane, row, column], order=1, mode="nearest"), np.float32)


def _box(field: SegmentField, affine_lps: Float64, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Give the part of the volume around all corners of the segment's planes."""
    planes = field.planes
    rows, columns = field.values.shape[1:]
    low, high = planes.slabs_mm
    corners = []
    for n in field.index.tolist():
        for row in (field.corner[0], field.corner[0] + rows):
            for column in (field.corner[1], field.corner[1] + columns):
                corner = planes.origins_lps_mm[n] + row * planes.down_mm + column * planes.along_mm
                corners += [corner - low[n] * planes.normal, corner + high[n] * planes.normal]
    index = (np.array(corners) - affine_lps[:3, 3]) @ np.linalg.inv(affine_lps[:3, :3]).T
    first = np.clip(np.floor(index.min(axis=0)), 0, shape).astype(int)
    stop = np.maximum(np.clip(np.ceil(index.max(axis=0)) + 1, 0, shape).astype(int), first)
    z, y, x = (slice(a, b) for a, b in zip(first.tolist(), stop.tolist(), strict=True))
    return z, y, x
