"""Read crops of several volumes into one batch; what a volume lacks around a crop is air."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.read.patients import Volume
from etl.training.batches import Batch, Example, load_torch
from etl.training.volume_table import VolumeTable
from etl.volume.patient_space import LPS_TO_RAS

Values = Literal["normalized", "hu"]
DType = Literal["float32", "int16"]
AIR_HU = -1000.0


class CropReader:
    """Reads boxes of one shape from the volumes of a table.

    Parameters
    ----------
    table : VolumeTable
    shape : (z, y, x)
    labels : tuple of str
    values : {"normalized", "hu"}
    dtype : {"float32", "int16"}

    Raises
    ------
    UsageError
        `values` or `dtype` is not one of the two, both do not go together, or a store keeps full precision.
    """

    def __init__(
        self,
        table: VolumeTable,
        shape: tuple[int, int, int],
        labels: tuple[str, ...],
        values: Values,
        dtype: DType,
    ) -> None:
        for name, value, choice in (("values", values, Values), ("dtype", dtype, DType)):
            if value not in get_args(choice):
                raise UsageError(f"{name} {value!r}: allowed is {', '.join(map(repr, get_args(choice)))}")
        if values == "hu" and dtype == "int16":
            raise UsageError("values 'hu' are float32; dtype 'int16' goes with 'normalized'")
        if dtype == "int16" and table[0].normalization.step is None:
            raise UsageError(f"dtype 'int16': {table[0].store_path} keeps full precision, not steps")
        self.table, self._shape, self._labels = table, shape, labels
        self._values, self._dtype = values, dtype

    def read(self, numbers: Sequence[int], starts: Sequence[NDArray[np.int64]]) -> Batch:
        """Read crops.

        Parameters
        ----------
        numbers : sequence of int
            Rows of the table.
        starts : sequence of (3,) int64 arrays
            (z, y, x) of the first voxel of each; may lie outside.

        Returns
        -------
        Batch
        """
        whole: Example = {"image": _tensor((len(numbers), 1, *self._shape), self._dtype)}
        images = whole["image"].numpy()
        volumes = [self.table[number] for number in numbers]
        for image, volume, start in zip(images, volumes, starts, strict=True):
            self._read_image(volume, start, image[0])
        if self._labels:
            stored = [[volume.label(name) for name in self._labels] for volume in volumes]
            widest = max(array.dtype.itemsize for arrays in stored for array in arrays)
            whole["label"] = _tensor(
                (len(numbers), len(self._labels), *self._shape), "uint16" if widest > 1 else "uint8"
            )
            self._read_labels(volumes, starts, whole["label"].numpy())
        if self.table.targets.shape[1]:
            whole["target"] = load_torch().from_numpy(self.table.targets[list(numbers)])
        whole |= self._places(volumes, starts)
        return Batch(({name: value[i] for name, value in whole.items()} for i in range(len(numbers))), whole)

    def _read_image(self, volume: Volume, start: NDArray[np.int64], image: NDArray[Any]) -> None:
        wanted, inside = _overlap(start, self._shape, volume.shape)
        if image[inside].shape != image.shape:
            air = volume.values_of(AIR_HU)
            image.fill(air if self._dtype == "float32" else round(air / (volume.normalization.step or 1.0)))
        volume.read_into(wanted, image[inside])
        if self._values == "hu":
            image[...] = volume.hu_from(image)

    def _read_labels(
        self, volumes: Sequence[Volume], starts: Sequence[NDArray[np.int64]], labels: NDArray[Any]
    ) -> None:
        for volume, start, into in zip(volumes, starts, labels, strict=True):
            wanted, inside = _overlap(start, self._shape, volume.shape)
            into.fill(0)
            for name, label in zip(self._labels, into, strict=True):
                with volume.reading(f"labels/{name}"):
                    array = volume.label(name)
                    found = np.empty([len(one) for one in wanted], array.dtype)
                    array.read(wanted, found)
                label[inside] = found

    def _places(self, volumes: Sequence[Volume], starts: Sequence[NDArray[np.int64]]) -> Example:
        torch = load_torch()
        affines = np.stack(
            [volume.geometry.affine_lps_from(start) for volume, start in zip(volumes, starts, strict=True)]
        )
        places: Example = {
            "affine_lps": torch.from_numpy(affines),
            "affine_ras": torch.from_numpy(LPS_TO_RAS @ affines),
            "patient_id": [volume.patient_id for volume in volumes],
            "series_key": [volume.key for volume in volumes],
            "start": torch.from_numpy(np.array(starts, np.int64)),
        }
        if self._dtype == "int16":
            places["step"] = torch.tensor([volume.normalization.step for volume in volumes], dtype=torch.float32)
        return places


def _tensor(shape: tuple[int, ...], dtype: str) -> Any:
    """Make a tensor; in a worker process in shared memory, where it has to go in any case."""
    torch = load_torch()
    made = torch.empty(shape, dtype=getattr(torch, dtype))
    return made if torch.utils.data.get_worker_info() is None else made.share_memory_()


def _overlap(
    start: NDArray[np.int64], shape: tuple[int, int, int], volume: tuple[int, int, int]
) -> tuple[list[range], tuple[slice, ...]]:
    """Give the indices of a volume that lie in a crop, and where in the crop they go."""
    first = np.maximum(start, 0)
    stop = np.maximum(np.minimum(start + np.array(shape), volume), first)
    wanted = [range(a, b) for a, b in zip(first.tolist(), stop.tolist(), strict=True)]
    return wanted, tuple(
        slice(a, b) for a, b in zip((first - start).tolist(), (stop - start).tolist(), strict=True)
    )
