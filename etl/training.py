"""Feed PyTorch from a store: whole volumes, or random crops that read only the chunks they need.

Both classes are map-style datasets for `torch.utils.data.DataLoader`. Values are normalized as stored. An
entry is a dictionary:

* ``volume``: float32 tensor (1, z, y, x)
* ``patient_id``, ``series_key``: str
* ``affine_lps``: float64 tensor (4, 4), from (k, j, i, 1) of this very tensor to LPS mm

PyTorch is needed from the first dataset on, not to import this module.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.read.patients import Store, Volume, open_store

SeriesChoice = Literal["default", "all"]
Example = dict[str, Any]

AIR_HU = -1000.0


class VolumeDataset:
    """Whole volumes, one an entry, ordered by patient ID and series key.

    Volumes differ in shape, so a loader takes them with ``batch_size=1`` or ``None``.

    Parameters
    ----------
    store_path : str or path
        Folder or URL of the store.
    series : {"default", "all"}
        The default series of every patient, or everything.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    UsageError
        `series` is neither of the two.
    StoreError
        There is no store, or a patient's default series is not in it.
    """

    def __init__(self, store_path: str | os.PathLike[str], *, series: SeriesChoice = "default") -> None:
        _torch()
        self._store = open_store(store_path)
        self._keys = _chosen(self._store, series)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Example:
        """Read one volume; an `IndexError` where `index` is beyond the last."""
        volume = _volume(self._store, self._keys[index])
        return _example(volume, volume[...], volume.affine_lps)


class CropDataset:
    """Random crops of one shape, the same for the same `seed`, epoch and index, whatever the workers.

    A crop lies anywhere inside its volume. Along an axis on which the volume is smaller, the volume lies
    anywhere inside the crop, and the rest is air.

    Parameters
    ----------
    store_path : str or path
        Folder or URL of the store.
    shape : tuple of int
        (z, y, x) voxels of a crop.
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
        An argument is out of its range.
    StoreError
        There is no store, or a patient's default series is not in it.
    """

    def __init__(
        self,
        store_path: str | os.PathLike[str],
        *,
        shape: tuple[int, int, int] = (96, 96, 96),
        crops_per_volume: int = 8,
        seed: int = 0,
        series: SeriesChoice = "default",
    ) -> None:
        torch = _torch()
        if len(shape) != 3 or min(shape) < 1:
            raise UsageError(f"shape {shape!r}: allowed is (z, y, x), each 1 or more")
        if crops_per_volume < 1:
            raise UsageError(f"crops_per_volume {crops_per_volume}: allowed is 1 or more")
        if seed < 0:
            raise UsageError(f"seed {seed}: allowed is 0 or more")
        self._store = open_store(store_path)
        self._keys = _chosen(self._store, series)
        self._shape = shape
        self._crops_per_volume = crops_per_volume
        self._seed = seed
        # Shared memory: persistent workers hold copies of the dataset and would keep the first epoch's crops.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from here on, in running workers too; call it before each pass over the loader."""
        if epoch < 0:
            raise UsageError(f"epoch {epoch}: allowed is 0 or more")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._keys) * self._crops_per_volume

    def __getitem__(self, index: int) -> Example:
        """Read one crop; an `IndexError` where `index` is beyond the last."""
        if not 0 <= index < len(self):
            raise IndexError(f"entry {index}: allowed is 0 to {len(self) - 1}")
        volume = _volume(self._store, self._keys[index // self._crops_per_volume])
        rng = np.random.default_rng((self._seed, int(self._epoch), index))
        slack = np.subtract(volume.shape, self._shape)
        start = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0), endpoint=True)
        affine = volume.affine_lps
        affine[:3, 3] += affine[:3, :3] @ start
        return _example(volume, _crop(volume, start, self._shape), affine)


def _crop(volume: Volume, start: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Read the block that begins at `start`, which may lie outside; what the volume lacks is air."""
    first = np.maximum(start, 0)
    stop = np.minimum(start + shape, volume.shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
    values = volume[z, y, x]
    if values.shape == shape:
        return values
    padded = np.full(shape, volume.values_of(AIR_HU), np.float32)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(first - start, stop - start, strict=True))
    padded[z, y, x] = values
    return padded


def _chosen(store: Store, series: SeriesChoice) -> list[tuple[str, str]]:
    if series not in get_args(SeriesChoice):
        raise UsageError(f"series {series!r}: allowed is 'default' or 'all'")
    if series == "default":
        return [(patient_id, patient.default.key) for patient_id, patient in store.items()]
    return [(patient_id, key) for patient_id, patient in store.items() for key in patient]


def _volume(store: Store, key: tuple[str, str]) -> Volume:
    patient_id, series_key = key
    return store[patient_id][series_key]


def _example(volume: Volume, values: NDArray[np.float32], affine_lps: NDArray[np.float64]) -> Example:
    torch = _torch()
    return {
        "volume": torch.from_numpy(values)[None],
        "patient_id": volume.patient_id,
        "series_key": volume.key,
        "affine_lps": torch.from_numpy(affine_lps),
    }


def _torch() -> ModuleType:
    # Optional, and 2 s to import.
    try:
        return import_module("torch")
    except ImportError as error:
        raise ImportError("etl.training needs PyTorch: pip install 'ct-etl[torch]'") from error
