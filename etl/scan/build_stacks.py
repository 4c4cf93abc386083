"""From records, one a slice, to stacks held by column."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from etl.dicom.attributes import allowed_attributes, read_int, read_text, read_value
from etl.header import Header, Plane
from etl.scan.distinctions import SETTLED
from etl.scan.identity import person
from etl.scan.planes import middle_plane, near_groups
from etl.stack import MAX_UID_CHARACTERS, Location, PixelFormat, Slices, Stack, StackKey, common_key
from etl.transfer_syntaxes import TRANSFER_SYNTAXES

Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True, eq=False)
class SliceRecord:
    """One slice as its file describes it; the columns of `Slices`, not yet columns."""

    key: StackKey
    pixel_format: PixelFormat
    columns: dict[str, object]
    marks: tuple[str, ...]
    """See `etl.scan.distinctions.read_marks`."""
    kind: tuple[object, ...]
    """See `header_kind`."""
    location: Location
    dataset: Dataset
    """The file's header, shared by its frames; attributes are picked from one slice of a kind only."""


def build_stack(rows: Sequence[SliceRecord]) -> Stack:
    """Turn the records of one stack into columns; the order in which files were found changes nothing."""
    rows = sorted(rows, key=lambda row: (row.columns["sop_instance_uid"], row.columns["frame"], row.location))
    formats, format_index = _table([row.pixel_format for row in rows])
    planes, plane_index = _table([Plane(row.key.orientation, row.key.pixel_spacing_mm) for row in rows])
    kinds, kind_index = _table([row.kind for row in rows])
    first_of_kind = np.unique(kind_index, return_index=True)[1]
    marks = [_table(column) for column in zip(*(row.marks for row in rows), strict=True)]
    columns = {name: np.array([row.columns[name] for row in rows], dtype=dtype) for name, dtype in _DTYPES.items()}
    return Stack(
        key=common_key([row.key for row in rows]),
        slices=Slices(
            locations=tuple(row.location for row in rows),
            format=format_index.astype(np.int16),
            plane=plane_index,
            header=kind_index,
            marks=np.stack([index for _, index in marks], axis=1),
            **columns,
        ),
        formats=formats,
        planes=planes,
        headers=tuple(_header(kind, rows[i]) for kind, i in zip(kinds, first_of_kind, strict=True)),
        mark_values=tuple(values for values, _ in marks),
    )


def join_stacks(parts: Sequence[Stack]) -> Stack:
    """Make one stack of the parts of a series that several sources hold."""
    if len(parts) == 1:
        return parts[0]
    parts = sorted(parts, key=lambda part: (min(part.slices.sop_instance_uid.tolist()), part.slices.locations[0]))
    formats, format_index = _joined([part.formats for part in parts], [part.slices.format for part in parts])
    planes, plane_index = _joined([part.planes for part in parts], [part.slices.plane for part in parts])
    kinds, kind_index = _joined(
        [[header.kind for header in part.headers] for part in parts], [part.slices.header for part in parts]
    )
    every = sorted((header for part in parts for header in part.headers), key=lambda h: h.sop_instance_uid)
    by_kind = {header.kind: header for header in reversed(every)}
    marks = [
        _joined([part.mark_values[k] for part in parts], [part.slices.marks[:, k] for part in parts])
        for k in range(len(parts[0].mark_values))
    ]
    return Stack(
        key=common_key([part.key for part in parts]),
        slices=replace(
            Slices.concatenate([part.slices for part in parts]),
            format=format_index.astype(np.int16),
            plane=plane_index,
            header=kind_index,
            marks=np.stack([index for _, index in marks], axis=1),
        ),
        formats=formats,
        planes=planes,
        headers=tuple(by_kind[kind] for kind in kinds),
        mark_values=tuple(values for values, _ in marks),
    )


def part_planes(stack: Stack) -> list[Stack]:
    """Part a stack by how its planes lie and how pixels are spaced; the last printed digits part nothing.

    Planes are near each other in steps, whatever file comes first; how far apart the ends of a part may be is
    checked in the plan.
    """
    if len(stack.planes) == 1:
        return [stack]
    group = near_groups(stack.planes)[stack.slices.plane]
    parts = []
    for number in range(int(group.max()) + 1):
        slices = stack.slices.take(np.flatnonzero(group == number))
        plane = middle_plane([stack.planes[i] for i in slices.plane])
        key = replace(stack.key, orientation=plane.orientation, pixel_spacing_mm=plane.pixel_spacing_mm)
        parts.append(replace(stack, key=key, slices=slices))
    return parts


def _table(values: Sequence[Value]) -> tuple[tuple[Value, ...], NDArray[np.int32]]:
    """Give the distinct values in the order of their first occurrence, and an index into them for each value."""
    numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
    if len(numbers) == 1:
        return tuple(numbers), np.zeros(len(values), np.int32)
    return tuple(numbers), np.fromiter((numbers[value] for value in values), np.int32, len(values))


def _joined(
    tables: Sequence[Sequence[Any]], indices: Sequence[NDArray[Any]]
) -> tuple[tuple[Any, ...], NDArray[np.int32]]:
    """Join tables of values, and what points into them."""
    values, places = _table([value for table in tables for value in table])
    starts = np.cumsum([0, *(len(table) for table in tables)])
    index = [places[start + own] for start, own in zip(starts, indices, strict=False)]
    return values, np.concatenate(index).astype(np.int32)


_DTYPES: dict[str, str] = {
    "frame": "i4",
    "pixel_offset": "i8",
    "pixel_length": "i8",
    "file_bytes": "i8",
    "modified_ns": "i8",
    "changed_ns": "i8",
    "inode": "u8",
    "crc32": "i8",
    "sop_instance_uid": f"S{MAX_UID_CHARACTERS}",
    "instance_number": "i4",
    "position_lps_mm": "f8",
    "slope": "f8",
    "intercept": "f8",
    "padding": "f8",
    "thickness_mm": "f8",
}


def header_kind(
    dataset: Dataset, key: StackKey, pixel_format: PixelFormat, marks: tuple[str, ...]
) -> tuple[object, ...]:
    """Give what decides for which slices one header can stand; noise in orientation makes no kind of its own."""
    plane = tuple(round(v, 2) for v in (*key.orientation, *key.pixel_spacing_mm))
    settled = tuple(marks[i] for i in SETTLED)
    return (
        *(settled, plane, _is_lossy(dataset, pixel_format), _is_burned_in(dataset)),
        *(_concatenation(dataset), person(dataset), pixel_format.number_of_frames),
    )


def _header(kind: tuple[object, ...], row: SliceRecord) -> Header:
    dataset = row.dataset
    allowed = allowed_attributes(dataset)
    return Header(
        kind=kind,
        sop_instance_uid=cast(bytes, row.columns["sop_instance_uid"]),
        dicom=allowed.values,
        dropped=allowed.dropped,
        convolution_kernel=read_text(dataset, "ConvolutionKernel"),
        description=read_text(dataset, "SeriesDescription").lower(),
        image_type=read_text(dataset, "ImageType"),
        has_contrast=_has_contrast(dataset),
        is_lossy=_is_lossy(dataset, row.pixel_format),
        has_burned_in_annotation=_is_burned_in(dataset),
        frame_groups=len(read_value(dataset, "PerFrameFunctionalGroupsSequence") or ()),
        images_in_acquisition=max(0, read_int(dataset, "ImagesInAcquisition", 0)),
        concatenation=_concatenation(dataset),
        person=person(dataset),
    )


def _has_contrast(dataset: Dataset) -> bool:
    agent = read_text(dataset, "ContrastBolusAgent").lower()
    return agent not in {"", "no", "none", "without", "0"}


def _is_lossy(dataset: Dataset, pixel_format: PixelFormat) -> bool:
    syntax = TRANSFER_SYNTAXES.get(pixel_format.transfer_syntax_uid)
    is_lossy_syntax = syntax is not None and syntax.is_lossy
    return is_lossy_syntax or read_text(dataset, "LossyImageCompression") == "01"


def _is_burned_in(dataset: Dataset) -> bool:
    return read_text(dataset, "BurnedInAnnotation").upper() == "YES"


def _concatenation(dataset: Dataset) -> tuple[str, int, int]:
    numbers = (read_int(dataset, f"InConcatenation{which}Number", 0) for which in ("", "Total"))
    number, total = numbers
    return read_text(dataset, "ConcatenationUID"), number, total
