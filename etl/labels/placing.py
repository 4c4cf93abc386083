"""Put a source onto the grid of one volume: which arrays, which values, and how much of each segment is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.codes import LabelCode
from etl.labels.source_mask import Contour, ContourMask, LabelError, PixelMask, SourceMask
from etl.store.label_encoding import Segment
from etl.volume.contours import contour_normal, fill_even_odd
from etl.volume.patient_space import Geometry
from etl.volume.place_segment import place
from etl.volume.plane_masks import MAX_SLICES_APART, WIDE_GAP, MaskPlanes
from etl.volume.segment_field import SegmentField, binary_fields, fractional_fields

MAX_LOSS = 0.05
# Positions are printed to 0.001 mm, and contours to 0.01 mm.
SAME_PLANE_MM = 0.05
PRINTED_MM = 0.01
OUT_OF_PLANE_MM = 0.3
PARALLEL_COSINE = 1 - 1e-6
# Pixels along a side up to which contours are filled three times as finely as the grid.
FINE_SIDE = 512
FINE = 3


@dataclass(eq=False)
class Layer:
    """One label array: segments that do not overlap.

    Parameters
    ----------
    values : (z, y, x) uint16 array
    segments : list of Segment
    """

    values: NDArray[np.uint16]
    segments: list[Segment] = field(default_factory=list)
    best: NDArray[np.float32] | None = None
    """How deep each voxel lies in the segment that it has; None where segments cannot meet."""


@dataclass(frozen=True)
class SegmentVolume:
    """How much of a segment there was, and is: a part of the ledger's line."""

    value: int
    name: str
    layer: int
    ml_before: float
    ml_after: float

    @property
    def is_changed(self) -> bool:
        """Whether more was lost than a grid may cost."""
        return self.ml_after < (1 - MAX_LOSS) * self.ml_before


@dataclass(frozen=True, eq=False)
class Placed:
    """A source on one grid."""

    layers: tuple[Layer, ...]
    volumes: tuple[SegmentVolume, ...]
    warnings: tuple[LabelCode, ...]


def place_mask(mask: SourceMask, geometry: Geometry, slices_mm: NDArray[np.float64]) -> Placed:
    """Put a source onto the grid of a volume.

    Segments that overlap in the source come into several arrays. Where those that touch there both reach a voxel
    when they are interpolated, it belongs to the one that it lies deeper in.

    Parameters
    ----------
    mask : SourceMask
    geometry : Geometry
    slices_mm : (n,) float64 array
        Positions of the volume's slices along its slice axis.

    Returns
    -------
    Placed

    Raises
    ------
    LabelError
        ``outside-volume``, ``out-of-plane``.
    """
    layers: list[Layer] = []
    volumes: list[SegmentVolume] = []
    overlapping = _overlaps(mask) if isinstance(mask, PixelMask) else None
    voxel_ml = abs(float(np.linalg.det(geometry.affine_lps[:3, :3]))) / 1000
    for about, found in _fields(mask, geometry, slices_mm):
        if not found:
            number = _layer_for(about, None, None, layers, overlapping, geometry)
            layers[number].segments.append(about)
            volumes.append(SegmentVolume(about.value, about.name, number, 0.0, 0.0))
            continue
        box, values = place(found, geometry.affine_lps, geometry.shape)
        number = _layer_for(about, box, values, layers, overlapping, geometry)
        _draw(layers[number], about, box, values)
        ml_before = sum(one.volume_ml for one in found)
        volumes.append(SegmentVolume(about.value, about.name, number, ml_before, 0.0))
    after = {
        (n, one.value): np.count_nonzero(layer.values == one.value) * voxel_ml
        for n, layer in enumerate(layers)
        for one in layer.segments
    }
    counted = tuple(
        SegmentVolume(
            one.value, one.name, one.layer, round(one.ml_before, 4), round(after[one.layer, one.value], 4)
        )
        for one in volumes
    )
    if any(one.ml_before for one in counted) and not any(one.ml_after for one in counted):
        raise LabelError(
            LabelCode.OUTSIDE_VOLUME,
            f"none of its {sum(one.ml_before for one in counted):.3f} ml lies on a voxel of the volume",
        )
    warnings = [LabelCode.LABEL_VOLUME_CHANGED] if any(one.is_changed for one in counted) else []
    if isinstance(mask, ContourMask) and mask.ignored:
        warnings.append(LabelCode.CONTOURS_IGNORED)
    return Placed(tuple(layers), counted, tuple(warnings))


def _fields(
    mask: SourceMask, geometry: Geometry, slices_mm: NDArray[np.float64]
) -> Iterator[tuple[Segment, tuple[SegmentField, ...]]]:
    if isinstance(mask, ContourMask):
        for contours in mask.segments:
            yield contours.about, _filled(contours, geometry, slices_mm)
        return
    # Frames without pixels are left out of a Segmentation: they are slices on which nothing was drawn.
    planes, now = _among_slices(mask.planes, geometry, slices_mm, only_wide=False)
    for segment in mask.segments:
        make = fractional_fields if mask.is_fractional else binary_fields
        yield segment.about, make(planes, {int(now[n]): pixels for n, pixels in segment.pixels.items()})


def _among_slices(
    planes: MaskPlanes, geometry: Geometry, slices_mm: NDArray[np.float64], *, only_wide: bool
) -> tuple[MaskPlanes, NDArray[np.int64]]:
    """Put planes that are parallel to the volume's slices among them."""
    normal, along_normal_mm = geometry.along_slice_normal(slices_mm)
    cosine = float(planes.normal @ normal)
    if abs(cosine) < PARALLEL_COSINE:
        return planes, np.arange(len(planes.origins_lps_mm))
    return planes.among(along_normal_mm * np.sign(cosine), only_wide=only_wide)


def _overlaps(mask: PixelMask) -> set[tuple[int, int]]:
    """Pairs of segments, the lower value first, that share a pixel of the source."""
    found: set[tuple[int, int]] = set()
    for n, one in enumerate(mask.segments):
        for other in mask.segments[n + 1 :]:
            shared = one.pixels.keys() & other.pixels.keys()
            limit = 0.5 if mask.is_fractional else 0
            if any(((one.pixels[p] > limit) & (other.pixels[p] > limit)).any() for p in shared):
                found.add((one.about.value, other.about.value))
    return found


def _layer_for(
    about: Segment,
    box: tuple[slice, ...] | None,
    values: NDArray[np.float32] | None,
    layers: list[Layer],
    overlapping: set[tuple[int, int]] | None,
    geometry: Geometry,
) -> int:
    """Give the number of the first array that has room for a segment; contours tell it on the grid only."""
    for number, layer in enumerate(layers):
        if overlapping is not None:
            is_free = not any((one.value, about.value) in overlapping for one in layer.segments)
        else:
            is_free = box is None or not ((values > 0) & (layer.values[box] > 0)).any()  # type: ignore[operator]
        if is_free:
            return number
    # Contours of one array do not meet on the grid, see above.
    best = np.zeros(geometry.shape, np.float32) if overlapping is not None else None
    layers.append(Layer(np.zeros(geometry.shape, np.uint16), best=best))
    return len(layers) - 1


def _draw(layer: Layer, about: Segment, box: tuple[slice, ...], values: NDArray[np.float32]) -> None:
    inside = values > 0
    if layer.best is not None:
        inside &= values > layer.best[box]
        layer.best[box][inside] = values[inside]
    layer.values[box][inside] = about.value
    layer.segments.append(about)


def _filled(contours: Contour, geometry: Geometry, slices_mm: NDArray[np.float64]) -> tuple[SegmentField, ...]:
    """Fill the contours of a segment on pixels that lie as the volume's voxels do."""
    points = contours.points_lps_mm
    normal = contour_normal(points)
    if not normal.any():
        return ()
    source_mm = geometry.source_spacing_mm[geometry.slice_axis]
    normal, position_mm = _plane_positions(points, normal, geometry.along_slice_normal(slices_mm)[0])
    order = np.argsort(position_mm, kind="stable")
    is_new = np.concatenate([[True], np.diff(position_mm[order]) > SAME_PLANE_MM])
    first_mm = position_mm[order[is_new]]
    down, along = _plane_axes(normal, geometry.affine_lps)
    anchor = geometry.affine_lps[:3, 3]
    sides = [np.concatenate(points) @ axis / (axis @ axis) for axis in (down, along)]
    fine = FINE if max(np.ptp(side) for side in sides) * FINE <= FINE_SIDE else 1
    down, along = down / fine, along / fine
    # The corner lies on a voxel's center, so that centers of pixels fall on centers of voxels.
    corner_pixel = [int(np.floor(side.min() * fine - anchor @ axis / (axis @ axis))) - 1
                    for side, axis in zip(sides, (down, along), strict=True)]  # fmt: skip
    size = [int(np.ceil(np.ptp(side) * fine)) + 4 for side in sides]
    corner = anchor + corner_pixel[0] * down + corner_pixel[1] * along
    origins = corner + (first_mm - corner @ normal)[:, None] * normal
    gaps_mm = np.diff(first_mm)
    usual_mm = min(np.median(gaps_mm), MAX_SLICES_APART * source_mm) if len(gaps_mm) else source_mm
    planes = MaskPlanes(origins, down, along, source_mm, gaps_mm > WIDE_GAP * usual_mm)
    number = np.empty(len(points), np.int64)
    number[order] = np.cumsum(is_new) - 1
    masks: dict[int, NDArray[Any]] = {}
    for plane, origin in enumerate(origins):
        polygons = [
            np.stack([(one - origin) @ down / (down @ down), (one - origin) @ along / (along @ along)], axis=1)
            for one, its in zip(points, number, strict=True)
            if its == plane
        ]
        masks[plane] = fill_even_odd(polygons, (size[0], size[1]))
    among, now = _among_slices(planes, geometry, slices_mm, only_wide=True)
    return binary_fields(among, {int(now[n]): mask for n, mask in masks.items()})


def _plane_positions(
    points: Sequence[NDArray[np.float64]], normal: NDArray[np.float64], slice_normal: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the normal of the planes and the position of each contour along it.

    Where the contours lie as flat on the volume's slices, the slices' normal is taken: small ones leave their own
    uncertain, and two on one slice would come to lie on two planes.

    Raises
    ------
    LabelError
        ``out-of-plane``.
    """

    def worst_mm(normal: NDArray[np.float64]) -> float:
        return max(float(np.ptp(one @ normal)) for one in points) / 2

    if worst_mm(slice_normal) <= worst_mm(normal) + PRINTED_MM:
        normal = slice_normal
    worst = worst_mm(normal)
    if worst > OUT_OF_PLANE_MM:
        raise LabelError(
            LabelCode.OUT_OF_PLANE,
            f"points of a contour lie up to {worst:.2f} mm out of its plane; allowed is {OUT_OF_PLANE_MM} mm",
        )
    return normal, np.array([float((one @ normal).mean()) for one in points])


def _plane_axes(
    normal: NDArray[np.float64], affine_lps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give steps in the plane, at right angles, as near as can be to those of the two grid axes that lie in it."""
    steps = affine_lps[:3, :3].T
    lengths = np.linalg.norm(steps, axis=1)
    one, two = sorted(np.argsort(np.abs(steps @ normal) / lengths, kind="stable")[:2].tolist())
    along = steps[two] - (steps[two] @ normal) * normal
    along /= np.linalg.norm(along)
    # Along, down and normal are right-handed, as `MaskPlanes` counts its planes.
    down = np.cross(normal, along)
    return down * lengths[one], along * lengths[two]
