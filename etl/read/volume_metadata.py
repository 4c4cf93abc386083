"""What a store says about one volume: its attributes as values with units."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError
from etl.volume.normalize import Normalization
from etl.volume.patient_space import LPS_TO_RAS


class VolumeMetadata:
    """The attributes of one series' group.

    Parameters
    ----------
    store_path : str
        Folder or URL of the store.
    node : str
        ``<patient key>/<series key>``.
    patient_id : str
        Patient ID (0010,0020).
    attributes : mapping
        Attributes of the group. A part that is asked for and missing is a `StoreError`.
    """

    def __init__(self, store_path: str, node: str, patient_id: str, attributes: Mapping[str, Any]) -> None:
        self.store_path = store_path
        self.node = node
        self.patient_id = patient_id
        self._attributes = attributes

    @property
    def key(self) -> str:
        """Series key."""
        return self.node.rpartition("/")[2]

    @property
    def attributes(self) -> dict[str, Any]:
        """Everything the store says about this volume: a copy of the attribute ``ct_etl``."""
        return deepcopy(dict(self._ct_etl))

    @property
    def geometry(self) -> dict[str, Any]:
        """The grid and the stack it came from, as stored; see `etl.volume.patient_space.Geometry`."""
        return deepcopy(dict(self._part("geometry")))

    @property
    def normalization(self) -> dict[str, Any]:
        """``window_hu``, ``center`` and ``precision_bits``."""
        return deepcopy(dict(self._part("normalization")))

    @property
    def warnings(self) -> list[str]:
        """Codes of what was unusual about the series."""
        return list(self._part("qc").get("warnings", ()))

    @property
    def dicom(self) -> dict[str, Any]:
        """Technical DICOM attributes by keyword."""
        return deepcopy(dict(self._attributes.get("dicom", {})))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = self._part("geometry")["shape"]
        return (int(z), int(y), int(x))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centers along (z, y, x), mm."""
        z, y, x = self._part("geometry")["spacing_mm"]
        return (float(z), float(y), float(x))

    @property
    def slice_axis(self) -> int:
        """The array axis along which the source slices advance."""
        return int(self._part("geometry")["slice_axis"])

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), from (k, j, i, 1) to DICOM patient coordinates in mm."""
        return np.array(self._part("geometry")["affine_lps"], np.float64)

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4), from (k, j, i, 1) to RAS mm, the convention of NIfTI and nibabel."""
        affine: NDArray[np.float64] = LPS_TO_RAS @ self.affine_lps
        return affine

    @property
    def window_hu(self) -> tuple[int, int]:
        """Hounsfield units that became 0 and 1 before centering."""
        low, high = self._part("normalization")["window_hu"]
        return (int(low), int(high))

    def hu_from(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert normalized values of this volume to Hounsfield units (float32, a new array)."""
        part = self._part("normalization")
        return Normalization(self.window_hu, float(part["center"]), part["precision_bits"]).to_hu(values)

    def values_of(self, hu: float) -> float:
        """Convert one value in Hounsfield units to what this volume stores for it, clipping included."""
        low, high = self.window_hu
        return min(max((hu - low) / (high - low), 0.0), 1.0) - float(self._part("normalization")["center"])

    def slice_line_mm(self) -> tuple[float, float]:
        """Give the position of plane 0 along the slice axis and the step to the next plane, mm."""
        affine = self.affine_lps
        column = affine[:3, self.slice_axis]
        step_mm = float(np.linalg.norm(column))
        return float(column @ affine[:3, 3]) / step_mm, step_mm

    @property
    def _ct_etl(self) -> Mapping[str, Any]:
        part: Mapping[str, Any] = self._attributes.get("ct_etl", {})
        return part

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self._ct_etl.get(name)
        if not isinstance(part, Mapping):
            raise StoreError(f"{self.store_path}: {self.node} has no attribute ct_etl.{name}")
        return part
