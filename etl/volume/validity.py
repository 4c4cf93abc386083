"""Which voxels were measured: a map beside the volume, on the same grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from etl.volume.grid import Grid
from etl.volume.hounsfield import AIR_HU
from etl.volume.slice_weights import SliceWeights

OUTSIDE, MEASURED, INTERPOLATED = 0, 1, 2
# Rounding; a share of 1e-4 of the step from tissue to air would be 0.1 HU already.
MIN_WEIGHT = 1e-6


class ValidityMap:
    """Follows the slices of a stack to its grid and notes what was not measured.

    A voxel is 0 where a slice it is made of does not reach it or holds padding there, 2 where it lies between two
    slices of which the one in between is lost or that are too thin to reach across, else 1.

    Parameters
    ----------
    grid : Grid
    across : SliceWeights
        `Grid.across`.
    """

    def __init__(self, grid: Grid, across: SliceWeights) -> None:
        self._across = across
        self._count = grid.count
        self._rows, self._columns = grid.layout.rows, grid.layout.columns
        self._row_index, self._column_index = grid.row_index(), grid.column_index()
        self._interpolated = _lost_planes(grid)
        self._valid: NDArray[np.bool_] | None = None
        self._last: tuple[NDArray[np.bool_] | None, float, float, NDArray[np.bool_]] | None = None
        self._noted: dict[int, NDArray[np.bool_]] = {}

    def watch(
        self, planes: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_] | None]], *, fill: bool
    ) -> Iterator[NDArray[np.float32]]:
        """Pass the slices on, noting their padding.

        Parameters
        ----------
        planes : iterable of (hu, padded)
            `padded` is a (rows, columns) bool array, or None; padding is overwritten. The same array for
            slices of one mask saves time.
        fill : bool
            Put the nearest measured value where padding is, so that the edge between them does not ring; what is
            outside is taken out of the result afterwards. Else padding becomes air.
        """
        filled = PaddingFill(with_nearest=fill)
        for k, (hu, padded) in enumerate(planes):
            self._note(k, padded)
            yield hu if padded is None else filled(hu, padded)

    def result(self) -> NDArray[np.uint8] | None:
        """Give the map in the stack's own axes, (planes, rows, columns); None where all was measured."""
        if self._valid is None and not self._interpolated.any():
            return None
        # True and False are MEASURED and OUTSIDE already.
        codes = np.full(self._count, MEASURED, np.uint8) if self._valid is None else self._valid.view(np.uint8)
        codes[self._interpolated] *= INTERPOLATED
        return None if (codes == MEASURED).all() else codes

    def _note(self, k: int, padded: NDArray[np.bool_] | None) -> None:
        rows, columns = self._row_index[k], self._column_index[k]
        row_inside, column_inside = _inside(rows, self._rows), _inside(columns, self._columns)
        if padded is None and row_inside.all() and column_inside.all():
            return
        valid = self._valid_of(rows, columns, padded)
        if self._valid is None:
            self._valid = np.ones(self._count, bool)
        planes, weights = self._across[k]
        for plane in planes[np.abs(weights) > MIN_WEIGHT].tolist():
            # Once is enough for slices of one mask and grid.
            if self._noted.get(plane) is not valid:
                self._valid[plane] &= valid
                self._noted[plane] = valid

    def _valid_of(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], padded: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_]:
        """Look a slice up under each output sample: the same array as before for the same mask and grid."""
        last = self._last
        if last is None or (last[1], last[2]) != (rows[0], columns[0]) or last[0] is not padded:
            valid = np.logical_and.outer(_inside(rows, self._rows), _inside(columns, self._columns))
            if padded is not None:
                valid &= ~padded[np.ix_(_nearest(rows, self._rows), _nearest(columns, self._columns))]
            last = self._last = padded, float(rows[0]), float(columns[0]), valid
        return last[3]


class PaddingFill:
    """Fills padding with air or the nearest measured pixel; slices of a series mostly share one mask."""

    def __init__(self, *, with_nearest: bool) -> None:
        self._with_nearest = with_nearest
        self._mask: NDArray[np.bool_] | None = None
        self._at: NDArray[np.intp] = np.empty(0, np.intp)
        self._from: NDArray[np.intp] | None = None

    def __call__(self, hu: NDArray[np.float32], padded: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Fill the padding of one slice in place where it is contiguous, else in a copy."""
        if self._mask is not padded:
            # Flat positions: twice as quick as a mask or pairs, and this is done for every slice.
            self._mask, self._at = padded, np.flatnonzero(padded)
            self._from = _nearest_measured(padded) if self._with_nearest and not padded.all() else None
        hu = np.ascontiguousarray(hu)
        flat = hu.reshape(-1)
        flat[self._at] = AIR_HU if self._from is None else flat.take(self._from)
        return hu


def _nearest_measured(padded: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Give the flat position of the nearest measured pixel for each padded one."""
    # It takes 0.3 s to load, and most series have no padding.
    from scipy import ndimage  # noqa: PLC0415

    rows, columns = ndimage.distance_transform_edt(padded, return_distances=False, return_indices=True)
    flat: NDArray[np.intp] = np.ravel_multi_index((rows[padded], columns[padded]), padded.shape)
    return flat


def _lost_planes(grid: Grid) -> NDArray[np.bool_]:
    """Planes strictly between two slices that a gap separates."""
    layout = grid.layout
    position = grid.first_mm[0] + grid.advance_mm[0, 0] * np.arange(grid.count[0])
    lost = np.zeros(grid.count[0], bool)
    for gap in np.flatnonzero(layout.interpolated):
        low, high = layout.offset_mm[gap, 0], layout.offset_mm[gap + 1, 0]
        lost |= (position > low + 1e-3) & (position < high - 1e-3)
    return lost


def _inside(index: NDArray[np.float64], pixels: int) -> NDArray[np.bool_]:
    return np.asarray((index >= -0.501) & (index <= pixels - 0.499))


def _nearest(index: NDArray[np.float64], pixels: int) -> NDArray[np.intp]:
    return np.clip(np.rint(index), 0, pixels - 1).astype(np.intp)
