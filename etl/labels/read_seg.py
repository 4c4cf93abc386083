"""DICOM Segmentation to pixels on planes: binary, fractional and label map; dense, sparse, in any order of frames.

References
----------
DICOM PS3.3 C.8.20 (Segmentation), C.7.6.16 (multi-frame functional groups), C.10.7.1.1 (CIELab).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from etl.codes import LabelCode
from etl.labels.source_mask import LabelError, MaskSegment, PixelMask
from etl.store.label_encoding import MAX_VALUE, Segment
from etl.volume.plane_masks import MaskPlanes

# Positions are printed to about 0.001 mm.
SAME_PLANE_MM = 0.01
PARALLEL = 1e-4
MAX_PIXELS = 1 << 32
BACKGROUND = 0


@dataclass(frozen=True)
class _Frame:
    position_lps_mm: NDArray[np.float64]
    segment: int | None
    """None: a label map, whose pixels are segment numbers."""


def read_seg(dataset: Dataset) -> PixelMask:
    """Read a Segmentation or Label Map Segmentation object.

    Parameters
    ----------
    dataset : Dataset
        The whole object, pixels included.

    Raises
    ------
    LabelError
        ``unreadable-mask``: the planes are not parallel, a frame has no position, or it is too large.
    AttributeError, KeyError, ValueError, TypeError, IndexError, RuntimeError, NotImplementedError
        Something is missing or damaged.
    """
    kind = str(dataset.get("SegmentationType", "BINARY"))
    frames, down, along, thickness = _geometry(dataset, is_label_map=kind == "LABELMAP")
    size = int(dataset.Rows) * int(dataset.Columns) * len(frames)
    if size > MAX_PIXELS:
        raise LabelError(LabelCode.UNREADABLE_MASK, f"it has {size} pixels; allowed are {MAX_PIXELS}")
    planes, plane_of = _planes(frames, down, along, thickness)
    pixels = np.asarray(dataset.pixel_array).reshape(len(frames), int(dataset.Rows), int(dataset.Columns))
    largest = float(dataset.get("MaximumFractionalValue", 255)) if kind == "FRACTIONAL" else 1.0
    by_segment: defaultdict[int, dict[int, NDArray[Any]]] = defaultdict(dict)
    for frame, plane, values in zip(frames, plane_of, pixels, strict=True):
        if frame.segment is None:
            for number in np.unique(values[values != BACKGROUND]).tolist():
                _merge(by_segment[int(number)], plane, values == number)
        elif kind == "FRACTIONAL":
            _merge(by_segment[frame.segment], plane, (values / largest).astype(np.float32))
        else:
            _merge(by_segment[frame.segment], plane, values != 0)
    described = {one.value: one for one in _segments(dataset)}
    segments = tuple(
        MaskSegment(described.get(number, Segment(number, "")), by_segment[number])
        for number in sorted({*by_segment, *described} - {BACKGROUND})
    )
    return PixelMask(planes, segments, is_fractional=kind == "FRACTIONAL")


def _merge(planes: dict[int, NDArray[Any]], plane: int, values: NDArray[Any]) -> None:
    """Join two frames of one segment on one plane."""
    planes[plane] = np.maximum(planes[plane], values) if plane in planes else values


def _geometry(
    dataset: Dataset, *, is_label_map: bool
) -> tuple[list[_Frame], NDArray[np.float64], NDArray[np.float64], float]:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames: list[_Frame] = []
    orientation: NDArray[np.float64] | None = None
    for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        found = np.array(_group(own, shared, "PlaneOrientationSequence").ImageOrientationPatient, np.float64)
        if orientation is not None and np.abs(found - orientation).max() > PARALLEL:
            raise LabelError(
                LabelCode.UNREADABLE_MASK,
                f"Image Orientation (Patient) (0020,0037) of frame {number} is {found.tolist()}; allowed is that "
                f"of the first frame, {orientation.tolist()}",
            )
        orientation = found if orientation is None else orientation
        position = np.array(_group(own, shared, "PlanePositionSequence").ImagePositionPatient, np.float64)
        segment = None
        if not is_label_map:
            segment = int(_group(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        frames.append(_Frame(position, segment))
    if orientation is None:
        raise LabelError(LabelCode.UNREADABLE_MASK, "it has no frame")
    measures = _group(dataset.PerFrameFunctionalGroupsSequence[0], shared, "PixelMeasuresSequence")
    height, width = (float(value) for value in measures.PixelSpacing)
    thickness = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0.0
    return frames, orientation[3:] * height, orientation[:3] * width, abs(float(thickness))


def _group(own: Dataset, shared: Dataset, name: str) -> Any:
    """Give a functional group of a frame: its own, or the one that all share."""
    for holder in (own, shared):
        found = holder.get(name)
        if found:
            return found[0]
    raise LabelError(LabelCode.UNREADABLE_MASK, f"{name} is missing in its functional groups")


def _planes(
    frames: list[_Frame], down: NDArray[np.float64], along: NDArray[np.float64], thickness: float
) -> tuple[MaskPlanes, list[int]]:
    """Sort the frames onto planes; those of several segments share one."""
    positions = np.stack([frame.position_lps_mm for frame in frames])
    normal = np.cross(along, down)
    normal /= np.linalg.norm(normal)
    along_normal = positions @ normal
    order = np.argsort(along_normal, kind="stable")
    is_new = np.concatenate([[True], np.diff(along_normal[order]) > SAME_PLANE_MM])
    number = np.empty(len(frames), np.int64)
    number[order] = np.cumsum(is_new) - 1
    origins = positions[order[is_new]]
    if np.abs(positions - origins[number]).max() > SAME_PLANE_MM:
        raise LabelError(
            LabelCode.UNREADABLE_MASK, "Image Position (Patient) (0020,0032) differs between frames of one plane"
        )
    return MaskPlanes(origins, down, along, thickness or 1.0), number.tolist()


def _segments(dataset: Dataset) -> list[Segment]:
    found = []
    for row in dataset.SegmentSequence:
        number = int(row.SegmentNumber)
        if number == BACKGROUND:
            continue
        if not 0 < number <= MAX_VALUE:
            raise LabelError(
                LabelCode.UNREADABLE_MASK, f"Segment Number (0062,0004) {number}: allowed is 1 to {MAX_VALUE}"
            )
        found.append(Segment(number, str(row.get("SegmentLabel", "")), code_of(row), _color_of(row)))
    return found


def code_of(row: Dataset, name: str = "SegmentedPropertyTypeCodeSequence") -> tuple[str, str, str] | None:
    """Give scheme, value and meaning of the first code of a sequence; None where there is none."""
    codes = row.get(name)
    if not codes:
        return None
    code = codes[0]
    value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or ""
    return str(code.get("CodingSchemeDesignator", "")), str(value), str(code.get("CodeMeaning", ""))


def _color_of(row: Dataset) -> tuple[int, int, int] | None:
    """Turn Recommended Display CIELab Value (0062,000D) into sRGB."""
    encoded = row.get("RecommendedDisplayCIELabValue")
    if encoded is None or len(encoded) != 3:
        return None
    light, green_red, blue_yellow = (float(value) for value in encoded)
    y = (light / 65535 * 100 + 16) / 116
    lab = np.array([y + (green_red / 257 - 128) / 500, y, y - (blue_yellow / 257 - 128) / 200])
    # White of the profile connection space (D50), then linear sRGB by Bradford's adaptation to D65.
    xyz = np.where(lab > 6 / 29, lab**3, 3 * (6 / 29) ** 2 * (lab - 4 / 29)) * [0.9642, 1.0, 0.8249]
    to_rgb = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    linear = np.clip(to_rgb @ xyz, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(shown * 255).astype(int).tolist()
    return red, green, blue
