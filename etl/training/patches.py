"""A volume as a grid of patches for inference, and what a network says of them put together again."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.read.patients import Volume
from etl.training.batches import Example, load_torch
from etl.training.crop_reader import CropReader, DType, Values
from etl.training.crops import crop_shape
from etl.training.sampler import Draw
from etl.training.volume_table import VolumeTable

SIGMA_SHARE = 1 / 8
"""Width of the Gaussian weight, of a patch's side: what nnU-Net and MONAI take."""
MIN_WEIGHT = 1e-3
"""A patch's corner still counts where no other patch lies."""


class PatchDataset:
    """Patches that cover a volume in C order; entries as of a `CropDataset`.

    Parameters
    ----------
    volume : Volume
    shape : (z, y, x)
        Voxels of a patch; one number for a cube.
    overlap : float
        Least share of a patch's side that it has in common with the next, 0 to below 1.
    values, dtype
        See `CropDataset`.

    Raises
    ------
    ImportError, UsageError
        See `CropDataset`.
    """

    def __init__(
        self,
        volume: Volume,
        shape: SupportsIndex | Sequence[SupportsIndex] = (96, 96, 96),
        *,
        overlap: float = 0.5,
        values: Values = "normalized",
        dtype: DType = "float32",
    ) -> None:
        load_torch()
        if not 0 <= overlap < 1:
            raise UsageError(f"overlap {overlap}: allowed is 0 to below 1")
        self.volume, self.shape = volume, crop_shape(shape)
        row = (volume.store_path, volume.node, volume.patient_id)
        self._reader = CropReader(
            VolumeTable([row], np.array([volume.shape], np.int64), np.empty((1, 0), np.float32)),
            self.shape,
            (),
            values,
            dtype,
        )
        axes = [_starts(n, side, overlap) for n, side in zip(volume.shape, self.shape, strict=True)]
        self.starts: NDArray[np.int64] = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Read one patch; an `IndexError` where `index` is beyond the last."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex | Draw]) -> list[Example]:
        """Read several patches into one batch; `collate` takes it without copying."""
        entries = [index.entry if isinstance(index, Draw) else operator.index(index) for index in indices]
        starts = [self.starts[entry] for entry in entries]
        return self._reader.read([0] * len(starts), starts)

    def assembly(self, channels: int = 1, weighting: Literal["gaussian", "constant"] = "gaussian") -> Assembly:
        """Begin to put together what a network says of the patches."""
        return Assembly(self.volume.shape, self.shape, channels, weighting)


class Assembly:
    """The weighted mean of overlapping patches.

    Parameters
    ----------
    volume_shape, patch_shape : (z, y, x)
    channels : int
    weighting : {"gaussian", "constant"}
        Voxels near a patch's border count less, or all alike.
    """

    def __init__(
        self,
        volume_shape: tuple[int, int, int],
        patch_shape: tuple[int, int, int],
        channels: int = 1,
        weighting: Literal["gaussian", "constant"] = "gaussian",
    ) -> None:
        if weighting not in ("gaussian", "constant"):
            raise UsageError(f"weighting {weighting!r}: allowed is 'gaussian' or 'constant'")
        self._patch_shape = patch_shape
        self._weight = np.ones(patch_shape, np.float32)
        if weighting == "gaussian":
            for axis, side in enumerate(patch_shape):
                at = (np.arange(side) - (side - 1) / 2) / max(1.0, side * SIGMA_SHARE)
                one = np.exp(-0.5 * at**2).astype(np.float32)
                self._weight *= one.reshape([-1 if n == axis else 1 for n in range(3)])
            np.maximum(self._weight, MIN_WEIGHT, out=self._weight)
        self._sum = np.zeros((channels, *volume_shape), np.float32)
        self._total = np.zeros(volume_shape, np.float32)

    def add(self, patches: Any, starts: Any) -> None:
        """Add what a network says of a batch.

        Parameters
        ----------
        patches : (n, channels, z, y, x) tensor or array
        starts : (n, 3) tensor or array
            The batch's ``start``.
        """
        for patch, start in zip(_as_array(patches), _as_array(starts).tolist(), strict=True):
            first = [max(0, s) for s in start]
            stop = [
                min(s + side, n) for s, side, n in zip(start, self._patch_shape, self._total.shape, strict=True)
            ]
            place = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
            inside = tuple(slice(a - s, b - s) for a, b, s in zip(first, stop, start, strict=True))
            weight = self._weight[inside]
            self._sum[(slice(None), *place)] += patch[(slice(None), *inside)] * weight
            self._total[place] += weight

    def result(self) -> NDArray[np.float32]:
        """Give the mean.

        Returns
        -------
        (channels, z, y, x) float32 array

        Raises
        ------
        UsageError
            A voxel lies in no patch that was added.
        """
        missing = int((self._total == 0).sum())
        if missing:
            raise UsageError(f"{missing} voxels lie in no patch that was added")
        mean: NDArray[np.float32] = self._sum / self._total
        return mean


def _starts(length: int, side: int, overlap: float) -> NDArray[np.int64]:
    """Give evenly spaced beginnings that cover an axis; a smaller volume lies in the middle of its patch."""
    if length <= side:
        return np.array([-((side - length) // 2)])
    step = max(1, int(side * (1 - overlap)))
    count = -(-(length - side) // step) + 1
    return np.rint(np.linspace(0, length - side, count)).astype(np.int64)


def _as_array(values: Any) -> NDArray[Any]:
    """Give a tensor of any device, or an array, as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
