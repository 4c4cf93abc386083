"""Whole volumes, one an entry."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np

from etl.training.batches import Example, load_torch
from etl.training.criteria import Where
from etl.training.crop_reader import CropReader, DType, Values
from etl.training.volume_table import SeriesChoice, StoreLike, choose_volumes


class VolumeDataset:
    """Whole volumes, ordered by patient ID and series key; entries as of a `CropDataset` with the volume's shape.

    Volumes differ in shape, so a loader takes them with ``batch_size=None`` or 1.

    Parameters
    ----------
    stores, labels, targets, patients, where, values, dtype, transform, series
        See `CropDataset`.

    Raises
    ------
    ImportError, UsageError, StoreError
        See `CropDataset`.
    """

    def __init__(
        self,
        stores: StoreLike | Sequence[StoreLike],
        *,
        labels: Sequence[str] = (),
        targets: Sequence[str] = (),
        patients: Iterable[str] | None = None,
        where: Where | None = None,
        values: Values = "normalized",
        dtype: DType = "float32",
        transform: Callable[[Example], Any] | None = None,
        series: SeriesChoice = "default",
    ) -> None:
        load_torch()
        self._table = choose_volumes(
            stores, series=series, patients=patients, where=where, labels=labels, targets=targets
        )
        self._options = (tuple(labels), values, dtype)
        self._transform = transform
        self._reader(0)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: SupportsIndex) -> Any:
        """Read one volume; an `IndexError` where `index` is beyond the last."""
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"entry {number}: allowed is {-len(self)} to {len(self) - 1}")
        number %= len(self)
        [example] = self._reader(number).read([number], [np.zeros(3, np.int64)])
        return example if self._transform is None else self._transform(example)

    def _reader(self, number: int) -> CropReader:
        z, y, x = self._table.shapes[number].tolist()
        return CropReader(self._table, (z, y, x), *self._options)
