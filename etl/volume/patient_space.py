"""Axis order and patient space: said here once, true everywhere in the package.

* Arrays are ``(z, y, x)`` = (slices, rows, columns); an index is ``(k, j, i)``.
* Patient space is DICOM's: millimeters, x to the patient's Left, y to Posterior, z to Superior ("LPS",
  DICOM PS3.3 C.7.6.2.1.1). Names say so: ``position_lps_mm``, ``affine_lps``.
* ``affine_lps`` maps the homogeneous index ``(k, j, i, 1)`` to ``(x, y, z, 1)`` in LPS mm; its last column is
  the center of voxel (0, 0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of one stored volume.

    Parameters
    ----------
    shape : tuple of int
        (z, y, x).
    spacing_mm : tuple of float
        Distance between voxel centers along (z, y, x), mm.
    affine_lps : (4, 4) float64 array
        From (k, j, i, 1) to LPS mm.
    source_shape : tuple of int
        (slices, rows, columns) of the DICOM stack, in the axis order of the volume.
    source_spacing_mm : tuple of float
        Median distance between slices along the normal, then between rows and columns, in the axis order of
        the volume, mm.
    slice_axis : int
        The array axis along which the source slices advance: 0 for axial acquisitions, 1 for coronal, 2 for
        sagittal.
    gantry_tilt_deg : float
        Angle between the slice normal and the direction in which slices advance, about the row axis; 0 where
        the stack is upright.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine_lps: NDArray[np.float64]
    source_shape: tuple[int, int, int]
    source_spacing_mm: tuple[float, float, float]
    slice_axis: int
    gantry_tilt_deg: float

    def to_attributes(self) -> dict[str, object]:
        """Give the store's ``geometry`` attribute (plain JSON values)."""
        return {
            "affine_lps": self.affine_lps.tolist(),
            "spacing_mm": list(self.spacing_mm),
            "shape": list(self.shape),
            "source_shape": list(self.source_shape),
            "source_spacing_mm": list(self.source_spacing_mm),
            "slice_axis": self.slice_axis,
            "gantry_tilt_deg": self.gantry_tilt_deg,
        }
