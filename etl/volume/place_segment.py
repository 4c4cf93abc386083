"""Sample a segment that was drawn on planes at the voxels of a volume, by geometry alone; see `segment_field`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import map_coordinates

from etl.volume.across_planes import between, beyond
from etl.volume.plane_masks import Float32, Float64
from etl.volume.segment_field import Index, SegmentField

# Half-open pixels and slabs: what lies in the middle of two belongs to the upper one, and to it alone.
TIE_PIXELS = 1e-6
TIE_MM = 1e-6
Box = tuple[slice, slice, slice]


def place(fields: Sequence[SegmentField], affine_lps: Float64, shape: tuple[int, int, int]) -> tuple[Box, Float32]:
    """Sample a segment at the centers of voxels.

    A voxel lies within reach of an end, or between two planes that are joined; elsewhere there is nothing.

    Parameters
    ----------
    fields : sequence of SegmentField
        Its parts, at least one.
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
    boxes = [_box(field, affine_lps, shape) for field in fields]
    starts, stops = ([[getattr(one, end) for one in box] for box in boxes] for end in ("start", "stop"))
    z, y, x = (slice(a, b) for a, b in zip(np.min(starts, axis=0), np.max(stops, axis=0), strict=True))
    values = np.full((z.stop - z.start, y.stop - y.start, x.stop - x.start), -np.inf, np.float32)
    for field, box in zip(fields, boxes, strict=True):
        own = values[
            tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, (z, y, x), strict=True))
        ]
        np.maximum(own, _drawn(field, affine_lps, box), out=own)
    return (z, y, x), values


def _drawn(field: SegmentField, affine_lps: Float64, box: Box) -> Float32:
    values = np.empty([one.stop - one.start for one in box], np.float32)
    j, i = np.meshgrid(
        np.arange(box[1].start, box[1].stop, dtype=np.float64),
        np.arange(box[2].start, box[2].stop, dtype=np.float64),
        indexing="ij",
    )
    for n, k in enumerate(range(box[0].start, box[0].stop)):
        points = k * affine_lps[:3, 0] + j[..., None] * affine_lps[:3, 1] + i[..., None] * affine_lps[:3, 2]
        values[n] = _sampled(field, points + affine_lps[:3, 3])
    for cavity in field.cavities:
        np.minimum(values, -_drawn(cavity, affine_lps, box), out=values)
    return values


def _sampled(field: SegmentField, points_lps_mm: Float64) -> Float32:
    position_mm = points_lps_mm @ field.planes.normal + TIE_MM
    known_mm = field.planes.position_mm[field.index]
    last = len(known_mm) - 1
    above = np.searchsorted(known_mm, position_mm, side="right")
    lower, upper = np.clip(above - 1, 0, last), np.clip(above, 0, last)
    is_joined = np.concatenate([[False], field.is_joined, [False]])[above]
    low_mm, high_mm = field.reach_mm
    in_lower = (above > 0) & (position_mm < known_mm[lower] + high_mm[lower]) & ~is_joined
    in_upper = (above <= last) & (position_mm >= known_mm[upper] - low_mm[upper]) & ~is_joined
    found = np.full(position_mm.shape, -np.inf, np.float32)
    for chosen, end, inwards in ((in_upper, upper, 1), (in_lower, lower, -1)):
        if chosen.any():
            here = _beyond(field, points_lps_mm[chosen], end[chosen], inwards, position_mm[chosen])
            found[chosen] = np.maximum(found[chosen], here)
    if is_joined.any():
        found[is_joined] = _between(field, points_lps_mm[is_joined], lower[is_joined], position_mm[is_joined])
    return found


def _beyond(
    field: SegmentField, points_lps_mm: Float64, end: Index, inwards: int, position_mm: Float64
) -> Float64:
    """Go on from an end: a section that shrank towards it shrinks on."""
    if field.width_mm is None:
        return _on_plane(field, points_lps_mm, end)
    at = [_on_plane(field, points_lps_mm, end + n * inwards) for n in (0, 1, 2)]
    away_mm = np.abs(position_mm - field.planes.position_mm[field.index[end]])
    return beyond(at, field.gaps_inwards_mm(end, inwards), away_mm) / field.width_mm[end]


def _between(field: SegmentField, points_lps_mm: Float64, low: Index, position_mm: Float64) -> Float64:
    """Interpolate between two planes that are joined: distances by parabolas, fractions linearly."""
    gap_mm = field.gap_mm(low)
    share = (position_mm - field.planes.position_mm[field.index[low]]) / gap_mm
    if field.width_mm is None:
        at = [_on_plane(field, points_lps_mm, low + n) for n in (0, 1)]
        return np.asarray((1 - share) * at[0] + share * at[1])
    at = [_on_plane(field, points_lps_mm, low + n) for n in (-1, 0, 1, 2)]
    width_mm = (1 - share) * field.width_mm[low] + share * field.width_mm[low + 1]
    return between(at, [field.gap_mm(low - 1), gap_mm, field.gap_mm(low + 1)], share) / width_mm


def _on_plane(field: SegmentField, points_lps_mm: Float64, plane: Index) -> Float64:
    """Interpolate in a plane, where points fall on it along the normal; of planes outside the nearest is taken."""
    plane = np.clip(plane, 0, len(field.index) - 1)
    offset = points_lps_mm - field.planes.origins_lps_mm[field.index[plane]]
    row, column = (offset @ field.planes.to_pixel[n] + TIE_PIXELS - field.corner[n] for n in (0, 1))
    return field.followed(map_coordinates(field.values, [plane, row, column], order=1, mode="nearest"), plane)


def _box(field: SegmentField, affine_lps: Float64, shape: tuple[int, int, int]) -> Box:
    """Give the part of the volume around all corners of the segment's planes."""
    planes = field.planes
    rows, columns = field.values.shape[1:]
    corners = []
    for n, low_mm, high_mm in zip(field.index, *field.reach_mm, strict=True):
        for row in (field.corner[0], field.corner[0] + rows):
            for column in (field.corner[1], field.corner[1] + columns):
                corner = planes.origins_lps_mm[n] + row * planes.down_mm + column * planes.along_mm
                corners += [corner - low_mm * planes.normal, corner + high_mm * planes.normal]
    index = (np.array(corners) - affine_lps[:3, 3]) @ np.linalg.inv(affine_lps[:3, :3]).T
    first = np.clip(np.floor(index.min(axis=0)), 0, shape).astype(int)
    stop = np.maximum(np.clip(np.ceil(index.max(axis=0)) + 1, 0, shape).astype(int), first)
    z, y, x = (slice(a, b) for a, b in zip(first.tolist(), stop.tolist(), strict=True))
    return z, y, x
