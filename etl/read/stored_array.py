"""One array of a series, wherever the store lies: by our own reader where it can, by zarr where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from etl.buckets.connecting import reading_options, url_errors
from etl.read.selection import Indices, parts_of
from etl.read.shard_reader import open_shard

if TYPE_CHECKING:
    import zarr


class StoredArray(Protocol):
    """What can be read of an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Entries along each axis."""

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of the smallest block that is stored by itself."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is stored."""

    @property
    def scale_factor(self) -> float:
        """What a stored number is multiplied with (CF); 1 where nothing says so."""

    def read(self, wanted: Indices, out: NDArray[Any]) -> None:
        """Read the entries at increasing indices along each axis into an array of the stored dtype."""


class ZarrArray:
    """An array that zarr reads.

    Parameters
    ----------
    array : zarr.Array
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.chunk: tuple[int, ...] = array.chunks
        self.dtype: np.dtype[Any] = array.dtype
        self.scale_factor = float(dict(array.attrs).get("scale_factor", 1.0))  # type: ignore[arg-type]

    def read(self, wanted: Indices, out: NDArray[Any]) -> None:
        """See `StoredArray.read`."""
        # One contiguous read a layer of chunks: zarr's own selection by list is 15 times slower.
        axes = [_runs(one, side) for one, side in zip(wanted, self.chunk, strict=True)]
        for runs in product(*axes):
            with url_errors():
                block = np.asarray(self._array[tuple(run[0] for run in runs)])
            for axis, (_, inside, _target) in enumerate(runs):
                block = block if inside is None else np.take(block, inside, axis)
            out[tuple(run[2] for run in runs)] = block


def _runs(wanted: range | NDArray[np.intp], side: int) -> list[tuple[slice, NDArray[np.intp] | None, slice]]:
    """Slices to read along one axis, what to keep of each, and where it goes."""
    if isinstance(wanted, range):
        return [(slice(wanted.start, wanted.stop, wanted.step), None, slice(None))] if wanted else []
    runs: list[tuple[slice, NDArray[np.intp] | None, slice]] = []
    for part in parts_of(wanted, side):
        first = part.chunk * side
        kept = np.asarray(part.inside) - part.low
        runs.append((slice(first + part.low, first + part.high), kept, part.target))
    return runs


def open_array(store_path: str, path: str) -> StoredArray:
    """Open an array of a store.

    Parameters
    ----------
    store_path : str
        Folder or URL.
    path : str
        Of the array in the store.

    Raises
    ------
    FileNotFoundError
        There is no such array.
    ValueError, KeyError, TypeError, RuntimeError, OSError
        It is damaged; zarr and the file system raise whatever it provokes.
    """
    found = None if "://" in store_path else open_shard(f"{store_path}/{path}")
    if found is not None:
        return found
    import zarr  # noqa: PLC0415 - what our own reader reads needs no zarr

    options = reading_options(store_path) or None
    with url_errors():
        return ZarrArray(zarr.open_array(store_path, path=path, mode="r", storage_options=options))


def read_values(array: StoredArray, wanted: Sequence[range | NDArray[np.intp]]) -> NDArray[Any]:
    """Read the entries at increasing indices along each axis, as they are stored, into a new array."""
    out = np.empty([len(one) for one in wanted], array.dtype)
    array.read(wanted, out)
    return out
