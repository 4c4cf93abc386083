"""Read the header of an ordinary file in a fifth of pydicom's time.

Ordinary: preamble, little endian, not deflated, no sequence of undefined length, no sequence among what is wanted.
Everything else is left to pydicom, whose raw elements this gives, unconverted: what is done with them is the same.
A header of 60 elements takes 0.07 ms where `pydicom.dcmread` takes 0.4, and one like those before it 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from struct import Struct
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

CHUNK_BYTES = 16 << 10
MAX_ELEMENTS = 10_000
# Of a series: positions and numbers are of several lengths.
MAX_LAYOUTS = 16
_MAX_VALUE_BYTES = 4 << 10
_MAGIC_AT, _META_AT = 128, 132
_STANDARD_SYNTAX = "1.2.840.10008.1.2"
_LEFT_TO_PYDICOM = frozenset({DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian})
_META_GROUP, _TRANSFER_SYNTAX_UID = b"\2\0", 0x00020010
_FIRST_TAG, _PIXEL_DATA = 0x00080000, 0x7FE00010
_LONG_HEAD_BYTES = 12
_UNDEFINED = 0xFFFFFFFF
# DICOM PS3.5 7.1.2: these have two reserved bytes and a length of four, the others a length of two.
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset(
    {
        b"AE",
        b"AS",
        b"AT",
        b"CS",
        b"DA",
        b"DS",
        b"DT",
        b"FD",
        b"FL",
        b"IS",
        b"LO",
        b"LT",
        b"PN",
        b"SH",
        b"SL",
        b"SS",
    }
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
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


class QuickReader:
    """Reads the wanted elements of files up to their pixels.

    The files of a series mostly differ in a few values only. Where every element lies as in one of the files
    before, and all but the free ones are equal, only these are looked at.

    Parameters
    ----------
    wanted : mapping
        Tags, by number.
    sequences : frozenset of int
        Those of them that are sequences.
    free : frozenset of int
        Those of them that headers alike may differ in.
    """

    def __init__(self, wanted: Mapping[int, BaseTag], sequences: frozenset[int], free: frozenset[int]) -> None:
        self._wanted, self._sequences, self._free = wanted, sequences, free
        self._layouts: list[_Layout] = []
        self._made = 0

    def read(self, stream: BinaryIO) -> Header | None:
        """Read the header of one file.

        Parameters
        ----------
        stream : binary file at its start

        Returns
        -------
        Header or None
            None where the file is not ordinary: ask pydicom.
        """
        window = _Window(stream)
        for layout in self._layouts:
            if layout.fits(window.content):
                # A list of its own: a thread that hung on a file may come back to the one before.
                self._layouts = [layout, *(other for other in self._layouts if other is not layout)]
                return layout.header(window.content)
        try:
            parsed = _read(window, self._wanted, self._sequences)
        except _UnusualError:
            return None
        if window.origin or len({span.tag for span in parsed.spans}) < len(parsed.spans):
            return parsed.header
        self._made += 1
        layout = _Layout(parsed, window.content, self._free, self._made)
        self._layouts = [layout, *self._layouts[: MAX_LAYOUTS - 1]]
        return layout.known


class _Layout:
    """Where the elements of a header lie, and what the values are that are not free."""

    def __init__(self, parsed: _Parsed, content: bytes, free: frozenset[int], number: int) -> None:
        self.known = replace(parsed.header, alike=number)
        self._elements = parsed.elements
        self._free: list[tuple[RawDataElement, int, int]] = []
        decided = np.zeros(parsed.header.pixel_offset, bool)
        decided[_MAGIC_AT:_META_AT] = True
        for span in parsed.spans:
            decided[span.at : span.start] = True
            if span.tag not in free:
                decided[span.start : span.end] = span.matters
            elif span.end > span.start:
                self._free.append((self._elements[BaseTag(span.tag)], span.start, span.end))
        self._at: NDArray[np.intp] = np.flatnonzero(decided)
        self._there = np.frombuffer(content, np.uint8)[self._at].tobytes()
        self._last_at = parsed.spans[-1].at
        self._last = content[self._last_at : parsed.header.pixel_offset]

    def fits(self, content: bytes) -> bool:
        """Whether a file has this layout, and these values."""
        # The head of Pixel Data is elsewhere in most other layouts.
        return (
            content.startswith(self._last, self._last_at)
            and np.frombuffer(content, np.uint8)[self._at].tobytes() == self._there
        )

    def header(self, content: bytes) -> Header:
        """Give the header of a file that fits."""
        elements: dict[BaseTag, DataElement | RawDataElement] = dict(self._elements)
        for raw, start, end in self._free:
            value = content[start:end]
            if value != raw.value:
                elements[raw.tag] = raw._replace(value=value)
        known = self.known
        dataset = Dataset(elements)
        dataset.set_original_encoding(*known.dataset.original_encoding)
        return replace(known, dataset=dataset)


class _UnusualError(Exception):
    """The file is not ordinary."""


class _Span(NamedTuple):
    """Where an element lies in a window: its head from `at`, its value from `start` to `end`."""

    tag: int
    at: int
    start: int
    end: int
    matters: bool
    """Its value is wanted, or decides how the rest is read."""


class _Parsed(NamedTuple):
    header: Header
    elements: dict[BaseTag, RawDataElement]
    spans: list[_Span]
    """In order; those of a window that was moved say nothing."""


def _read(window: _Window, wanted: Mapping[int, BaseTag], sequences: frozenset[int]) -> _Parsed:
    syntax, spans = _transfer_syntax(window)
    is_implicit = syntax == ImplicitVRLittleEndian
    elements: dict[BaseTag, RawDataElement] = {}
    for _ in range(MAX_ELEMENTS):
        tag, vr, length, start = window.element(is_implicit=is_implicit)
        if tag == _PIXEL_DATA and (is_implicit or start - window.at == _LONG_HEAD_BYTES):
            dataset = Dataset({**elements})
            dataset.set_original_encoding(is_implicit, True)
            spans.append(_Span(tag, window.at, start, start, False))
            header = Header(dataset, syntax, window.origin + start, -1 if length == _UNDEFINED else length)
            return _Parsed(header, elements, spans)
        if length == _UNDEFINED or not _FIRST_TAG <= tag < _PIXEL_DATA:
            raise _UnusualError
        if tag in wanted:
            if tag in sequences or length > _MAX_VALUE_BYTES:
                raise _UnusualError
            if start + length > len(window.content) and window.move():
                continue
            value = window.content[start : start + length]
            if len(value) != length:
                raise _UnusualError
            raw = value or cast(bytes | None, empty_value_for_VR(vr, raw=True))
            at = window.origin + start
            elements[wanted[tag]] = RawDataElement(wanted[tag], vr, length, raw, at, is_implicit, True)
        spans.append(_Span(tag, window.at, start, start + length, tag in wanted))
        window.at = start + length
    raise _UnusualError


class _Window:
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
            raise _UnusualError
        content, at = self.content, self.at
        group, number = _tag(content, at)
        vr = content[at + 4 : at + 6]
        if is_implicit:
            # What looks like a VR may be one: pydicom knows how to tell.
            if vr in _SHORT or vr in _LONG:
                raise _UnusualError
            return group << 16 | number, None, _length_4(content, at + 4)[0], at + 8
        if vr in _SHORT:
            return group << 16 | number, vr.decode("ascii"), _length_2(content, at + 6)[0], at + 8
        if vr in _LONG:
            return group << 16 | number, vr.decode("ascii"), _length_4(content, at + 8)[0], at + _LONG_HEAD_BYTES
        raise _UnusualError

    def move(self) -> bool:
        """Begin at `at`; False where nothing new comes into view."""
        if self.at == 0:
            return False
        self.origin, self.at = self.origin + self.at, 0
        self._stream.seek(self.origin)
        self.content = self._stream.read(CHUNK_BYTES)
        return True


def _transfer_syntax(window: _Window) -> tuple[str, list[_Span]]:
    """Read Transfer Syntax UID (0002,0010), leaving the window behind the file meta group."""
    spans = []
    if window.content[_MAGIC_AT:_META_AT] != b"DICM":
        raise _UnusualError
    window.at, syntax = _META_AT, ""
    while window.content[window.at : window.at + 2] == _META_GROUP:
        tag, _, length, start = window.element(is_implicit=False)
        if tag == _TRANSFER_SYNTAX_UID:
            syntax = window.content[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        spans.append(_Span(tag, window.at, start, start + length, tag == _TRANSFER_SYNTAX_UID))
        window.at = start + length
    if not syntax.startswith(_STANDARD_SYNTAX) or syntax in _LEFT_TO_PYDICOM:
        raise _UnusualError
    return syntax, spans
