"""Axis order and patient space: said here once, true everywhere in the package.

* Arrays are ``(z, y, x)`` = (slices, rows, columns); an index is ``(k, j, i)``.
* Patient space is DICOM's: millimeters, x to the patient's Left, y to Posterior, z to Superior ("LPS",
  DICOM PS3.3 C.7.6.2.1.1). Names say so: ``position_lps_mm``, ``affine_lps``.
* ``affine_lps`` maps the homogeneous index ``(k, j, i, 1)`` to ``(x, y, z, 1)`` in LPS mm; its last column is
  the center of voxel (0, 0, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etl.digests import json_digest

Number = TypeVar("Number", int, float)

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

    @staticmethod
    def from_attributes(attributes: Mapping[str, Any]) -> Geometry:
        """Read back what `to_attributes` gave.

        Raises
        ------
        KeyError, ValueError, TypeError
            Something is missing, or is not of its kind.
        """
        return Geometry(
            shape=_triple(int, attributes["shape"]),
            spacing_mm=_triple(float, attributes["spacing_mm"]),
            affine_lps=np.array(attributes["affine_lps"], np.float64).reshape(4, 4),
            source_shape=_triple(int, attributes["source_shape"]),
            source_spacing_mm=_triple(float, attributes["source_spacing_mm"]),
            slice_axis=int(attributes["slice_axis"]),
            gantry_tilt_deg=float(attributes["gantry_tilt_deg"]),
        )

    @property
    def grid_digest(self) -> str:
        """SHA-256 of where the voxels lie: what is drawn on the grid fits as long as it stays the same."""
        return json_digest({"shape": list(self.shape), "affine_lps": (self.affine_lps + 0.0).tolist()})

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4), from (k, j, i, 1) to RAS mm, the convention of NIfTI and nibabel."""
        affine: NDArray[np.float64] = LPS_TO_RAS @ self.affine_lps
        return affine

    def affine_lps_from(self, start: ArrayLike) -> NDArray[np.float64]:
        """Give the affine of a crop that begins at an index, which may lie outside; a new array."""
        affine = self.affine_lps.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(start)
        return affine

    @property
    def is_axis_aligned(self) -> bool:
        """Whether no voxel lies half a voxel or more from where spacing and origin alone would put it."""
        ideal = np.zeros((3, 3))
        ideal[::-1] = np.diag(self.spacing_mm)
        # The farthest corner of the grid; each axis adds what it deviates by.
        off_mm = np.abs(self.affine_lps[:3, :3] - ideal) @ (np.array(self.shape) - 1)
        return bool((off_mm < 0.5 * np.array(self.spacing_mm[::-1])).all())

    def along_slice_normal(
        self, position_mm: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn positions along the slice axis into positions along the normal of the slices.

        They differ where the grid is that of a tilted stack: its slice axis leans.

        Parameters
        ----------
        position_mm : (n,) float64 array
            As the store's source map has them.

        Returns
        -------
        (3,) float64 array
            Unit normal, LPS, within 90 degrees of the slice axis.
        (n,) float64 array
            Position along it, mm.
        """
        advance = self.affine_lps[:3, self.slice_axis]
        advance = advance / np.linalg.norm(advance)
        normal = np.cross(*np.delete(self.affine_lps[:3, :3], self.slice_axis, axis=1).T)
        normal *= np.sign(normal @ advance) / np.linalg.norm(normal)
        origin = self.affine_lps[:3, 3]
        return normal, normal @ origin + (position_mm - advance @ origin) * (normal @ advance)

    def coordinates_mm(self) -> tuple[NDArray[np.float64], ...]:
        """Give the centers of voxels along (z, y, x), LPS mm: right where the grid `is_axis_aligned`."""
        origin = self.affine_lps[:3, 3][::-1]
        return tuple(o + s * np.arange(n) for o, s, n in zip(origin, self.spacing_mm, self.shape, strict=True))


def _triple(kind: Callable[[Any], Number], values: Iterable[Any]) -> tuple[Number, Number, Number]:
    z, y, x = (kind(value) for value in values)
    return (z, y, x)
