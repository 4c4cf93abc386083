"""Read the header of an ordinary file in a fifth of pydicom's time.

Ordinary: preamble, little endian, not deflated, no sequence of undefined length, no sequence among what is wanted.
Everything else is left to pydicom, whose raw elements this gives, unconverted: what is done with them is the same.
A header of 60 elements takes 0.07 ms where `pydicom.dcmread` takes 0.4, and one like those before it 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from etl.dicom.header_parser import MAGIC_AT, META_AT, Header, Parsed, UnusualHeaderError, Window, parse_header

# Of a series: positions and numbers are of several lengths.
MAX_LAYOUTS = 16


class FastHeaderReader:
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
        window = Window(stream)
        for layout in self._layouts:
            if layout.fits(window.content):
                # A list of its own: a thread that hung on a file may come back to the one before.
                self._layouts = [layout, *(other for other in self._layouts if other is not layout)]
                return layout.header(window.content)
        try:
            parsed = parse_header(window, self._wanted, self._sequences)
        except UnusualHeaderError:
            return None
        if window.origin or len({span.tag for span in parsed.spans}) < len(parsed.spans):
            return parsed.header
        self._made += 1
        layout = _Layout(parsed, window.content, self._free, self._made)
        self._layouts = [layout, *self._layouts[: MAX_LAYOUTS - 1]]
        return layout.known


class _Layout:
    """Where the elements of a header lie, and what the values are that are not free."""

    def __init__(self, parsed: Parsed, content: bytes, free: frozenset[int], number: int) -> None:
        self.known = replace(parsed.header, alike=number)
        self._elements = parsed.elements
        self._free: list[tuple[RawDataElement, int, int]] = []
        decided = np.zeros(parsed.header.pixel_offset, bool)
        decided[MAGIC_AT:META_AT] = True
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
