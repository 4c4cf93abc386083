"""The arrays of one volume: opened where they lie, read into arrays of the caller's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError
from etl.read.selection import Indices
from etl.read.stored_array import StoredArray, ZarrArray, open_array, read_values
from etl.read.volume_metadata import VolumeMetadata


class VolumeArrays(VolumeMetadata):
    """The arrays below one series' group; see `VolumeMetadata` for the parameters."""

    def __init__(
        self,
        store_path: str,
        node: str,
        patient_id: str,
        text: bytes | None = None,
        patient: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(store_path, node, patient_id, text, patient)
        self._opened: dict[str, tuple[int, StoredArray]] = {}

    def read_into(self, wanted: Indices, out: NDArray[Any]) -> None:
        """Read values of the volume at increasing indices along each axis.

        Parameters
        ----------
        wanted : three of range or int array
        out : (z, y, x) float32 or int16 array
            For normalized values, or for whole steps of them.

        Raises
        ------
        ValueError
            There are no steps: the store keeps full precision.
        StoreError
            A chunk cannot be read or decoded.
        """
        step = self.normalization.step
        if out.dtype == np.int16 and step is None:
            raise ValueError(f"{self.node} has no steps: it keeps full precision")
        with self.reading("volume"):
            array = self.open("volume")
            if array.shape != self.shape or array.dtype not in (np.float32, np.int16):
                raise ValueError(f"it is {array.dtype} {array.shape}; float32 or int16 {self.shape} is expected")
            if out.dtype == array.dtype:
                array.read(wanted, out)
                return
            stored = read_values(array, wanted)
        # Two passes that numpy runs at once over whole rows; a ufunc over mixed types goes by small buffers.
        if out.dtype == np.float32:
            np.copyto(out, stored)
            np.multiply(out, np.float32(array.scale_factor), out=out)
        else:
            np.multiply(stored, np.float32(1 / (step or 1.0)), out=stored)
            np.copyto(out, np.rint(stored, out=stored), casting="unsafe")

    def planes(self, axis: int, index: list[int]) -> NDArray[np.float32]:
        """Read several planes across one axis, decoding each block once.

        Parameters
        ----------
        axis : int
            0 for axial planes, 1 for coronal, 2 for sagittal.
        index : list of int
            At least one; increasing.

        Returns
        -------
        (z, y, x) float32 array, normalized
            `axis` has one entry for each index.
        """
        wanted: list[range | NDArray[np.intp]] = [range(n) for n in self.shape]
        wanted[axis] = np.asarray(index, np.intp)
        out = np.empty([len(one) for one in wanted], np.float32)
        self.read_into(wanted, out)
        return out

    def optional_array(self, name: str) -> NDArray[Any] | None:
        """Read a whole array of the series; None where it does not have it.

        Raises
        ------
        StoreError
            The series says that it consists of it, and it is not there.
        """
        if self.has_array(name):
            return self.side_array(name)
        try:
            with self.reading(name, but=FileNotFoundError):
                self.open(name)
        except FileNotFoundError:
            return None
        return self.side_array(name)

    def side_array(self, name: str) -> NDArray[Any]:
        """Read a whole array of the series."""
        with self.reading(name):
            array = self.open(name)
            return read_values(array, [range(n) for n in array.shape])

    def open(self, name: str) -> StoredArray:
        """Open an array of the series; what goes wrong is raised as it comes."""
        # Zarr's arrays are kept, by process: a handle on a bucket does not survive a fork. Two threads may both
        # open one: harmless. Our own reader keeps open what it needs.
        process, array = self._opened.get(name, (None, None))
        if array is None or process != os.getpid():
            array = open_array(self.store_path, f"{self.node}/{name}")
            if isinstance(array, ZarrArray):
                self._opened[name] = (os.getpid(), array)
        return array

    @contextmanager
    def reading(self, name: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Turn what goes wrong with an array into a `StoreError` that names it."""
        try:
            yield
        except but:
            raise
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.store_path}: {self.node}/{name} cannot be read ({error})") from error
