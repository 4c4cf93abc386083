"""Sample a segment that was drawn on planes at the voxels of a volume, by geometry alone; see `plane_masks`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from etl.volume.plane_masks import Float32, Float64, SegmentField

# Half-open pixels and slabs: what lies in the middle of two belongs to the upper one, and to it alone.
TIE_PIXELS = 1e-6
TIE_MM = 1e-6


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
            found[chosen] = _in_slab(field, points_lps_mm[chosen], plane[chosen], position_mm[chosen])
    if joined.any():
        points, low, high = points_lps_mm[joined], lower[joined], upper[joined]
        share = (position_mm[joined] - known_mm[low]) / (known_mm[high] - known_mm[low])
        found[joined] = _between(field, points, (low, high), share)
    return found


def _in_slab(
    field: SegmentField, points_lps_mm: Float64, plane: NDArray[np.int64], position_mm: Float64
) -> Float64:
    """Go on from a plane to the end of its slab: a section that shrank from its neighbor to it shrinks on."""
    found = _on_planes(field, points_lps_mm, plane)
    if not field.is_distance:
        return found[0]
    return np.asarray(found[0] + found[1] * (position_mm - field.planes.position_mm[field.index[plane]]))


def _between(
    field: SegmentField,
    points_lps_mm: Float64,
    planes: tuple[NDArray[np.int64], NDArray[np.int64]],
    share: Float64,
) -> Float64:
    """Interpolate between two planes that are joined: distances by cubic Hermite splines, fractions linearly."""
    low, high = (_on_planes(field, points_lps_mm, plane) for plane in planes)
    if not field.is_distance:
        return (1 - share) * low[0] + share * high[0]
    gap_mm = np.diff([field.planes.position_mm[field.index[plane]] for plane in planes], axis=0)[0]
    rest = 1 - share
    return np.asarray(
        (1 + 2 * share) * rest**2 * low[0]
        + share**2 * (3 - 2 * share) * high[0]
        + gap_mm * share * rest * (rest * low[1] - share * high[1])
    )


def _on_planes(field: SegmentField, points_lps_mm: Float64, plane: NDArray[np.int64]) -> list[Float64]:
    """Interpolate field, and slope of a distance, where points fall on a plane along the normal."""
    offset = points_lps_mm - field.planes.origins_lps_mm[field.index[plane]]
    row, column = (offset @ field.planes.to_pixel[n] + TIE_PIXELS - field.corner[n] for n in (0, 1))
    wanted = (field.values, field.slopes) if field.is_distance else (field.values,)
    return [map_coordinates(values, [plane, row, column], order=1, mode="nearest") for values in wanted]


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
