"""What a store says about one volume: its attributes as values with units."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError
from etl.read.catalog import read_node
from etl.read.joined import joined_columns
from etl.volume.normalize import Normalization
from etl.volume.patient_space import Geometry

Part = TypeVar("Part")


class VolumeMetadata:
    """The attributes of one series' group, read when they are first asked for.

    Parameters
    ----------
    store_path : str
        Folder or URL of the store.
    node : str
        ``<patient key>/<series key>``.
    patient_id : str
        Patient ID (0010,0020).
    text : bytes, optional
        The group's ``zarr.json``; read from the store where not given.
    patient : mapping, optional
        The patient's attribute ``ct_etl``; read from the store where not given.
    """

    def __init__(
        self,
        store_path: str,
        node: str,
        patient_id: str,
        text: bytes | None = None,
        patient: Mapping[str, Any] | None = None,
    ) -> None:
        self.store_path = store_path
        self.node = node
        self.patient_id = patient_id
        self._text = text
        self._patient = patient

    @property
    def key(self) -> str:
        """Series key."""
        return self.node.rpartition("/")[2]

    @cached_property
    def geometry(self) -> Geometry:
        """The grid and the stack it came from."""
        return self._part("geometry", Geometry.from_attributes)

    @cached_property
    def normalization(self) -> Normalization:
        """How stored values map back to Hounsfield units."""
        return self._part("normalization", Normalization.from_attributes)

    @property
    def attributes(self) -> dict[str, Any]:
        """Everything the store says about this volume: a copy of the attribute ``ct_etl``."""
        return deepcopy(dict(self._attributes.get("ct_etl", {})))

    def has_array(self, name: str) -> bool:
        """Whether the series says that it consists of an array; one of format 1.0 does not say."""
        arrays = self._attributes["ct_etl"].get("arrays")
        return isinstance(arrays, list) and name in arrays

    @property
    def warnings(self) -> list[str]:
        """Codes of what was unusual about the series."""
        return self._part("qc", lambda qc: list(qc.get("warnings", ())))

    @property
    def dicom(self) -> dict[str, Any]:
        """Technical DICOM attributes by keyword."""
        return deepcopy(dict(self._attributes.get("dicom", {})))

    @property
    def columns(self) -> dict[str, Any]:
        """What joined tables say of this volume, by column: int, float, bool, str or None."""
        patient = self._patient
        if patient is None:
            patient = _ct_etl_of(read_node(self.store_path, self.node.partition("/")[0]))
        return joined_columns(patient, self._attributes["ct_etl"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return self.geometry.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centers along (z, y, x), mm."""
        return self.geometry.spacing_mm

    @property
    def slice_axis(self) -> int:
        """The array axis along which the source slices advance."""
        return self.geometry.slice_axis

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), from (k, j, i, 1) to DICOM patient coordinates in mm."""
        return self.geometry.affine_lps.copy()

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4), from (k, j, i, 1) to RAS mm, the convention of NIfTI and nibabel."""
        return self.geometry.affine_ras

    @property
    def window_hu(self) -> tuple[int, int]:
        """Hounsfield units that became 0 and 1 before centering."""
        return self.normalization.window_hu

    def hu_from(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert normalized values of this volume to Hounsfield units (float32, a new array)."""
        return self.normalization.to_hu(values)

    def values_of(self, hu: float) -> float:
        """Convert one value in Hounsfield units to what this volume stores for it, clipping included."""
        return self.normalization.value_of(hu)

    def slice_line_mm(self) -> tuple[float, float]:
        """Give the position of plane 0 along the slice axis and the step to the next plane, mm."""
        affine = self.geometry.affine_lps
        column = affine[:3, self.slice_axis]
        step_mm = float(np.linalg.norm(column))
        return float(column @ affine[:3, 3]) / step_mm, step_mm

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        text = self._text if self._text is not None else read_node(self.store_path, self.node)
        try:
            attributes: Mapping[str, Any] = json.loads(text)["attributes"]
            attributes["ct_etl"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.store_path}: {self.node} has no attribute ct_etl") from error
        return attributes

    def _part(self, name: str, parse: Callable[[Mapping[str, Any]], Part]) -> Part:
        """Parse a part of ``ct_etl``; one that is missing or of another kind is a `StoreError`."""
        try:
            return parse(self._attributes["ct_etl"][name])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self.store_path}: {self.node} has no attribute ct_etl.{name} ({error!r})"
            ) from error


def _ct_etl_of(text: bytes) -> Mapping[str, Any]:
    """Give the attribute ``ct_etl`` of a patient; empty where it has none."""
    try:
        found = json.loads(text)["attributes"]["ct_etl"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, Mapping) else {}
