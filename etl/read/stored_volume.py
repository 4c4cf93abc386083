"""One stored volume: its voxels by index, lazily, and what the store says about it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from etl.errors import StoreError
from etl.read.source_slices import SourceSlice, nearest_index, nearest_position, plane_weights
from etl.read.volume_metadata import VolumeMetadata

if TYPE_CHECKING:
    import dask.array
    import zarr

Selection = int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]
"""What numpy calls basic indexing, without negative steps."""


MIN_SHARE = 1e-3


class Volume(VolumeMetadata):
    """One stored volume: a lazy ``(z, y, x)`` float32 array with its geometry.

    Indexing reads the normalized values of the chunks it touches and nothing else; `to_hu` gives Hounsfield
    units. Get one from a `Patient`.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, store_path: str, node: str, patient_id: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(store_path, node, patient_id, attributes)
        self._opened: tuple[int, zarr.Array[Any]] | None = None

    def __reduce__(self) -> tuple[type[Volume], tuple[str, str, str, Mapping[str, Any]]]:
        return type(self), (self.store_path, self.node, self.patient_id, self._attributes)

    def __repr__(self) -> str:
        spacing = ", ".join(f"{v:.4g}" for v in self.spacing_mm)
        return f"<Volume {self.key!r} of {self.patient_id!r}: {self.shape} voxels of ({spacing}) mm, (z, y, x)>"

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of the smallest block that is read and decoded by itself."""
        z, y, x = self._array.chunks
        return (z, y, x)

    def __getitem__(self, selection: Selection) -> NDArray[np.float32]:
        """Read normalized values.

        Parameters
        ----------
        selection : int, slice, ... or a tuple of them
            As for a numpy array; steps must be positive.

        Returns
        -------
        float32 array
            New and writable. Axes (z, y, x), less those indexed by a number.

        Raises
        ------
        IndexError
            An index is outside the volume, or a step is negative.
        StoreError
            A chunk cannot be read or decoded.
        """
        with self._reading("volume"):
            return np.asarray(self._array.get_basic_selection(selection), np.float32)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything: what `numpy.asarray` calls."""
        if copy is False:
            raise ValueError("a stored volume is decoded, which always makes a copy")
        return np.asarray(self[...], dtype)

    def planes(self, axis: int, index: list[int]) -> NDArray[np.float32]:
        """Read several planes across one axis, decoding each chunk once.

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
        # One contiguous read a layer of chunks: zarr's own selection by list is 15 times slower.
        wanted, depth = np.asarray(index), self.chunks[axis]
        parts = []
        for layer in np.unique(wanted // depth):
            inside = wanted[wanted // depth == layer]
            selection = [slice(None)] * 3
            selection[axis] = slice(int(inside[0]), int(inside[-1]) + 1)
            parts.append(np.take(self[tuple(selection)], inside - inside[0], axis))
        return np.concatenate(parts, axis)

    def to_hu(self, selection: Selection = ...) -> NDArray[np.float32]:
        """Read Hounsfield units.

        Parameters
        ----------
        selection : int, slice, ... or a tuple of them
            As for indexing; everything by default.

        Returns
        -------
        float32 array, HU
            Within the window that the store keeps; beyond it HU were clipped.
        """
        return self.hu_from(self[selection])

    def hu_histogram(self) -> NDArray[np.uint32]:
        """Count the voxels of each Hounsfield unit.

        Returns
        -------
        (hi - lo + 1,) uint32 array
            Bin b counts the voxels that round to window_hu[0] + b; the end bins hold what was clipped too.
        """
        return np.asarray(self._side_array("hu_histogram"), np.uint32)

    def validity(self) -> NDArray[np.uint8]:
        """Tell measured from made-up voxels.

        Returns
        -------
        (z, y, x) uint8 array
            0 outside the scanned field or in padding, 1 measured, 2 interpolated across a lost slice. Read-only
            where all are 1.
        """
        found = self._optional_array("validity")
        return np.broadcast_to(np.uint8(1), self.shape) if found is None else np.asarray(found, np.uint8)

    def dask(self) -> dask.array.Array:
        """Give the volume as a lazy Dask array, one Dask chunk for each stored chunk."""
        import dask.array  # noqa: PLC0415 - most readers never need Dask

        meta = np.empty((0, 0, 0), np.float32)
        # Dask has no types.
        array: dask.array.Array = dask.array.from_array(  # type: ignore[no-untyped-call]
            self, chunks=self.chunks, asarray=False, fancy=False, meta=meta
        )
        return array

    @cached_property
    def source_slices(self) -> list[SourceSlice]:
        """The DICOM slices, by increasing position."""
        uids, numbers, positions = (
            np.asarray(self._side_array(f"source/{name}"))
            for name in ("sop_instance_uid", "instance_number", "position_mm")
        )
        frames = self._optional_array("source/frame_number")
        if frames is None:
            frames = np.ones(len(numbers), np.int32)
        return [
            SourceSlice(bytes(uid).rstrip(b"\0").decode("ascii"), int(number), float(position), int(frame))
            for uid, number, position, frame in zip(uids.astype(np.uint8), numbers, positions, frames, strict=True)
        ]

    def source_slices_of(self, k: int) -> list[tuple[SourceSlice, float]]:
        """Find every DICOM slice that a plane of the volume was made of, each with its share.

        Parameters
        ----------
        k : int
            Index along `slice_axis`.

        Returns
        -------
        list of (SourceSlice, float)
            Shares of at least a thousandth, by increasing position.

        Raises
        ------
        IndexError
            There is no such plane.
        """
        self._check_plane(k)
        origin_mm, step_mm = self.slice_line_mm()
        resampling = self._part("resampling")
        zoom = None
        if not resampling["spacing_mm"]:
            zoom = float((resampling["zoom"] or (1.0, 1.0, 1.0))[self.slice_axis])
        positions_mm = [s.position_mm for s in self.source_slices]
        shares = plane_weights(positions_mm, k, origin_mm=origin_mm, step_mm=step_mm, zoom=zoom)
        found = zip(self.source_slices, shares, strict=True)
        return [(source, float(share)) for source, share in found if abs(share) >= MIN_SHARE]

    def nearest_source_slice(self, k: int) -> SourceSlice:
        """Find the DICOM slice nearest to a plane of the volume.

        Parameters
        ----------
        k : int
            Index along `slice_axis`.

        Returns
        -------
        SourceSlice
            Of two at the same distance, the lower one.

        Raises
        ------
        IndexError
            There is no such plane.
        """
        self._check_plane(k)
        origin_mm, step_mm = self.slice_line_mm()
        positions_mm = [s.position_mm for s in self.source_slices]
        return self.source_slices[nearest_position(positions_mm, origin_mm + k * step_mm)]

    def nearest_plane(self, sop_instance_uid: str) -> int:
        """Find the plane of the volume nearest to a DICOM slice.

        Parameters
        ----------
        sop_instance_uid : str
            SOP Instance UID (0008,0018).

        Returns
        -------
        int
            Index along `slice_axis`; of two at the same distance, the lower one.

        Raises
        ------
        KeyError
            The volume was not made from this instance.
        ValueError
            The instance holds several frames, and so several slices.
        """
        found = [s.position_mm for s in self.source_slices if s.sop_instance_uid == sop_instance_uid]
        if not found:
            raise KeyError(sop_instance_uid)
        if len(found) > 1:
            raise ValueError(
                f"{sop_instance_uid} holds {len(found)} slices; see source_slices for their positions"
            )
        origin_mm, step_mm = self.slice_line_mm()
        planes = self.shape[self.slice_axis]
        return nearest_index(found[0], origin_mm=origin_mm, step_mm=step_mm, count=planes)

    def _check_plane(self, k: int) -> None:
        planes = self.shape[self.slice_axis]
        if not 0 <= k < planes:
            raise IndexError(f"plane {k} of axis {self.slice_axis}: allowed is 0 to {planes - 1}")

    @property
    def _array(self) -> zarr.Array[Any]:
        # By process: a handle on a bucket does not survive a fork. Two threads may both open: harmless.
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            with self._reading("volume"):
                array = self._open("volume")
            self._opened = (process, array)
        return self._opened[1]

    def _optional_array(self, name: str) -> Any:
        try:
            self._open(name)
        except FileNotFoundError:
            return None
        return self._side_array(name)

    def _side_array(self, name: str) -> Any:
        with self._reading(name):
            return self._open(name)[...]

    def _open(self, name: str) -> zarr.Array[Any]:
        import zarr  # noqa: PLC0415 - a store's metadata alone can be read without it

        return zarr.open_array(self.store_path, path=f"{self.node}/{name}", mode="r")

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise StoreError(f"{self.store_path}: {self.node}/{name} cannot be read ({error})") from error
