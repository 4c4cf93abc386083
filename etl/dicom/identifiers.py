"""Identifiers as text that is another one wherever the bytes are others.

References
----------
DICOM PS3.3 C.12.1.1.2 (Specific Character Set), PS3.5 6.1.
"""

from __future__ import annotations

import re
import warnings

import pydicom.config
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from etl.dicom.attributes import read_text

LOST_CHARACTER = r"\xef\xbf\xbd"
"""U+FFFD in UTF-8 as it stands in an identifier."""
_PADDING = " \0"
_DELIMITERS = {0x5C}
_ESCAPE = 0x1B
_ASCII_SETS = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_LOOKS_ESCAPED = re.compile(r"\\(?=x[0-9a-f]{2})")


def read_identifier(dataset: Dataset, keyword: str) -> tuple[str, bool]:
    r"""Read an identifier.

    Parameters
    ----------
    dataset : Dataset
    keyword : str
        Of an attribute of VR LO or SH.

    Returns
    -------
    str
        Its text without padding. Where bytes are no text in the file's Specific Character Set (0008,0005), or the
        set is not named, all that is not ASCII stands as ``\xNN``.
    bool
        Whether all of it is text; U+FFFD is none, but what a program left of text that it could not read.
    """
    element: object = dataset.get_item(keyword)
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return _plain(read_text(dataset, keyword)), True
    raw = element.value.rstrip(_PADDING.encode()).lstrip(b" ")
    text = _decoded(raw, read_text(dataset, "SpecificCharacterSet"))
    if text is not None and "\ufffd" not in text:
        return _plain(text.strip(_PADDING)), True
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in raw), False


def _plain(text: str) -> str:
    r"""Keep a backslash that was written apart from one that stands for a byte: ``\xfc`` becomes ``\x5cxfc``."""
    return _LOOKS_ESCAPED.sub(r"\\x5c", text)


def _decoded(raw: bytes, character_set: str) -> str | None:
    """Give the text of bytes; None where they are none."""
    if all(0x20 <= byte < 0x7F for byte in raw):
        return raw.decode("ascii")
    names = [name.strip() for name in character_set.split("\\")]
    is_switched = _ESCAPE in raw
    if any(byte < 0x20 and byte != _ESCAPE for byte in raw) or (names[0] in _ASCII_SETS and not is_switched):
        return None
    with warnings.catch_warnings(record=True) as caught, pydicom.config.disable_value_validation():
        warnings.simplefilter("always")
        try:
            encodings = convert_encodings(names)
            text = decode_bytes(raw, encodings, _DELIMITERS) if is_switched else raw.decode(encodings[0])
        except (LookupError, ValueError):
            return None
    # pydicom reads on in Latin-1 where it does not know a set, and puts U+FFFD where bytes are no text.
    is_known = not any("Unknown encoding" in str(warning.message) for warning in caught)
    return text if is_known and "\x1b" not in text else None
