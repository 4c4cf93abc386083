"""The grid a volume is stored on, and the operators that lead to it.

Alignment, stated once:

* ``spacing_mm``: in plane the field of view (pixel edges) keeps its center and holds ``round(extent / spacing)``
  voxels; along the normal the first plane lies on the first slice and the last one not beyond the last slice.
  The frame is the slices' own, so a tilted stack becomes an orthogonal volume that covers all of it.
* ``zoom``: `scipy.ndimage.zoom`'s: the centers of the outer voxels stay where they are.
* Neither: the scanner's own voxels.

Axes are permuted and flipped, never interpolated, so that z grows to Superior, y to Posterior and x to Left, as
near as the scan allows. A flip is a target that runs backwards, so it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.errors import SeriesError
from etl.volume.geometry import Layout
from etl.volume.patient_space import Geometry
from etl.volume.slice_weights import SliceWeights, linear_weights, zoom_weights
from etl.volume.spline import AxisOperator, anti_alias_sigma, spline_operator, zoom_operator

# Slices that wander less in plane than this share one operator; positions are printed to about 0.001 mm.
STEADY_MM = 0.005
# A stack whose slices wander less from the first to the last is upright: no affine is sheared for that.
LOOSE_MM = 0.05
# How far slices may lie from where an even spacing puts them, in their own spacing.
ASTRAY_SHARE = 0.1
Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Grid:
    """Placement of the output of one stack. "Own" axes are the stack's: normal, row to row, column to column.

    Parameters
    ----------
    layout : Layout
        Where the slices are.
    count : tuple of int
        Output samples along each own axis.
    first_mm : (3,) float64 array
        Center of output voxel (0, 0, 0) in the frame of `Layout.axes`.
    advance_mm : (3, 3) float64 array
        Row a is the step along own axis a, in that frame. Diagonal but for a sheared native stack; a negative
        diagonal entry is a flip.
    permutation : tuple of int
        ``stored = own.transpose(permutation)`` has the axes (z, y, x).
    factors : tuple of float or None
        Zoom along each own axis; None where the grid was placed by spacing.
    """

    layout: Layout
    count: Shape
    first_mm: NDArray[np.float64]
    advance_mm: NDArray[np.float64]
    permutation: Shape
    factors: Triple | None

    @property
    def geometry(self) -> Geometry:
        """What the store keeps of the grid, axes in (z, y, x) order."""
        layout, order = self.layout, list(self.permutation)
        steps = self.advance_mm @ layout.axes
        affine = np.eye(4)
        affine[:3, :3] = steps[order].T
        affine[:3, 3] = self.first_mm @ layout.axes
        source_spacing = (float(np.median(layout.gaps_mm)), layout.row_spacing_mm, layout.column_spacing_mm)
        source_shape = (len(layout.order), layout.rows, layout.columns)
        lengths = [float(np.linalg.norm(step)) for step in steps]
        z, y, x = self.permutation
        return Geometry(
            shape=(self.count[z], self.count[y], self.count[x]),
            spacing_mm=(lengths[z], lengths[y], lengths[x]),
            affine_lps=affine,
            source_shape=(source_shape[z], source_shape[y], source_shape[x]),
            source_spacing_mm=(source_spacing[z], source_spacing[y], source_spacing[x]),
            slice_axis=order.index(0),
            gantry_tilt_deg=layout.gantry_tilt_deg,
        )

    @property
    def plane_of_slice(self) -> NDArray[np.float64]:
        """Fractional output plane on which each ordered slice lies, (n,)."""
        return np.asarray((self.layout.offset_mm[:, 0] - self.first_mm[0]) / self.advance_mm[0, 0])

    def row_index(self) -> NDArray[np.float64]:
        """Fractional source row under each output row, per slice: (n, rows out)."""
        return self._index(1, self.layout.rows, self.layout.row_spacing_mm)

    def column_index(self) -> NDArray[np.float64]:
        """Fractional source column under each output column, per slice: (n, columns out)."""
        return self._index(2, self.layout.columns, self.layout.column_spacing_mm)

    def across(self) -> SliceWeights:
        """Weight of each ordered slice in each output plane, (planes, n)."""
        if self.factors is not None:
            return zoom_weights(len(self.layout.order), self.factors[0], flipped=self.advance_mm[0, 0] < 0)
        step = self.advance_mm[0, 0]
        middle = float(np.median(self.layout.gaps_mm))
        return linear_weights(
            self.layout.offset_mm[:, 0],
            self.first_mm[0] + step * np.arange(self.count[0]),
            sigma_mm=middle * anti_alias_sigma(step / middle),
        )

    def in_plane(self) -> Iterator[tuple[AxisOperator, AxisOperator]]:
        """Give the row and the column operator of one ordered slice after the other."""
        layout = self.layout
        if self.factors is not None:
            # The article's recipe is held to scipy within 1e-3 HU, which sums of float32 keep at half the cost.
            pair = tuple(
                _zoom_operator(n, self.factors[a], flipped=bool(self.advance_mm[a, a] < 0))
                for a, n in ((1, layout.rows), (2, layout.columns))
            )
            for _ in layout.order:
                yield pair[0], pair[1]
            return
        rows = _operators(layout.rows, self.row_index(), layout.row_spacing_mm)
        columns = _operators(layout.columns, self.column_index(), layout.column_spacing_mm)
        yield from zip(rows, columns, strict=True)

    def _index(self, axis: int, pixels: int, pixel_mm: float) -> NDArray[np.float64]:
        n = len(self.layout.order)
        if self.factors is not None:
            ends = (0.0, pixels - 1.0) if self.advance_mm[axis, axis] > 0 else (pixels - 1.0, 0.0)
            return np.tile(np.linspace(*ends, self.count[axis]), (n, 1))
        target = self.first_mm[axis] + self.advance_mm[axis, axis] * np.arange(self.count[axis])
        start = self.layout.offset_mm[:, axis]
        if np.ptp(start) <= STEADY_MM:
            start = np.full(n, np.median(start))
        return np.asarray((target - start[:, None]) / pixel_mm)


def make_grid(layout: Layout, *, spacing_mm: Triple | None = None, zoom: Triple | None = None) -> Grid:
    """Place the output of a stack.

    Parameters
    ----------
    layout : Layout
    spacing_mm : (z, y, x) floats, mm, optional
    zoom : (z, y, x) floats, optional
        With neither, the scanner's own grid.

    Raises
    ------
    SeriesError
        ``inconsistent-slices`` or ``missing-slices``: zoom and the native grid take slices as they come, so
        their gaps must be equal.
    """
    permutation, flipped = _canonical(layout.axes)
    factors: Triple | None = None
    if spacing_mm is not None:
        count, first, advance = _place_by_spacing(layout, _to_own(spacing_mm, permutation))
    else:
        _require_regular(layout)
        factors = _to_own(zoom or (1.0, 1.0, 1.0), permutation)
        count, first, advance = _place_by_zoom(layout, factors)
    for axis in np.flatnonzero(flipped):
        first = first + advance[axis] * (count[axis] - 1)
        advance[axis] = -advance[axis]
    return Grid(layout, count, first, advance, permutation, factors)


def _canonical(axes: NDArray[np.float64]) -> tuple[Shape, NDArray[np.bool_]]:
    """Which own axis becomes z, y, x; which own axes must run backwards to grow to Superior, Posterior, Left."""
    toward = axes[:, ::-1]  # components towards S, P, L
    best = max(permutations(range(3)), key=lambda p: sum(abs(toward[p[a], a]) for a in range(3)))
    flipped = np.zeros(3, bool)
    for stored_axis, own_axis in enumerate(best):
        flipped[own_axis] = toward[own_axis, stored_axis] < 0
    return (best[0], best[1], best[2]), flipped


def _to_own(stored: Triple, permutation: Shape) -> Triple:
    own = [1.0, 1.0, 1.0]
    for value, own_axis in zip(stored, permutation, strict=True):
        own[own_axis] = value
    return (own[0], own[1], own[2])


def _place_by_spacing(layout: Layout, step_mm: Triple) -> tuple[Shape, NDArray[np.float64], NDArray[np.float64]]:
    low, high = layout.offset_mm[0, 0], layout.offset_mm[-1, 0]
    # A thousandth of a voxel: positions are printed numbers, their sum may fall just short of a whole one.
    count, first = [int(np.floor((high - low) / step_mm[0] + 1e-3)) + 1], [low]
    sides = ((layout.rows, layout.row_spacing_mm), (layout.columns, layout.column_spacing_mm))
    for axis, (pixels, pixel_mm) in enumerate(sides, start=1):
        starts = layout.offset_mm[:, axis]
        if np.ptp(starts) <= STEADY_MM:
            starts = np.median(starts, keepdims=True)
        left, right = starts.min() - pixel_mm / 2, starts.max() + (pixels - 0.5) * pixel_mm
        count.append(max(1, round((right - left) / step_mm[axis])))
        first.append((left + right) / 2 - step_mm[axis] * (count[axis] - 1) / 2)
    return (count[0], count[1], count[2]), np.array(first), np.diag(step_mm)


def _place_by_zoom(layout: Layout, factors: Triple) -> tuple[Shape, NDArray[np.float64], NDArray[np.float64]]:
    lengths = (len(layout.order), layout.rows, layout.columns)
    count = [round(n * f) for n, f in zip(lengths, factors, strict=True)]
    if min(count) < 1:
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES, f"zoom {factors} leaves nothing of {lengths} (slices, rows, columns)"
        )
    samples = [(n - 1) / (m - 1) if m > 1 else 1.0 for n, m in zip(lengths, count, strict=True)]
    advance = np.diag([0.0, layout.row_spacing_mm * samples[1], layout.column_spacing_mm * samples[2]])
    # From the first slice to the last as they are: a tilted stack keeps its shear, and the affine says so.
    moved = layout.offset_mm[-1] - layout.offset_mm[0]
    per_slice = moved / (lengths[0] - 1)
    if layout.gantry_tilt_deg == 0 and np.abs(moved[1:]).max() <= LOOSE_MM:
        per_slice[1:] = 0.0
    advance[0] = per_slice * samples[0]
    return (count[0], count[1], count[2]), layout.offset_mm[0].copy(), advance


def _require_regular(layout: Layout) -> None:
    gaps = layout.gaps_mm
    found = f"gaps along the normal run from {gaps.min():.3f} to {gaps.max():.3f} mm"
    if layout.missing.any():
        raise SeriesError(FailureCode.MISSING_SLICES, f"{found}; zoom and native need every slice")
    if not layout.is_even:
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES, "slices jump in plane; zoom and native need them on one line"
        )
    if not layout.is_regular:
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES, f"{found}; zoom and native need equal gaps, spacing-mm does not"
        )
    along = layout.offset_mm[:, 0]
    astray = float(np.abs(along - np.linspace(along[0], along[-1], len(along))).max())
    if astray > ASTRAY_SHARE * float(np.median(gaps)):
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES,
            f"{found} and add up to {astray:.3f} mm off an even spacing; zoom and native need equal gaps, "
            "spacing-mm does not",
        )


@lru_cache(maxsize=8)
def _zoom_operator(n: int, factor: float, *, flipped: bool) -> AxisOperator:
    return zoom_operator(n, factor, flipped=flipped)


def _operators(pixels: int, index: NDArray[np.float64], pixel_mm: float) -> Iterator[AxisOperator]:
    """One operator per slice; slices under which the grid lies alike share it."""
    sigma = anti_alias_sigma(float(index[0, 1] - index[0, 0])) if index.shape[1] > 1 else 0.0
    shared: AxisOperator | None = None
    previous: Sequence[float] | NDArray[np.float64] = ()
    for row in index:
        if shared is None or abs(row[0] - previous[0]) * pixel_mm > STEADY_MM:
            shared, previous = spline_operator(pixels, row, sigma=sigma), row
        yield shared
