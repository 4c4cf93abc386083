"""Read a store: patients by patient ID, a patient's volumes by series key, a volume's voxels by index.

Opening a store reads metadata only. Everything here may be shared between threads and sent to other
processes: what travels is the path, and each process opens its own arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from etl.errors import StoreError
from etl.read.catalog import read_catalog, read_some
from etl.read.consolidated import Groups
from etl.read.optional_library import optional_library
from etl.read.source_slices import SourceSlice
from etl.read.stored_volume import Volume
from etl.read.table import table_of

__all__ = ["Patient", "SourceSlice", "Store", "Volume", "open_some", "open_store"]


class Patient(Mapping[str, Volume]):
    """The volumes of one patient, by series key."""

    def __init__(
        self,
        store_path: str,
        key: str,
        patient_id: str,
        default_key: str,
        series: Mapping[str, bytes],
        about: Mapping[str, Any],
    ) -> None:
        self.patient_id = patient_id
        self.key = key
        self.default_key = default_key
        self._volumes = {
            name: Volume(store_path, f"{key}/{name}", patient_id, text, about)
            for name, text in sorted(series.items())
        }

    def __getitem__(self, series_key: str) -> Volume:
        return self._volumes[series_key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._volumes)

    def __len__(self) -> int:
        return len(self._volumes)

    def __repr__(self) -> str:
        return f"<Patient {self.patient_id!r}: volumes {', '.join(self)}; default {self.default_key!r}>"

    @property
    def default(self) -> Volume:
        """The volume of the default series.

        Raises
        ------
        StoreError
            The series that the store names as the default is not in it.
        """
        if self.default_key not in self._volumes:
            raise StoreError(
                f"patient {self.patient_id!r}: the default series {self.default_key!r} is not in the store; "
                f"there are {', '.join(self)}"
            )
        return self._volumes[self.default_key]


class Store(Mapping[str, Patient]):
    """One store: patients by patient ID. Open it with `open_store`.

    What stays in memory of a series is the text of its metadata; patients and volumes are made when asked for.
    """

    def __init__(self, path: str, attributes: Mapping[str, Any], groups: Groups) -> None:
        self.path = path
        self._attributes = attributes
        self._groups = groups
        keys: dict[str, str] = {}
        for key in groups:
            patient_id = self._about(key)[0]
            if patient_id in keys:
                raise StoreError(f"{path}: {keys[patient_id]} and {key} are both patient {patient_id!r}")
            keys[patient_id] = key
        self._keys = dict(sorted(keys.items()))

    def __getitem__(self, patient_id: str) -> Patient:
        key = self._keys[patient_id]
        about, series = self._groups[key]
        return Patient(self.path, key, *self._about(key), series, about)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, patient_id: object) -> bool:
        return patient_id in self._keys

    def _about(self, key: str) -> tuple[str, str]:
        """Patient ID, and key of the default series."""
        about, series = self._groups[key]
        if "patient_id" in about and "default_series" in about:
            return str(about["patient_id"]), str(about["default_series"])
        # A run that is not finished has series without their patient's group yet.
        first = min(series)
        known = {**Volume(self.path, f"{key}/{first}", key, series[first]).attributes, **about}
        return str(known.get("patient_id", key)), str(about.get("default_series", first))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return open_store, (self.path,)

    def __repr__(self) -> str:
        volumes = sum(len(series) for _, series in self._groups.values())
        return f"<Store {self.path!r}: {len(self)} patients, {volumes} volumes>"

    def rows(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Give what `table` gives without pandas: the names of columns, and a dictionary a volume."""
        return table_of(
            (volume, key == patient.default_key) for patient in self.values() for key, volume in patient.items()
        )

    def table(self) -> Any:
        """Give every volume as a row: what the store says of it, its DICOM attributes, and joined tables.

        Returns
        -------
        pandas.DataFrame
            By patient ID and series key; `table_of` names the columns.

        Raises
        ------
        UsageError
            pandas is not installed.
        """
        pandas = optional_library("pandas", wanted_for="Store.table", install="ct-etl[table]")
        names, rows = self.rows()
        return pandas.DataFrame(rows, columns=names)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that every volume was made with."""
        return deepcopy(dict(self._attributes.get("config", {})))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Volumes, voxels and Hounsfield statistics of the whole store; empty until a run has finished."""
        return deepcopy(dict(self._attributes.get("fingerprint") or {}))

    @property
    def attributes(self) -> dict[str, Any]:
        """Everything the store says about itself: a copy of the root's attribute ``ct_etl``."""
        return deepcopy(dict(self._attributes))


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store for reading.

    Parameters
    ----------
    path : str or path
        A folder, or a URL that zarr understands.

    Returns
    -------
    Store
        Only what is complete: a volume that is still being written is not there yet. Patients without a
        volume are left out.

    Raises
    ------
    StoreError
        There is nothing at `path`, it was not written by this package, or its format is newer.
    """
    where = _whole_path(path)
    return Store(where, *read_catalog(where))


def open_some(path: str | os.PathLike[str], nodes: Iterable[str]) -> Store:
    """Open a store as if it had some series alone, whatever else is in it.

    Parameters
    ----------
    path : str or path
    nodes : iterable of str
        ``<patient key>/<series key>``; those that are not there are left out.

    Raises
    ------
    StoreError
        As `open_store`.
    """
    where = _whole_path(path)
    return Store(where, *read_some(where, nodes))


def _whole_path(path: str | os.PathLike[str]) -> str:
    return str(path) if "://" in str(path) else str(Path(path).absolute())
