"""Random crops that read only the blocks they need."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, SupportsIndex, get_args

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.training.batches import Example, load_torch
from etl.training.criteria import Where
from etl.training.crop_reader import CropReader, DType, Values
from etl.training.places import Places, Sampling
from etl.training.sampler import Draw
from etl.training.volume_table import SeriesChoice, StoreLike, choose_volumes


class CropDataset:
    """Random crops of one shape: the same for the same `seed`, epoch and index, whatever the workers.

    A map-style data set for PyTorch's DataLoader and for `ThreadLoader`. A plain index gives the crops of epoch 0;
    `CropSampler` gives other ones every epoch. An entry is a dictionary:

    * ``image``: tensor (1, z, y, x), float32 or int16
    * ``label``: tensor (labels, z, y, x), uint8 or uint16 in the order of `labels`; only where there are some
    * ``target``: float32 tensor (targets,), in the order of `targets`; only where there are some
    * ``affine_lps``, ``affine_ras``: float64 tensors (4, 4), from (k, j, i, 1) of this very crop to mm
    * ``patient_id``, ``series_key``: str
    * ``start``: int64 tensor (3,), (z, y, x) of the first voxel in the volume; negative where the crop juts out
    * ``step``: float32 tensor (), with int16 only: what `normalize` multiplies with

    A crop lies anywhere inside its volume. Along an axis on which the volume is smaller, the volume lies anywhere
    inside the crop, and the rest is air, and label 0.

    Parameters
    ----------
    stores : path, URL, Store, or several
        No patient may be in two of them.
    shape : (z, y, x)
        Voxels of a crop; one number for a cube.
    labels : sequence of str
        Arrays ``labels/<name>`` of each series: `Volume.labels`.
    targets : sequence of str
        Columns of tables that ``ct-etl label`` joined, with a number for every volume: `Volume.columns`.
    patients : iterable of str, optional
        Only these Patient IDs; see `split_patients`.
    where : callable or mapping, optional
        Only volumes for which it is true: ``lambda volume: volume.dicom.get("KVP") == 120``; or whose columns have
        these values, or one of several: ``{"R1:ICH": 1, "site": ("A", "B")}``; or those with a verdict beside the
        store: ``{"verdict": "keep"}``, ``"none"`` for the unjudged.
    values : {"normalized", "hu"}
        As stored, or Hounsfield units within the store's window.
    dtype : {"float32", "int16"}
        int16: whole steps, half the bytes to a GPU, where `normalize` makes them float32.
    sampling : {"uniform", "body", "label"}
        Anywhere; centered on body (above -500 HU, by a map of cells of 16 voxels in the store); or `foreground` of
        the crops centered on a voxel with a label, one of `labels` as often as the other, and the rest on body.
    foreground : float
        Share of crops for ``sampling="label"``.
    min_valid : float
        Draw again, 16 times at most, while less than this share of the crop was measured (`Volume.validity`).
    transform : callable, optional
        Called with each entry; gives what the data set gives.
    crops_per_volume : int
        Entries drawn from each volume in an epoch.
    seed : int
        Not negative.
    series : {"default", "all"}
        The default series of every patient, or everything.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    UsageError
        An argument is out of its range, or a patient or a label is not there.
    StoreError
        There is no store, or a patient's default series is not in it.
    """

    def __init__(  # noqa: PLR0913 - the whole choice of a training set, by keyword
        self,
        stores: StoreLike | Sequence[StoreLike],
        shape: SupportsIndex | Sequence[SupportsIndex] = (96, 96, 96),
        *,
        labels: Sequence[str] = (),
        targets: Sequence[str] = (),
        patients: Iterable[str] | None = None,
        where: Where | None = None,
        values: Values = "normalized",
        dtype: DType = "float32",
        sampling: Sampling = "uniform",
        foreground: float = 0.33,
        min_valid: float = 0.0,
        transform: Callable[[Example], Any] | None = None,
        crops_per_volume: int = 8,
        seed: int = 0,
        series: SeriesChoice = "default",
    ) -> None:
        load_torch()
        _check_choice("sampling", sampling, Sampling)
        for name, share in (("foreground", foreground), ("min_valid", min_valid)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} {share}: allowed is 0 to 1")
        if sampling == "label" and not labels:
            raise UsageError("sampling 'label' needs labels=(name, ...)")
        self.shape = crop_shape(shape)
        self._crops = whole_number("crops_per_volume", crops_per_volume, 1)
        self._seed = whole_number("seed", seed, 0)
        table = choose_volumes(
            stores, series=series, patients=patients, where=where, labels=labels, targets=targets
        )
        self._reader = CropReader(table, self.shape, tuple(labels), values, dtype)
        self._places = Places(table, self.shape, sampling, foreground, min_valid, tuple(labels))
        self._transform = transform

    def __len__(self) -> int:
        return len(self._reader.table) * self._crops

    def __getitem__(self, index: SupportsIndex | Draw) -> Any:
        """Read one crop; an `IndexError` where `index` is beyond the last."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex | Draw]) -> list[Any]:
        """Read several crops into one batch: what PyTorch's loaders call.

        Returns
        -------
        list of dict
            `collate` takes it without copying, unless there is a `transform`.
        """
        draws = [self._draw(index) for index in indices]
        numbers = [index // self._crops for _, index in draws]
        starts = [self._start(number, *draw) for number, draw in zip(numbers, draws, strict=True)]
        batch = self._reader.read(numbers, starts)
        return batch if self._transform is None else [self._transform(example) for example in batch]

    def _draw(self, index: SupportsIndex | Draw) -> tuple[int, int]:
        epoch, number = index if isinstance(index, Draw) else (0, operator.index(index))
        if not -len(self) <= number < len(self):
            raise IndexError(f"entry {number}: allowed is {-len(self)} to {len(self) - 1}")
        return epoch, number % len(self)

    def _start(self, number: int, epoch: int, index: int) -> NDArray[np.int64]:
        return self._places.draw(number, np.random.default_rng((self._seed, epoch, index)))


def crop_shape(shape: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, int, int]:
    """Check a shape and give it as (z, y, x); numpy's whole numbers and arrays are as good as Python's.

    Raises
    ------
    UsageError
    """
    try:
        given = [operator.index(n) for n in (shape if isinstance(shape, Iterable) else (shape,) * 3)]
        z, y, x = given
    except (TypeError, ValueError) as error:
        raise UsageError(f"shape {shape!r}: allowed is (z, y, x), each 1 or more") from error
    if min(given) < 1:
        raise UsageError(f"shape {shape!r}: allowed is (z, y, x), each 1 or more")
    return (z, y, x)


def whole_number(name: str, value: SupportsIndex, least: int) -> int:
    """Check a whole number.

    Raises
    ------
    UsageError
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name} {value!r}: allowed is a whole number from {least}") from error
    if number < least:
        raise UsageError(f"{name} {number}: allowed is {least} or more")
    return number


def _check_choice(name: str, value: str, choice: Any) -> None:
    allowed: Collection[str] = get_args(choice)
    if value not in allowed:
        raise UsageError(f"{name} {value!r}: allowed is {', '.join(map(repr, allowed))}")
