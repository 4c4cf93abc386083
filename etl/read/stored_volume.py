"""One stored volume: its voxels by index, lazily, and what the store says about it."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from etl.read.bridges import BridgedVolume
from etl.read.selection import Indices, Selection, ranges_of
from etl.read.source_slices import SourceSlice, nearest_index, nearest_position, plane_weights
from etl.read.stored_array import read_values

if TYPE_CHECKING:
    import dask.array

MIN_SHARE = 1e-3
DASK_CHUNK_SIDE = 128
"""Stored chunks are small, for crops; a task of Dask is worth some megabytes."""


class Volume(BridgedVolume):
    """One stored volume: a lazy ``(z, y, x)`` float32 array with its geometry.

    Indexing reads the normalized values of the blocks it touches and nothing else; `to_hu` gives Hounsfield
    units. Get one from a `Patient`. Threads may share it; what is pickled is its path.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __reduce__(self) -> tuple[type[Volume], tuple[str, str, str]]:
        return type(self), (self.store_path, self.node, self.patient_id)

    def __repr__(self) -> str:
        spacing = ", ".join(f"{v:.4g}" for v in self.spacing_mm)
        return f"<Volume {self.key!r} of {self.patient_id!r}: {self.shape} voxels of ({spacing}) mm, (z, y, x)>"

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of the blocks that are stored by themselves."""
        with self.reading("volume"):
            z, y, x = self.open("volume").chunk
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
        return self.read(selection)

    def read(
        self,
        selection: Selection = ...,
        *,
        out: NDArray[Any] | None = None,
        dtype: Literal["float32", "int16"] = "float32",
    ) -> NDArray[Any]:
        """Read values, into an array of the caller's where one is given.

        Parameters
        ----------
        selection : int, slice, ... or a tuple of them
            As for indexing; everything by default.
        out : array, optional
            Of the result's shape and `dtype`; any strides.
        dtype : {"float32", "int16"}
            Normalized values, or whole steps of `Normalization.step`: half the bytes, and the same information.

        Returns
        -------
        array
            `out`, or a new one.

        Raises
        ------
        IndexError
            As for indexing.
        ValueError
            `out` has another shape or type, or there are no steps: the store keeps full precision.
        StoreError
            A chunk cannot be read or decoded.
        """
        ranges, shape = ranges_of(selection, self.shape)
        found = np.empty(shape, dtype) if out is None else out
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(f"out is {found.dtype} {found.shape}; {dtype} {shape} is needed")
        self.read_into(ranges, found.reshape([len(one) for one in ranges]))
        return found

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything: what `numpy.asarray` calls."""
        if copy is False:
            raise ValueError("a stored volume is decoded, which always makes a copy")
        return np.asarray(self[...], dtype)

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
        return np.asarray(self.side_array("hu_histogram"), np.uint32)

    def validity(self) -> NDArray[np.uint8]:
        """Tell measured from made-up voxels.

        Returns
        -------
        (z, y, x) uint8 array
            0 outside the scanned field or in padding, 1 measured, 2 interpolated across a lost slice. Read-only
            where all are 1.
        """
        found = self.optional_array("validity")
        return np.broadcast_to(np.uint8(1), self.shape) if found is None else np.asarray(found, np.uint8)

    def validity_of(self, wanted: Indices) -> NDArray[np.uint8]:
        """Read `validity` at increasing indices along each axis.

        Parameters
        ----------
        wanted : three of range or int array

        Returns
        -------
        (z, y, x) uint8 array
        """
        absent = () if self.has_array("validity") else FileNotFoundError
        with suppress(FileNotFoundError), self.reading("validity", but=absent):
            return np.asarray(read_values(self.open("validity"), wanted), np.uint8)
        return np.ones([len(one) for one in wanted], np.uint8)

    def dask(self) -> dask.array.Array:
        """Give the volume as a lazy Dask array, in Dask chunks of whole stored chunks."""
        import dask.array  # noqa: PLC0415 - most readers never need Dask

        meta = np.empty((0, 0, 0), np.float32)
        chunks = tuple(side * max(1, DASK_CHUNK_SIDE // side) for side in self.chunks)
        # Dask has no types.
        array: dask.array.Array = dask.array.from_array(  # type: ignore[no-untyped-call]
            self, chunks=chunks, asarray=False, fancy=False, meta=meta
        )
        return array

    @cached_property
    def source_slices(self) -> list[SourceSlice]:
        """The DICOM slices, by increasing position."""
        uids, numbers, positions = (
            np.asarray(self.side_array(f"source/{name}"))
            for name in ("sop_instance_uid", "instance_number", "position_mm")
        )
        frames = self.optional_array("source/frame_number")
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
        resampling = self._part("resampling", dict[str, Any])
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
