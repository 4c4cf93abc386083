"""Which volumes a data set draws from: chosen once, kept as columns, opened where they are read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError, UsageError
from etl.read.patients import Store, Volume, open_store
from etl.store.fingerprint import body_threshold
from etl.training.criteria import Where, chosen
from etl.volume.body import CELL_VOXELS, body_shares

SeriesChoice = Literal["default", "all"]
StoreLike = str | os.PathLike[str] | Store
MAX_OPEN_VOLUMES = 256


@dataclass(eq=False)
class VolumeTable:
    """Chosen volumes of one or several stores, by patient ID and series key; what is pickled are paths.

    Parameters
    ----------
    rows : list of (str, str, str)
        Path of the store, node, patient ID.
    shapes : (n, 3) int64 array
        (z, y, x) voxels.
    targets : (n, targets) float32 array
        What tables say of each volume.
    """

    rows: list[tuple[str, str, str]]
    shapes: NDArray[np.int64]
    targets: NDArray[np.float32]
    _opened: dict[int, Volume] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __getitem__(self, number: int) -> Volume:
        volume = self._opened.get(number)
        if volume is None:
            volume = Volume(*self.rows[number])
            if len(self._opened) >= MAX_OPEN_VOLUMES:
                self._opened.clear()
            self._opened[number] = volume
        return volume


def choose_volumes(
    stores: StoreLike | Sequence[StoreLike],
    *,
    series: SeriesChoice = "default",
    patients: Iterable[str] | None = None,
    where: Where | None = None,
    labels: Collection[str] = (),
    targets: Collection[str] = (),
) -> VolumeTable:
    """Choose the volumes of a data set.

    Parameters
    ----------
    stores : path, URL, Store, or several
    series : {"default", "all"}
        The default series of every patient, or everything.
    patients : iterable of str, optional
        Only these Patient IDs.
    where : callable or mapping, optional
        Only volumes for which it is true, or whose columns and verdict are these: see `chosen`.
    labels : collection of str
        Labels that every volume must have.
    targets : collection of str
        Columns of numbers that every volume must have.

    Raises
    ------
    UsageError
        An argument is out of its range, a patient is in no store or in several, nothing is left, or a volume
        lacks a label or a target.
    StoreError
        There is no store, or a patient's default series is not in it.
    """
    if series not in get_args(SeriesChoice):
        raise UsageError(f"series {series!r}: allowed is 'default' or 'all'")
    several = stores if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]
    opened = [one if isinstance(one, Store) else open_store(one) for one in several]
    volumes = [
        volume
        for patient_id, store in _patients(opened, patients)
        for volume in _series(store, patient_id, series)
    ]
    volumes = chosen(volumes, where)
    if not volumes:
        raise UsageError(f"no volume of {', '.join(store.path for store in opened)} is chosen")
    for volume in volumes if labels else ():
        check_labels(volume, labels)
    numbers = [_numbers(volume, targets) for volume in volumes]
    rows = [(volume.store_path, volume.node, volume.patient_id) for volume in volumes]
    return VolumeTable(
        rows,
        np.array([volume.shape for volume in volumes], np.int64),
        np.array(numbers, np.float32).reshape(len(volumes), len(targets)),
    )


def check_labels(volume: Volume, labels: Collection[str]) -> None:
    """Refuse a volume that lacks a label, naming those that it has."""
    if isinstance(labels, str):
        raise UsageError(f"labels {labels!r}: allowed is a sequence of names, as ({labels!r},)")
    there = volume.labels
    missing = sorted(set(labels) - set(there))
    if missing:
        raise UsageError(
            f"{volume.node} has no label {missing[0]!r}; it has {', '.join(there) if there else 'none'} "
            "(where= chooses volumes; columns of tables are targets=)"
        )


def _numbers(volume: Volume, targets: Collection[str]) -> list[float]:
    """Give the values of columns of a volume, true as 1."""
    if isinstance(targets, str):
        raise UsageError(f"targets {targets!r}: allowed is a sequence of names, as ({targets!r},)")
    columns = volume.columns if targets else {}
    for name in targets:
        if not isinstance(columns.get(name), int | float):
            raise UsageError(
                f"{volume.node}: column {name!r} has {columns.get(name)!r}; a number is needed (where= chooses "
                f"volumes; there are columns {', '.join(columns) or 'none'})"
            )
    return [float(columns[name]) for name in targets]


def _patients(stores: Sequence[Store], patients: Iterable[str] | None) -> list[tuple[str, Store]]:
    """Patient IDs in order, with their store."""
    if isinstance(patients, str):
        raise UsageError(f"patients {patients!r}: allowed is a collection of Patient IDs")
    where: dict[str, Store] = {}
    for store in stores:
        for patient_id in store:
            if patient_id in where:
                raise UsageError(f"patient {patient_id!r} is in {where[patient_id].path} and in {store.path}")
            where[patient_id] = store
    wanted = where if patients is None else set(patients)
    missing = sorted(set(wanted) - set(where))
    if missing:
        raise UsageError(f"patients: {len(missing)} are in no store, {missing[0]!r} among them")
    return [(patient_id, where[patient_id]) for patient_id in sorted(wanted)]


def _series(store: Store, patient_id: str, series: SeriesChoice) -> list[Volume]:
    patient = store[patient_id]
    return [patient.default] if series == "default" else list(patient.values())


def body_cells(volume: Volume) -> NDArray[np.uint8]:
    """Give the share of body in each cell of `CELL_VOXELS` of a volume.

    It stands in stores of format 1.1; of older ones the volume is read.
    """
    found = volume.optional_array("body")
    if found is None:
        return body_shares(volume[...], above=body_threshold(volume.normalization))
    expected = tuple(-(-n // CELL_VOXELS) for n in volume.shape)
    if found.shape != expected:
        raise StoreError(f"{volume.node}/body has shape {found.shape}; {expected} is expected")
    return np.asarray(found, np.uint8)
