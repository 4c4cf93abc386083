"""Where the planes lie on which a mask was drawn, and which of them belong together.

The planes are parallel; each has a corner of its own, so they may lie at any distances and wander sideways, as
those of a tilted gantry do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Planes farther apart than this many usual distances do not belong together: between them there is nothing.
WIDE_GAP = 1.5 + 1e-3
# Contours farther apart than this many slices are two structures, not one that was drawn sparsely.
MAX_SLICES_APART = 4.0
# Of the usual distance; a plane that is nearer to a slice lies on it.
SAME_SLICE_SHARE = 0.1
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
    wide : (n - 1,) bool array, optional
        Gaps in which there is nothing; those of more than 1.5 median distances where not given.
    """

    origins_lps_mm: Float64
    down_mm: Float64
    along_mm: Float64
    lone_mm: float
    wide: NDArray[np.bool_] | None = None

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

    def among(self, slices_mm: Float64, *, only_wide: bool) -> tuple[MaskPlanes, NDArray[np.int64]]:
        """Add the slices on which nothing was drawn, as planes without pixels: a structure ends half way to them.

        Neighboring slices belong together, however far apart: one scan may have slices of 2 and of 5 mm.

        Parameters
        ----------
        slices_mm : (n,) float64 array
            Positions of the slices along the normal, in any order. Where a plane lies on none of them, the mask
            was not drawn on these slices, and none is added.
        only_wide : bool
            Add those beyond the ends and in wide gaps only: whoever drew left out what lies between.

        Returns
        -------
        MaskPlanes
        (n,) int64 array
            Where each plane is now.
        """
        own, slices_mm = self.position_mm, np.sort(slices_mm)
        slices_apart = np.diff(np.interp(own, slices_mm, np.arange(len(slices_mm))))
        usual = min(np.median(slices_apart), MAX_SLICES_APART) if len(slices_apart) else 1.0
        is_wide = self.is_wide & (slices_apart > WIDE_GAP * usual)
        distance = np.abs(own[:, None] - slices_mm)
        near = SAME_SLICE_SHARE * min(self.usual_gap_mm, self.lone_mm)
        if (distance.min(axis=1) > near).any():
            return replace(self, wide=is_wide), np.arange(len(own))
        empty = slices_mm[distance.min(axis=0) > near]
        if only_wide:
            is_open = np.concatenate([[True], is_wide, [True]])
            empty = empty[is_open[np.searchsorted(own, empty)]]
        positions = np.concatenate([own, empty])
        order = np.argsort(positions, kind="stable")
        corners = self.origins_lps_mm[0] + (empty - own[0])[:, None] * self.normal
        origins = np.concatenate([self.origins_lps_mm, corners])[order]
        planes = replace(self, origins_lps_mm=origins, wide=np.zeros(len(origins) - 1, bool))
        return planes, np.argsort(order, kind="stable")[: len(own)]

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns, mm."""
        return float(np.linalg.norm(self.down_mm)), float(np.linalg.norm(self.along_mm))

    @cached_property
    def is_wide(self) -> NDArray[np.bool_]:
        """(n - 1,) gaps in which there is nothing."""
        gaps = np.diff(self.position_mm)
        if self.wide is not None or not len(gaps):
            return np.zeros(len(gaps), bool) if self.wide is None else self.wide
        return np.asarray(gaps > WIDE_GAP * np.median(gaps))

    @cached_property
    def usual_gap_mm(self) -> float:
        """Distance of neighbors that belong together."""
        gaps = np.diff(self.position_mm)[~self.is_wide]
        return float(np.median(gaps)) if len(gaps) else self.lone_mm

    @cached_property
    def slabs_mm(self) -> tuple[Float64, Float64]:
        """How far each plane reaches down and up: half way to its neighbors, at the ends as far as inwards."""
        gaps = np.where(self.is_wide, self.usual_gap_mm, np.diff(self.position_mm))
        first, last = (gaps[:1], gaps[-1:]) if len(gaps) else ([self.lone_mm], [self.lone_mm])
        return np.concatenate([first, gaps]) / 2, np.concatenate([gaps, last]) / 2
