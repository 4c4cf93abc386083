"""Where the pixels of a slice's picture lie: pure geometry, true in patient space for tilted and oblique grids.

A picture shows one plane of the grid, turned and sheared so that lengths and angles are those in the patient: its
axes are the patient's, as near as they lie in the plane. Anterior is up in axial pictures, superior in the others;
the patient's right is on the viewer's left, and in sagittal pictures anterior is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl.volume.patient_space import Geometry

MAX_PICTURE_PX = 1024
# Of axial, coronal and sagittal pictures, in LPS.
_TO_THE_RIGHT = ((1, 0, 0), (1, 0, 0), (0, 1, 0))
_DOWN = ((0, 1, 0), (0, 0, -1), (0, 0, -1))
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Plane:
    """How the planes across one array axis are drawn.

    Parameters
    ----------
    axis : int
        0 axial, 1 coronal, 2 sagittal: the array axis across which they lie.
    size_px : (width, height)
        Of the picture.
    pixel_mm : float
        Side of a pixel.
    to_index : (2, 3) float64 array
        From (x, y, 1) of a picture to (column, row) of the plane, whose rows and columns are the array's remaining
        axes in their order; centers of pixels and of voxels lie at halves.
    letters : (left, right, top, bottom)
        Where the picture's edges lie in the patient: R, L, A, P, I, S, the nearest.
    """

    axis: int
    size_px: tuple[int, int]
    pixel_mm: float
    to_index: NDArray[np.float64]
    letters: tuple[str, str, str, str]

    def to_json(self) -> dict[str, object]:
        """Give it as plain JSON values, for the page."""
        return {
            "axis": self.axis,
            "size_px": list(self.size_px),
            "pixel_mm": self.pixel_mm,
            "to_index": self.to_index.tolist(),
            "letters": list(self.letters),
        }


def lay_out_plane(geometry: Geometry, axis: int, *, max_px: int = MAX_PICTURE_PX) -> Plane:
    """Lay out the pictures of planes across one array axis.

    Parameters
    ----------
    geometry : Geometry
    axis : {0, 1, 2}
        Axial, coronal or sagittal.
    max_px : int
        Longest side of a picture; its pixels are as small as the smaller spacing in the plane where they may.

    Returns
    -------
    Plane
    """
    rows_axis, columns_axis = (other for other in range(3) if other != axis)
    steps = np.column_stack([geometry.affine_lps[:3, columns_axis], geometry.affine_lps[:3, rows_axis]])
    right, down = _picture_axes(steps, _TO_THE_RIGHT[axis], _DOWN[axis])
    to_mm = np.stack([right, down]) @ steps
    counts = np.array([geometry.shape[columns_axis], geometry.shape[rows_axis]])
    corners = to_mm @ (np.array([[0, 1, 0, 1], [0, 0, 1, 1]]) * counts[:, None])
    low_mm, high_mm = corners.min(axis=1), corners.max(axis=1)
    extent_mm = high_mm - low_mm
    pixel_mm = max(float(np.linalg.norm(steps, axis=0).min()), float(extent_mm.max()) / max_px)
    # What rounding leaves of a whole number of pixels is not one more.
    width, height = (max(1, int(np.ceil(mm / pixel_mm - 1e-6))) for mm in extent_mm)
    to_index = np.linalg.inv(to_mm) @ np.column_stack([np.eye(2) * pixel_mm, low_mm])
    letters = (_letter(-right), _letter(right), _letter(-down), _letter(down))
    return Plane(axis, (width, height), pixel_mm, to_index, letters)


def _picture_axes(
    steps: NDArray[np.float64], to_the_right: Sequence[float], downwards: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the picture's axes in LPS: orthogonal, in the plane of two steps, as near to wanted ones as may be."""
    basis, _ = np.linalg.qr(steps)
    wanted_down = basis @ (basis.T @ np.array(downwards, np.float64))
    down = wanted_down / np.linalg.norm(wanted_down)
    wanted_right = basis @ (basis.T @ np.array(to_the_right, np.float64))
    across = wanted_right - (wanted_right @ down) * down
    return across / np.linalg.norm(across), down


def _letter(direction: NDArray[np.float64]) -> str:
    axis = int(np.abs(direction).argmax())
    return _LETTERS[axis][int(direction[axis] > 0)]
