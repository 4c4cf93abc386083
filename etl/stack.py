"""What `scan` finds: stacks of slices, headers only, held by column.

A cohort has hundreds of thousands of slices. One object per slice costs the driver about a kilobyte each;
columns cost about a fifth and are what the geometry needs anyway.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.header import Header, Plane
from etl.transfer_syntaxes import TRANSFER_SYNTAXES

MAX_UID_CHARACTERS = 64
"""Of a UI (DICOM PS3.5 9.1)."""


class Location(NamedTuple):
    """Where a file is: a folder and a path in it, or a zip and the name of a member."""

    container: str
    member: str


class FileState(NamedTuple):
    """What a file looks like from outside; nobody can set all of it back."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @staticmethod
    def of(path: str) -> FileState:
        """Look at a file.

        Raises
        ------
        OSError
        """
        status = os.stat(path)
        return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@dataclass(frozen=True)
class PixelFormat:
    """How the stored values of a slice are laid out (DICOM PS3.3 C.7.6.3, PS3.5 8)."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    photometric_interpretation: str
    number_of_frames: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return self.rows * self.columns * self.samples_per_pixel * self.bits_allocated // 8

    @property
    def is_native(self) -> bool:
        """Whether pixels are written as they are, in one piece; False too where nothing here reads them."""
        syntax = TRANSFER_SYNTAXES.get(self.transfer_syntax_uid)
        return syntax is not None and syntax.is_native


@dataclass(frozen=True, eq=False)
class Slices:
    """Per-slice columns of a stack; every array has length n.

    NaN (floats) and -1 (offsets) stand for an attribute that the file does not have.
    """

    locations: tuple[Location, ...]
    frame: NDArray[np.int32]
    """Index of the frame in its file; 0 in single-frame files."""
    format: NDArray[np.int16]
    """Index into `Stack.formats`."""
    pixel_offset: NDArray[np.int64]
    """Byte position of the value of Pixel Data in the file; -1: find it by parsing."""
    pixel_length: NDArray[np.int64]
    """Bytes of the value of Pixel Data; -1 where the length is undefined (encapsulated)."""
    file_bytes: NDArray[np.int64]
    modified_ns: NDArray[np.int64]
    """When the content of the file, or of the zip that holds it, was last changed."""
    changed_ns: NDArray[np.int64]
    """When its status was; nobody can set this back."""
    inode: NDArray[np.uint64]
    crc32: NDArray[np.int64]
    """Checksum that a zip keeps of the file; -1 in a folder."""
    sop_instance_uid: NDArray[np.bytes_]
    """``S64``, see `MAX_UID_CHARACTERS`."""
    instance_number: NDArray[np.int32]
    """Instance Number (0020,0013); -1 where absent."""
    position_lps_mm: NDArray[np.float64]
    """(n, 3) Image Position (Patient) (0020,0032)."""
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    padding: NDArray[np.float64]
    """(n, 2) Pixel Padding Value and Range Limit as the file states them, stored domain."""
    thickness_mm: NDArray[np.float64]
    plane: NDArray[np.int32]
    """Index into `Stack.planes`."""
    header: NDArray[np.int32]
    """Index into `Stack.headers`."""
    marks: NDArray[np.int32]
    """(n, k) what may tell slices apart, a column for each row of `etl.scan.distinctions`: indices into the texts
    of `Stack.mark_values`."""

    def __len__(self) -> int:
        """Count the slices."""
        return len(self.locations)

    def take(self, index: NDArray[np.intp] | Sequence[int]) -> Slices:
        """Pick slices by position, in the order of `index`."""
        chosen = np.asarray(index, np.intp)
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        picked = {name: column[chosen] for name, column in columns.items() if name != "locations"}
        return Slices(locations=tuple(self.locations[i] for i in chosen), **picked)

    def without_marks(self) -> Slices:
        """Give the same slices without their marks."""
        return replace(self, marks=np.empty((len(self), 0), np.int32))

    @staticmethod
    def concatenate(parts: Sequence[Slices]) -> Slices:
        """Append the slices of several parts."""
        names = [f.name for f in fields(Slices) if f.name != "locations"]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Slices(locations=tuple(loc for part in parts for loc in part.locations), **joined)


@dataclass(frozen=True)
class StackKey:
    """What all slices of one stack share; slices that differ in any of it belong to different stacks."""

    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    series_number: int
    sop_class_uid: str
    modality: str
    rows: int
    columns: int
    samples_per_pixel: int
    orientation: tuple[float, ...]
    """Image Orientation (Patient) (0020,0037), six direction cosines; empty where absent."""
    pixel_spacing_mm: tuple[float, ...]
    """Pixel Spacing (0028,0030): between rows, then between columns; empty where absent."""
    rescale_type: str
    """Rescale Type (0028,1054); HU where absent (DICOM PS3.3 C.8.2.1)."""
    is_localizer: bool
    """Image Type (0008,0008) names a localizer."""
    has_pixels: bool
    patient_id_from_path: bool
    series_uid_from_path: bool = False
    undecodable_patient_id: bool = False
    """Some bytes of the Patient ID are no text in the file's character set, and stand as ``\\xNN``."""

    def bare(self) -> StackKey:
        """Give the key without what may differ within a stack, or is told apart later: planes, header noise."""
        return replace(
            self,
            orientation=(),
            pixel_spacing_mm=(),
            series_number=0,
            study_instance_uid="",
            patient_id_from_path=False,
            undecodable_patient_id=False,
        )


def common_key(keys: Sequence[StackKey]) -> StackKey:
    """Give the key of a stack from those of its slices, the first of which counts.

    Numbers and studies that only some files name are taken from those that do.
    """
    numbers = sorted({key.series_number for key in keys} - {0})
    return replace(
        keys[0],
        series_number=numbers[0] if numbers else 0,
        study_instance_uid=min(key.study_instance_uid for key in keys),
        patient_id_from_path=any(key.patient_id_from_path for key in keys),
        undecodable_patient_id=any(key.undecodable_patient_id for key in keys),
    )


@dataclass(frozen=True, eq=False)
class Stack:
    """One stack of slices of a series, in the order the files were found.

    Parameters
    ----------
    key : StackKey
        Identity and everything the slices have in common.
    slices : Slices
        Columns, one row a slice.
    formats : tuple of PixelFormat
        The distinct pixel formats; `Slices.format` points into it.
    planes : tuple of Plane
        The distinct planes; `Slices.plane` points into it.
    headers : tuple of Header
        The distinct kinds of headers; `Slices.header` points into it.
    mark_values : tuple of tuples of str
        For each column of `Slices.marks` the texts that it points to.
    copies : Slices, optional
        Copies of slices that were dropped; their pixels have to be the same.
    copied : tuple
        For each of the copies what `etl.plan.repeats.copy_keys` gives for the slice that was kept.
    compared : str
        Names of the attributes in which copies with another UID were compared; empty where there are none.
    number : int
        1 for the first stack of a series.
    told_apart_by : str
        Canonical text of what tells the stack apart from the others of its series, as ``Keyword=value``; empty
        where it has no others.
    refusal : tuple of (FailureCode, str), optional
        Why the slices cannot be one volume, found while they were told apart.
    """

    key: StackKey
    slices: Slices
    formats: tuple[PixelFormat, ...]
    planes: tuple[Plane, ...] = ()
    headers: tuple[Header, ...] = ()
    mark_values: tuple[tuple[str, ...], ...] = ()
    copies: Slices | None = None
    copied: tuple[tuple[object, ...], ...] = ()
    compared: str = ""
    number: int = 1
    told_apart_by: str = ""
    refusal: tuple[FailureCode, str] | None = None

    def with_slices(self, slices: Slices, *, number: int | None = None) -> Stack:
        """Give the same stack with other slices."""
        return replace(self, slices=slices, number=self.number if number is None else number)

    def without_marks(self) -> Stack:
        """Give the same stack without what told its slices apart: a worker has no use for it."""
        slices = replace(self.slices, marks=np.empty((len(self.slices), 0), np.int32))
        copies = (
            None if self.copies is None else replace(self.copies, marks=np.empty((len(self.copies), 0), np.int32))
        )
        return replace(self, slices=slices, copies=copies, mark_values=())

    @cached_property
    def header(self) -> Header:
        """What the slice with the smallest UID says; a stack without headers says nothing."""
        if not self.headers:
            return Header()
        uids = self.slices.sop_instance_uid.tolist()
        return self.headers[int(self.slices.header[uids.index(min(uids))])]

    @cached_property
    def own_headers(self) -> tuple[Header, ...]:
        """The kinds of headers that slices of this stack have."""
        return tuple(self.headers[i] for i in np.unique(self.slices.header)) if self.headers else ()

    @property
    def lossy(self) -> bool:
        """Whether pixels have been through a lossy compression."""
        return any(header.is_lossy for header in self.own_headers)

    @property
    def burned_in_annotation(self) -> bool:
        """Whether Burned In Annotation (0028,0301) is YES somewhere."""
        return any(header.has_burned_in_annotation for header in self.own_headers)

    @property
    def convolution_kernel(self) -> str:
        """Convolution Kernel (0018,1210) of `header`."""
        return self.header.convolution_kernel
