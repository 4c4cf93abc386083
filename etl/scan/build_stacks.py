"""From rows, one a slice, to stacks held by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from pydicom.dataset import Dataset

from etl.dicom.attributes import allowed_attributes, read_text
from etl.stack import MAX_UID_CHARACTERS, Location, PixelFormat, Slices, Stack, StackKey, common_key
from etl.transfer_syntaxes import TRANSFER_SYNTAXES


@dataclass(frozen=True, eq=False)
class SliceRecord:
    """One slice as its file describes it; the columns of `Slices`, not yet columns."""

    key: StackKey
    pixel_format: PixelFormat
    columns: dict[str, object]
    location: Location
    dataset: Dataset
    """The file's header, shared by its frames; attributes are picked from one slice a stack only."""


def build_stack(rows: Sequence[SliceRecord]) -> Stack:
    """Turn the rows of one stack into columns; the order in which files were found changes nothing."""
    rows = sorted(rows, key=lambda row: (row.columns["sop_instance_uid"], row.columns["frame"], row.location))
    formats = tuple(dict.fromkeys(row.pixel_format for row in rows))
    types = {f.name: f.type for f in fields(Slices)}
    columns = {
        name: np.array([row.columns[name] for row in rows], dtype=_DTYPES[name])
        for name in types
        if name not in {"locations", "format"}
    }
    first = rows[0].dataset
    allowed = allowed_attributes(first)
    return Stack(
        key=common_key([row.key for row in rows]),
        slices=Slices(
            locations=tuple(row.location for row in rows),
            format=np.array([formats.index(row.pixel_format) for row in rows], np.int16),
            **columns,
        ),
        formats=formats,
        dicom=allowed.values,
        dropped=allowed.dropped,
        convolution_kernel=read_text(first, "ConvolutionKernel"),
        description=read_text(first, "SeriesDescription").lower(),
        image_type=read_text(first, "ImageType"),
        has_contrast=_has_contrast(first),
        lossy=any(_is_lossy(row) for row in rows),
        burned_in_annotation=any(read_text(row.dataset, "BurnedInAnnotation").upper() == "YES" for row in rows),
    )


def join_stacks(parts: Sequence[Stack]) -> Stack:
    """Make one stack of the parts of a series that several sources hold."""
    if len(parts) == 1:
        return parts[0]
    formats = tuple(dict.fromkeys(fmt for part in parts for fmt in part.formats))
    parts = sorted(parts, key=lambda part: (min(part.slices.sop_instance_uid.tolist()), part.slices.locations[0]))
    first = parts[0]
    slices = Slices.concatenate([part.slices for part in parts])
    index = [formats.index(part.formats[i]) for part in parts for i in part.slices.format]
    slices.format[:] = index
    return Stack(
        key=common_key([part.key for part in parts]),
        slices=slices,
        formats=formats,
        dicom=first.dicom,
        dropped=first.dropped,
        convolution_kernel=first.convolution_kernel,
        description=first.description,
        image_type=first.image_type,
        has_contrast=first.has_contrast,
        lossy=any(part.lossy for part in parts),
        burned_in_annotation=any(part.burned_in_annotation for part in parts),
    )


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
    "repeat": "f8",
}


def _has_contrast(dataset: Dataset) -> bool:
    agent = read_text(dataset, "ContrastBolusAgent").lower()
    return agent not in {"", "no", "none", "without", "0"}


def _is_lossy(row: SliceRecord) -> bool:
    syntax = TRANSFER_SYNTAXES.get(row.pixel_format.transfer_syntax_uid)
    is_lossy_syntax = syntax is not None and syntax.is_lossy
    return is_lossy_syntax or read_text(row.dataset, "LossyImageCompression") == "01"
