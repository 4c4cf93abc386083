"""Technical DICOM attributes that a store may keep, and how untrusted values become plain ones.

Only what is on the list reaches a store: no names, dates, times, accession numbers, institutions, physicians,
serial numbers, private tags or free text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

ALLOWED_KEYWORDS = (
    "BitsAllocated",
    "BitsStored",
    "BodyPartExamined",
    "CTDIvol",
    "ConvolutionKernel",
    "DataCollectionDiameter",
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "Exposure",
    "ExposureTime",
    "FilterType",
    "FocalSpots",
    "GantryDetectorTilt",
    "GeneratorPower",
    "HighBit",
    "ImageType",
    "KVP",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
    "LossyImageCompressionRatio",
    "Manufacturer",
    "ManufacturerModelName",
    "Modality",
    "PatientAge",
    "PatientPosition",
    "PatientSex",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "ReconstructionDiameter",
    "RescaleType",
    "RevolutionTime",
    "RotationDirection",
    "ScanOptions",
    "SingleCollimationWidth",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SpiralPitchFactor",
    "TableFeedPerRotation",
    "TableSpeed",
    "TotalCollimationWidth",
    "XRayTubeCurrent",
)
MAX_TEXT_CHARACTERS = 64
# A date or a number that somebody is known by is larger than what any of these attributes measures.
MAX_NUMBER = 1e7
# What a value of each VR is made of (DICOM PS3.5 6.2); longer texts than it allows are common and harm nobody.
_FORMS = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]{1,16}"),
    "DS": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([Ee][+-]?\d+)?"),
    "IS": re.compile(r"[+-]?\d{1,12}"),
    "LO": re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_TEXT_CHARACTERS}}}"),
    "SH": re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_TEXT_CHARACTERS}}}"),
}
_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "UL", "US"})
_TEXT_NUMBERS = frozenset({"DS", "IS", "TM"})
# Code strings, identifiers and ages are ASCII whatever Specific Character Set says (DICOM PS3.5 6.1.2.2).
_ASCII_TEXT = frozenset({"AS", "CS", "UI"})
_ANY_TEXT = frozenset({"LO", "SH"})
_BINARY_NUMBERS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_ESCAPE = b"\x1b"


class Allowed(NamedTuple):
    """What of the list a file says, and what it says in a way that cannot be meant."""

    values: dict[str, object]
    """Plain JSON values by DICOM keyword."""
    dropped: tuple[str, ...]
    """Keywords whose value is none of their VR."""


def allowed_attributes(dataset: Dataset) -> Allowed:
    """Pick the attributes on the list whose values parse by their VR, whatever VR the file gives them."""
    values: dict[str, object] = {}
    dropped = []
    for keyword in ALLOWED_KEYWORDS:
        if not _is_filled(dataset, keyword):
            continue
        found = _plain(read_value(dataset, keyword), _dictionary(keyword)[1])
        if found is None:
            dropped.append(keyword)
        elif found not in ("", []):
            values[keyword] = found
    return Allowed(values, tuple(dropped))


def _is_filled(dataset: Dataset, keyword: str) -> bool:
    element, raw, _ = _raw(dataset, keyword)
    if raw is not None:
        # Binary numbers may be all zeros.
        return bool(raw.strip(b"\0 ") if _dictionary(keyword)[1] in _FORMS else raw)
    return element is not None and getattr(element, "value", None) not in (None, "", [])


def read_value(dataset: Dataset, keyword: str) -> Any:
    """Give the value of an attribute; None where it is absent, empty or cannot be parsed."""
    try:
        return dataset.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises whatever a malformed value provokes
        return None


def read_text(dataset: Dataset, keyword: str) -> str:
    """Give the value as text without padding, several values joined by a backslash; empty where absent."""
    element, raw, vr = _raw(dataset, keyword)
    if element is None:
        return ""
    # Where no byte is beyond ASCII and none switches the set, all character sets agree.
    is_plain = vr in _ASCII_TEXT or (vr in _ANY_TEXT and raw is not None and raw.isascii() and _ESCAPE not in raw)
    if raw is not None and is_plain:
        return raw.decode("ascii", "replace").replace("\0", "").strip()
    found = read_value(dataset, keyword)
    if isinstance(found, MultiValue):
        found = "\\".join(str(part) for part in found)
    return "" if found is None else str(found).replace("\0", "").strip()


def read_mark(dataset: Dataset, keyword: str) -> str:
    """Give the value as text that is only compared: bytes beyond ASCII stay apart, whatever they stand for."""
    element, raw, vr = _raw(dataset, keyword)
    if element is None:
        return ""
    if raw is not None and vr not in _BINARY_NUMBERS:
        return raw.decode("latin-1").strip(" \0")
    found = read_value(dataset, keyword)
    if isinstance(found, MultiValue | list | tuple):
        return "\\".join(str(part) for part in found)
    return "" if found is None else str(found).strip(" \0")


def read_floats(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Give the value as floats; empty where it is absent, not numeric or not finite."""
    element, raw, vr = _raw(dataset, keyword)
    if element is None:
        return ()
    try:
        if raw is not None and vr in _TEXT_NUMBERS:
            parsed = tuple(float(part) for part in raw.rstrip(b"\0 ").split(b"\\"))
        elif raw is not None and vr == "US" and len(raw) == 2:
            parsed = (float(int.from_bytes(raw, "little" if _is_little_endian(dataset) else "big")),)
        else:
            found = read_value(dataset, keyword)
            values = found if isinstance(found, MultiValue | list | tuple) else [found]
            parsed = tuple(float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        return ()
    return parsed if all(math.isfinite(v) for v in parsed) else ()


def _raw(dataset: Dataset, keyword: str) -> tuple[object, bytes | None, str]:
    """Element or None, its bytes where it is not parsed yet, and its VR.

    Converting an element with pydicom takes 30 microseconds, asking for one that is absent 10; a scan does thirty
    of each for every slice.
    """
    tag, vr = _dictionary(keyword)
    element: Any = dataset.get_item(tag)
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return element, None, vr
    return element, element.value, element.VR or vr


@cache
def _dictionary(keyword: str) -> tuple[BaseTag, str]:
    return Tag(keyword), dictionary_VR(keyword)


def _is_little_endian(dataset: Dataset) -> bool:
    return bool(dataset.original_encoding[1])


def read_float(dataset: Dataset, keyword: str) -> float:
    """Give the first value as a float; NaN where absent."""
    found = read_floats(dataset, keyword)
    return found[0] if found else math.nan


def read_int(dataset: Dataset, keyword: str, default: int) -> int:
    """Give the first value as an int of 32 bits; `default` where absent or out of range."""
    found = read_float(dataset, keyword)
    return int(found) if math.isfinite(found) and abs(found) < 2**31 else default


def _plain(found: Any, vr: str) -> object:
    """Give a value as plain JSON; None where it is none of the VR, empty where there is none."""
    if isinstance(found, Sequence) and not isinstance(found, str | bytes):
        plain = [_plain(v, vr) for v in found]
        return plain if all(v is not None for v in plain) else None
    if isinstance(found, bool | bytes) or found is None:
        return None
    if vr in _NUMBERS:
        return _plain_number(found, vr)
    text = str(found).replace("\0", "").strip()
    return text if not text or _FORMS[vr].fullmatch(text) else None


def _plain_number(found: Any, vr: str) -> int | float | str | None:
    if not isinstance(found, int | float):
        text = str(found).replace("\0", "").strip()
        if not text:
            return ""
        if vr not in _FORMS or _FORMS[vr].fullmatch(text) is None:
            return None
        found = int(text) if vr == "IS" else float(text)
    plain = int(found) if isinstance(found, int) else float(found)
    return plain if math.isfinite(plain) and abs(plain) < MAX_NUMBER else None
