"""From one parsed header to rows, from rows to stacks.

A file gives one row a frame. Enhanced and legacy-converted CT keep geometry and rescale in functional groups
(DICOM PS3.3 C.7.6.16); each frame is then a slice like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from etl.dicom.attributes import ALLOWED_KEYWORDS, read_float, read_floats, read_int, read_text, read_value
from etl.dicom.rescale_types import canonical_rescale_type
from etl.scan.build_stacks import SliceRecord, header_kind
from etl.scan.distinctions import MARK_KEYWORDS, VARYING_KEYWORDS, read_marks, read_varying
from etl.scan.identity import Identity, substitute_uid, uid
from etl.stack import FileState, Location, PixelFormat, StackKey
from etl.transfer_syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN

HEADER_KEYWORDS = tuple(
    dict.fromkeys(
        (
            *ALLOWED_KEYWORDS,
            *MARK_KEYWORDS,
            "BurnedInAnnotation",
            "Columns",
            "ConcatenationUID",
            "DimensionIndexSequence",
            "ImageOrientationPatient",
            "ImagePositionPatient",
            "ImagesInAcquisition",
            "InConcatenationNumber",
            "InConcatenationTotalNumber",
            "InstanceNumber",
            "IssuerOfPatientID",
            "NumberOfFrames",
            "PatientBirthDate",
            "PatientID",
            "PerFrameFunctionalGroupsSequence",
            "PixelPaddingRangeLimit",
            "PixelPaddingValue",
            "PixelSpacing",
            "RescaleIntercept",
            "RescaleSlope",
            "Rows",
            "SOPClassUID",
            "SOPInstanceUID",
            "SamplesPerPixel",
            "SeriesInstanceUID",
            "SharedFunctionalGroupsSequence",
            "SpecificCharacterSet",
        )
    )
)
HEADER_TAGS = {int(tag): tag for tag in (Tag(keyword) for keyword in HEADER_KEYWORDS)}
HEADER_SEQUENCES = frozenset(number for number, tag in HEADER_TAGS.items() if dictionary_VR(tag) == "SQ")
_SLICE_KEYWORDS = VARYING_KEYWORDS | {"ImagePositionPatient", "InstanceNumber", "SOPInstanceUID"}
# Of the allowed attributes these decide to which stack a slice belongs, how it is read, or who it is of.
_DECIDING_KEYWORDS = {
    *("BitsAllocated", "BitsStored", "HighBit", "LossyImageCompression", "Modality", "PatientSex"),
    *("PhotometricInterpretation", "PixelRepresentation", "RescaleType", "SliceThickness"),
    *(set(MARK_KEYWORDS) - VARYING_KEYWORDS),
}
FREE_TAGS = frozenset(int(Tag(k)) for k in _SLICE_KEYWORDS | (set(ALLOWED_KEYWORDS) - _DECIDING_KEYWORDS))
"""Files that differ in no other tag of `HEADER_TAGS` give equal records but for what varies with the slice."""
# Far above any scan; each frame costs a row.
MAX_FRAMES = 100_000
# The head of a fragment; no frame takes less.
MIN_FRAME_BYTES = 8
# No deflate stream holds more (zlib.net, "Maximum Compression Factor").
DEFLATE_RATIO = 1032


def records_of(
    dataset: Dataset,
    *,
    transfer_syntax_uid: str,
    location: Location,
    source_name: str,
    folder: str,
    pixel_offset: int,
    pixel_length: int,
    state: FileState,
    crc32: int,
    sibling: SliceRecord | None = None,
) -> list[SliceRecord]:
    """Turn a header into one row a frame.

    Parameters
    ----------
    dataset : Dataset
        Parsed with `HEADER_KEYWORDS`, without pixels.
    transfer_syntax_uid : str
        (0002,0010); empty where there is no file meta group.
    location : Location
    source_name : str
        Stands for the patient where Patient ID (0010,0020) is absent or empty.
    folder : str
        Folder of the file within its source; identifies the series where UIDs are absent.
    pixel_offset, pixel_length, crc32 : int
        As in `Slices`.
    state : FileState
        Of the file.
    sibling : SliceRecord, optional
        The one row of a file of the same folder that differs in nothing but `FREE_TAGS`.
    """
    file_columns = {
        "pixel_offset": pixel_offset,
        "pixel_length": pixel_length,
        "file_bytes": state.size_bytes,
        "modified_ns": state.modified_ns,
        "changed_ns": state.changed_ns,
        "inode": state.inode,
        "crc32": crc32,
    }
    if sibling is not None:
        own = _own_columns(dataset, (), sibling.key.series_instance_uid, location)
        return [
            SliceRecord(
                key=sibling.key,
                pixel_format=sibling.pixel_format,
                columns={**sibling.columns, **file_columns, **own},
                marks=read_varying(dataset, sibling.marks),
                kind=sibling.kind,
                location=location,
                dataset=dataset,
            )
        ]
    # Names on disk need not be UTF-8; what stands in for a Patient ID has to be.
    source_name = source_name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    identity = Identity.of(dataset, source_name, folder)
    frames = max(1, read_int(dataset, "NumberOfFrames", 1))
    shared = _first(read_value(dataset, "SharedFunctionalGroupsSequence"))
    per_frame = read_value(dataset, "PerFrameFunctionalGroupsSequence") or ()
    is_enhanced = shared is not None or len(per_frame) > 0
    pixel_format = _pixel_format(dataset, transfer_syntax_uid, frames)
    room_bytes = state.size_bytes * (DEFLATE_RATIO if transfer_syntax_uid == DEFLATED else 1)
    allowed = min(MAX_FRAMES, max(1, room_bytes // MIN_FRAME_BYTES))
    if frames > allowed:
        raise ValueError(f"Number of Frames (0028,0008) is {frames}; {state.size_bytes} bytes may hold {allowed}")
    rows = []
    for index in range(frames):
        groups = [per_frame[index] if index < len(per_frame) else None, shared] if is_enhanced else ()
        key = _stack_key(dataset, identity, groups, has_pixels=pixel_length != 0)
        marks = read_marks(dataset, groups)
        rows.append(
            SliceRecord(
                key=key,
                pixel_format=pixel_format,
                marks=marks,
                kind=header_kind(dataset, key, pixel_format, marks),
                columns={
                    "frame": index,
                    **file_columns,
                    **_own_columns(dataset, groups, identity.series, location),
                    **_frame_columns(dataset, groups),
                },
                location=location,
                dataset=dataset,
            )
        )
    return rows


def _stack_key(
    dataset: Dataset, identity: Identity, groups: Sequence[Dataset | None], *, has_pixels: bool
) -> StackKey:
    orientation = _grouped(dataset, groups, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _grouped(dataset, groups, "PixelMeasuresSequence", "PixelSpacing")
    transformation = _macro(groups, "PixelValueTransformationSequence")
    rescale_type = read_text(transformation if transformation is not None else dataset, "RescaleType")
    frame = _macro(groups, "CTImageFrameTypeSequence")
    frame_type = "" if frame is None else read_text(frame, "FrameType")
    return StackKey(
        patient_id=identity.patient_id,
        study_instance_uid=identity.study,
        series_instance_uid=identity.series,
        series_number=read_int(dataset, "SeriesNumber", 0),
        sop_class_uid=read_text(dataset, "SOPClassUID"),
        modality=read_text(dataset, "Modality"),
        rows=read_int(dataset, "Rows", 0),
        columns=read_int(dataset, "Columns", 0),
        samples_per_pixel=read_int(dataset, "SamplesPerPixel", 1),
        orientation=orientation,
        pixel_spacing_mm=spacing,
        rescale_type=canonical_rescale_type(rescale_type),
        undecodable_patient_id=identity.is_undecodable,
        is_localizer="LOCALIZER" in f"{read_text(dataset, 'ImageType')} {frame_type}".upper(),
        has_pixels=has_pixels,
        patient_id_from_path=identity.from_path,
        series_uid_from_path=identity.series_from_path,
    )


def _pixel_format(dataset: Dataset, syntax: str, frames: int) -> PixelFormat:
    if not syntax:
        implicit, little = dataset.original_encoding
        explicit = EXPLICIT_LITTLE_ENDIAN if little else EXPLICIT_BIG_ENDIAN
        syntax = IMPLICIT_LITTLE_ENDIAN if implicit else explicit
    return PixelFormat(
        transfer_syntax_uid=syntax,
        rows=read_int(dataset, "Rows", 0),
        columns=read_int(dataset, "Columns", 0),
        samples_per_pixel=read_int(dataset, "SamplesPerPixel", 1),
        bits_allocated=read_int(dataset, "BitsAllocated", -1),
        bits_stored=read_int(dataset, "BitsStored", -1),
        high_bit=read_int(dataset, "HighBit", -1),
        pixel_representation=read_int(dataset, "PixelRepresentation", -1),
        photometric_interpretation=read_text(dataset, "PhotometricInterpretation"),
        number_of_frames=frames,
    )


def _own_columns(
    dataset: Dataset, groups: Sequence[Dataset | None], series: str, location: Location
) -> dict[str, object]:
    """Read what mostly differs from slice to slice."""
    own_uid = uid(dataset, "SOPInstanceUID") or substitute_uid(series, location.member)
    position = _grouped(dataset, groups, "PlanePositionSequence", "ImagePositionPatient")
    return {
        "sop_instance_uid": own_uid.encode("ascii", "replace"),
        "instance_number": read_int(dataset, "InstanceNumber", -1),
        "position_lps_mm": position if len(position) == 3 else (math.nan,) * 3,
    }


def _frame_columns(dataset: Dataset, groups: Sequence[Dataset | None]) -> dict[str, object]:
    transformation = _macro(groups, "PixelValueTransformationSequence")
    rescale = transformation if transformation is not None else dataset
    thickness = _grouped(dataset, groups, "PixelMeasuresSequence", "SliceThickness")
    return {
        "slope": read_float(rescale, "RescaleSlope"),
        "intercept": read_float(rescale, "RescaleIntercept"),
        "padding": (read_float(dataset, "PixelPaddingValue"), read_float(dataset, "PixelPaddingRangeLimit")),
        "thickness_mm": thickness[0] if thickness else math.nan,
    }


def _first(sequence: object) -> Dataset | None:
    return sequence[0] if isinstance(sequence, Sequence) and len(sequence) else None


def _macro(groups: Sequence[Dataset | None], keyword: str) -> Dataset | None:
    """First item of a functional group macro: the frame's own, else the shared one."""
    found = (_first(read_value(group, keyword)) for group in groups if group is not None)
    return next((item for item in found if item is not None), None)


def _grouped(dataset: Dataset, groups: Sequence[Dataset | None], macro: str, keyword: str) -> tuple[float, ...]:
    item = _macro(groups, macro)
    return read_floats(item, keyword) if item is not None and keyword in item else read_floats(dataset, keyword)
