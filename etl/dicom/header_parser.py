"""Find the wanted elements of an ordinary DICOM header, as raw elements of pydicom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import BinaryIO, NamedTuple, cast

from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

CHUNK_BYTES = 16 << 10
MAX_ELEMENTS = 10_000
_MAX_VALUE_BYTES = 4 << 10
MAGIC_AT = 128
META_AT = 132
_STANDARD_SYNTAX = "1.2.840.10008.1.2"
_LEFT_TO_PYDICOM = frozenset({DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian})
_META_GROUP = b"\2\0"
_TRANSFER_SYNTAX_UID = 0x00020010
_FIRST_TAG = 0x00080000
_PIXEL_DATA = 0x7FE00010
_LONG_HEAD_BYTES = 12
_UNDEFINED = 0xFFFFFFFF
# DICOM PS3.5 7.1.2: these have two reserved bytes and a length of four, the others a length of two.
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"}
    | {b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
_tag = Struct("<HH").unpack_from
_length_2 = Struct("<H").unpack_from
_length_4 = Struct("<L").unpack_from


@dataclass(frozen=True, eq=False)
class Header:
    """A header as far as it was asked for, and where Pixel Data (7FE0,0010) is."""

    dataset: Dataset
    transfer_syntax_uid: str
    pixel_offset: int
    pixel_length: int
    """-1 where it is undefined."""
    alike: int = 0
    """The same number for headers of one reader that differ in nothing but its free elements; 0: not known."""


class UnusualHeaderError(Exception):
    """The file is not ordinary."""


class Span(NamedTuple):
    """Where an element lies in a window: its head from `at`, its value from `start` to `end`."""

    tag: int
    at: int
    start: int
    end: int
    matters: bool
    """Its value is wanted, or decides how the rest is read."""


class Parsed(NamedTuple):
    """A header, its wanted elements, and where all of them lie."""

    header: Header
    elements: dict[BaseTag, RawDataElement]
    spans: list[Span]
    """In order; those of a window that was moved say nothing."""


def parse_header(window: Window, wanted: Mapping[int, BaseTag], sequences: frozenset[int]) -> Parsed:
    """Read a header up to Pixel Data (7FE0,0010).

    Parameters
    ----------
    window : Window
        At the start of the file.
    wanted : mapping
        Tags, by number.
    sequences : frozenset of int
        Those of them that are sequences.

    Raises
    ------
    UnusualHeaderError
        Only pydicom can read it, or find that nobody can.
    """
    syntax, spans = _transfer_syntax(window)
    is_implicit = syntax == ImplicitVRLittleEndian
    elements: dict[BaseTag, RawDataElement] = {}
    for _ in range(MAX_ELEMENTS):
        tag, vr, length, start = window.element(is_implicit=is_implicit)
        if tag == _PIXEL_DATA and (is_implicit or start - window.at == _LONG_HEAD_BYTES):
            dataset = Dataset({**elements})
            dataset.set_original_encoding(is_implicit, True)
            spans.append(Span(tag, window.at, start, start, False))
            header = Header(dataset, syntax, window.origin + start, -1 if length == _UNDEFINED else length)
            return Parsed(header, elements, spans)
        if length == _UNDEFINED or not _FIRST_TAG <= tag < _PIXEL_DATA:
            raise UnusualHeaderError
        if tag in wanted:
            if tag in sequences or length > _MAX_VALUE_BYTES:
                raise UnusualHeaderError
            if start + length > len(window.content) and window.move():
                continue
            value = window.content[start : start + length]
            if len(value) != length:
                raise UnusualHeaderError
            raw = value or cast(bytes | None, empty_value_for_VR(vr, raw=True))
            at = window.origin + start
            elements[wanted[tag]] = RawDataElement(wanted[tag], vr, length, raw, at, is_implicit, True)
        spans.append(Span(tag, window.at, start, start + length, tag in wanted))
        window.at = start + length
    raise UnusualHeaderError


class Window:
    """The part of a file that is looked at; `at` is a position in it, `origin` where it begins in the file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.origin = self.at = 0
        self.content = stream.read(CHUNK_BYTES)

    def element(self, *, is_implicit: bool) -> tuple[int, str | None, int, int]:
        """Give tag, VR, length and start of the element at `at`."""
        if self.at + 12 > len(self.content):
            self.move()
        if self.at + 12 > len(self.content):
            raise UnusualHeaderError
        content, at = self.content, self.at
        group, number = _tag(content, at)
        vr = content[at + 4 : at + 6]
        if is_implicit:
            # What looks like a VR may be one: pydicom knows how to tell.
            if vr in _SHORT or vr in _LONG:
                raise UnusualHeaderError
            return group << 16 | number, None, _length_4(content, at + 4)[0], at + 8
        if vr in _SHORT:
            return group << 16 | number, vr.decode("ascii"), _length_2(content, at + 6)[0], at + 8
        if vr in _LONG:
            return group << 16 | number, vr.decode("ascii"), _length_4(content, at + 8)[0], at + _LONG_HEAD_BYTES
        raise UnusualHeaderError

    def move(self) -> bool:
        """Begin at `at`; False where nothing new comes into view."""
        if self.at == 0:
            return False
        self.origin, self.at = self.origin + self.at, 0
        self._stream.seek(self.origin)
        self.content = self._stream.read(CHUNK_BYTES)
        return True


def _transfer_syntax(window: Window) -> tuple[str, list[Span]]:
    """Read Transfer Syntax UID (0002,0010), leaving the window behind the file meta group."""
    spans = []
    if window.content[MAGIC_AT:META_AT] != b"DICM":
        raise UnusualHeaderError
    window.at, syntax = META_AT, ""
    while window.content[window.at : window.at + 2] == _META_GROUP:
        tag, _, length, start = window.element(is_implicit=False)
        if tag == _TRANSFER_SYNTAX_UID:
            syntax = window.content[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        spans.append(Span(tag, window.at, start, start + length, tag == _TRANSFER_SYNTAX_UID))
        window.at = start + length
    if not syntax.startswith(_STANDARD_SYNTAX) or syntax in _LEFT_TO_PYDICOM:
        raise UnusualHeaderError
    return syntax, spans
