"""What may tell slices of one series apart: one table, in the order of trust.

Each row says which attributes are read, where an enhanced image keeps them, how two values are compared, and what
a difference means. `etl.plan.tell_apart` uses the table; ``docs/dicom.md`` shows it.

References
----------
DICOM PS3.3 C.7.6.16 (functional groups), C.7.6.17 (dimensions), C.7.6.2 and C.8.2.1 (classic CT).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from etl.dicom.attributes import read_mark, read_value

Comparison = Literal["text", "uid", "number", "instant"]
Role = Literal["space", "image", "phase", "acquisition", "record"]

ROLES: dict[Role, str] = {
    "space": "never in one volume",
    "image": "no volume alternates in it; it may change from region to region",
    "phase": "a time point or phase each",
    "acquisition": "slices of one volume may be acquired in turn or one region after the other",
    "record": "only tells slices at one position apart",
}
_POSITION_POINTERS = frozenset(
    int(Tag(keyword))
    for keyword in (
        *("ImagePositionPatient", "ImagePositionVolume", "InStackPositionNumber", "InstanceNumber"),
        *("SliceLocation", "TablePosition", "ImageOrientationPatient"),
    )
)


@dataclass(frozen=True)
class Distinction:
    """One row: an attribute that may tell slices apart.

    Parameters
    ----------
    keywords : tuple of str
        Read in a classic header, or at the top of an enhanced one; a date and a time are read together.
    comparison : {"text", "uid", "number", "instant"}
    role : {"space", "image", "phase", "acquisition", "record"}
        What a difference means, see `ROLES`.
    macro : str
        Functional group that holds the first of them in an enhanced image.
    tolerance : float
        Numbers closer than this, as a share of their size, are one.
    varies : bool
        It often differs from slice to slice of a series, so that it is read from every file.
    parts_regions : bool
        It tells two regions that lie far apart from a region that lost its middle.
    is_strict : bool
        A volume that would alternate in it without a gap to be parted at is refused.
    """

    keywords: tuple[str, ...]
    comparison: Comparison
    role: Role
    macro: str = ""
    tolerance: float = 0.0
    varies: bool = False
    parts_regions: bool = False
    is_strict: bool = False

    @property
    def name(self) -> str:
        """The attribute by its name in the standard."""
        return " and ".join(dictionary_description(keyword) for keyword in self.keywords)

    @property
    def keyword(self) -> str:
        """The attribute by its keyword, a date and a time joined."""
        return "+".join(self.keywords)


_BREATHING, _IRRADIATION = "RespiratorySynchronizationSequence", "IrradiationEventIdentificationSequence"
_CONTENT, _CARDIAC, _MADE = "FrameContentSequence", "CardiacSynchronizationSequence", "CTReconstructionSequence"

DISTINCTIONS: tuple[Distinction, ...] = (
    Distinction(("FrameOfReferenceUID",), "uid", "space", is_strict=True),
    Distinction(("StudyInstanceUID",), "uid", "image", parts_regions=True),
    Distinction(("StudyDate",), "text", "image", parts_regions=True),
    Distinction(("SeriesNumber",), "number", "image", parts_regions=True),
    Distinction(("TemporalPositionIndex",), "number", "phase", _CONTENT, varies=True, is_strict=True),
    Distinction(("TemporalPositionIdentifier",), "number", "phase", varies=True, is_strict=True),
    Distinction(("TemporalPositionTimeOffset",), "number", "phase", "TemporalPositionSequence", varies=True),
    Distinction(("StackID",), "text", "image", _CONTENT, parts_regions=True, is_strict=True),
    Distinction(("DimensionIndexValues",), "text", "acquisition", _CONTENT),
    Distinction(("NominalPercentageOfCardiacPhase",), "number", "phase", _CARDIAC, varies=True),
    Distinction(("NominalCardiacTriggerDelayTime",), "number", "phase", _CARDIAC, varies=True),
    Distinction(("ActualCardiacTriggerDelayTime",), "number", "phase", _CARDIAC, varies=True),
    Distinction(("TriggerTime",), "number", "phase", varies=True),
    Distinction(
        ("NominalPercentageOfRespiratoryPhase",),
        "number",
        "phase",
        "RespiratorySynchronizationSequence",
        varies=True,
    ),
    Distinction(("FrameReferenceDateTime",), "instant", "acquisition", _CONTENT),
    Distinction(("FrameAcquisitionDateTime",), "instant", "acquisition", _CONTENT),
    Distinction(("AcquisitionDateTime",), "instant", "acquisition", varies=True),
    Distinction(("AcquisitionDate", "AcquisitionTime"), "instant", "acquisition", varies=True),
    Distinction(("ContentDate", "ContentTime"), "instant", "record", varies=True),
    Distinction(("FrameAcquisitionNumber",), "number", "acquisition", _CONTENT, parts_regions=True),
    Distinction(("AcquisitionNumber",), "number", "acquisition", varies=True, parts_regions=True),
    Distinction(
        ("IrradiationEventUID",), "uid", "acquisition", "IrradiationEventIdentificationSequence", varies=True
    ),
    Distinction(("SeriesDate", "SeriesTime"), "instant", "image"),
    Distinction(("ConvolutionKernel",), "text", "image", _MADE, is_strict=True),
    Distinction(("SliceThickness",), "number", "image", "PixelMeasuresSequence", 0.02),
    Distinction(("KVP",), "number", "image", "CTXRayDetailsSequence", 0.01),
    Distinction(("FilterType",), "text", "image", "CTXRayDetailsSequence"),
    Distinction(("ReconstructionDiameter",), "number", "image", _MADE, 0.002),
    Distinction(("ReconstructionAlgorithm",), "text", "image", _MADE),
    Distinction(("ContrastBolusAgent",), "text", "image"),
    Distinction(("ScanOptions",), "text", "image"),
    Distinction(("ImageType",), "text", "image"),
    Distinction(("FrameType",), "text", "image", "CTImageFrameTypeSequence"),
    Distinction(("SeriesDescription",), "text", "image"),
)

MARK_KEYWORDS = tuple(dict.fromkeys(keyword for row in DISTINCTIONS for keyword in row.keywords))
VARYING_KEYWORDS = frozenset(keyword for row in DISTINCTIONS if row.varies for keyword in row.keywords)
SETTLED = tuple(i for i, row in enumerate(DISTINCTIONS) if not row.varies)
"""Rows that all files of one layout of header share."""
# A slice whose header is alike has the same elements: what is not there needs no look.
_VARYING = tuple((i, row, Tag(row.keywords[-1])) for i, row in enumerate(DISTINCTIONS) if row.varies)
_INDEX_VALUES = "DimensionIndexValues"


def table_rows() -> list[str]:
    """Give the table as lines of Markdown, for the documents."""
    lines = [
        "| trust | attribute | functional group | compared as | a difference means |",
        "| --- | --- | --- | --- | --- |",
    ]
    for trust, row in enumerate(DISTINCTIONS, start=1):
        tolerance = f", within {100 * row.tolerance:g} %" if row.tolerance else ""
        group = f"`{row.macro}`" if row.macro else ""
        lines.append(f"| {trust} | {row.name} | {group} | {row.comparison}{tolerance} | {ROLES[row.role]} |")
    return lines


def read_marks(dataset: Dataset, groups: Sequence[Dataset | None]) -> tuple[str, ...]:
    """Read what may tell a slice apart: a text for each row of the table, empty where absent.

    Parameters
    ----------
    dataset : Dataset
    groups : sequence of Dataset or None
        Functional groups of the frame, its own before the shared ones; empty in a classic image.
    """
    macros = _macros(groups)
    return tuple(_read(row, dataset, macros) for row in DISTINCTIONS)


def read_varying(dataset: Dataset, known: tuple[str, ...]) -> tuple[str, ...]:
    """Read what differs from a classic slice whose header is alike; `known` is what that one said."""
    marks, there = list(known), dataset.keys()
    for i, row, tag in _VARYING:
        if tag in there:
            marks[i] = _read(row, dataset, {})
    return tuple(marks)


def _read(row: Distinction, dataset: Dataset, macros: Mapping[str, Dataset]) -> str:
    keyword = row.keywords[0]
    holder = macros.get(row.macro) if row.macro else None
    if keyword == _INDEX_VALUES:
        return "" if holder is None else _dimensions(dataset, holder)
    found = read_mark(holder, keyword) if holder is not None else ""
    if found:
        return found
    if len(row.keywords) == 1:
        return read_mark(dataset, keyword)
    date, time = (read_mark(dataset, keyword) for keyword in row.keywords)
    return f"{date} {time}" if time else ""


def _macros(groups: Sequence[Dataset | None]) -> dict[str, Dataset]:
    """First item of each functional group that the table names; a frame's own goes before the shared one."""
    found: dict[str, Dataset] = {}
    if groups:
        for macro in _MACROS:
            for group in groups:
                sequence = None if group is None or macro not in group else read_value(group, macro)
                if sequence:
                    found[macro] = sequence[0]
                    break
    return found


_MACROS = tuple(dict.fromkeys(row.macro for row in DISTINCTIONS if row.macro))


def _dimensions(dataset: Dataset, content: Dataset) -> str:
    """Give the Dimension Index Values that index no position, each with what it points to.

    Without the Dimension Index Sequence (0020,9222) nobody knows what they count.
    """
    values = read_mark(content, _INDEX_VALUES).split("\\")
    pointers = list(_pointers(read_value(dataset, "DimensionIndexSequence") or ()))
    if len(values) != len(pointers):
        return ""
    return ", ".join(
        f"{pointer:08X}={value}"
        for pointer, value in zip(pointers, values, strict=True)
        if pointer not in _POSITION_POINTERS
    )


def _pointers(sequence: Iterable[Dataset]) -> Iterable[int]:
    for dimension in sequence:
        pointer = read_value(dimension, "DimensionIndexPointer")
        yield int(pointer) if pointer is not None else 0
