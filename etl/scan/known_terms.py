"""Words that cannot name a person: what of a technical attribute stays where identifiers are replaced.

Whoever works at a console, or a program between it and here, can write any text into any attribute. So nothing
stays for its place alone: a code must be a defined term, and a maker, model or kernel must consist of words that
makers use. Both are listed in ``rules/known-terms.toml``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

_FREE_TEXT = frozenset({"ConvolutionKernel", "Manufacturer", "ManufacturerModelName"})
# Text that a person may have typed at the console.
_TYPED = frozenset({"BodyPartExamined", "FilterType", "ScanOptions"})
_PIECE = re.compile(r"[^\W\d_]+|\d+")
_MAX_PIECES = 8
_MAX_LONE_LETTERS = 4
_MAX_DIGITS = 4
_MAX_ALL_DIGITS = 5


class _Known(NamedTuple):
    words: frozenset[str]
    codes: frozenset[str]
    terms: Mapping[str, frozenset[str]]


@cache
def _load() -> _Known:
    found = tomllib.loads((resources.files("etl") / "rules" / "known-terms.toml").read_text("utf-8"))
    terms = {keyword: frozenset(values) for keyword, values in found["terms"].items()}
    codes = frozenset((found["modalities"] + found["units"]).split())
    return _Known(frozenset(found["words"].split()), codes, terms)


def known_attributes(dicom: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Give what of a stack's attributes cannot name a person, and the keywords of what was dropped.

    Parameters
    ----------
    dicom : mapping
        Plain values by DICOM keyword, each sound by its VR.

    Examples
    --------
    >>> known_attributes({"KVP": 120.0, "PatientPosition": "HFS", "ConvolutionKernel": "B31f"})
    ({'KVP': 120.0, 'PatientPosition': 'HFS', 'ConvolutionKernel': 'B31f'}, ())
    >>> known_attributes({"PatientPosition": "JONES", "ImageType": ["ORIGINAL", "PRIMARY", "JONES"]})
    ({'ImageType': ['ORIGINAL', 'PRIMARY']}, ('PatientPosition', 'ImageType'))
    """
    kept: dict[str, object] = {}
    dropped = []
    for keyword, found in dicom.items():
        values = found if isinstance(found, list) else [found]
        known = _known_start(keyword, values)
        if known:
            kept[keyword] = known if isinstance(found, list) else known[0]
        if len(known) < len(values):
            dropped.append(keyword)
    return kept, tuple(dropped)


def is_defined_term(code: str) -> bool:
    """Tell whether a Modality (0008,0060) or a Rescale Type (0028,1054) is one that DICOM defines, or absent."""
    return code == "" or code.upper() in _load().codes


def is_machine_text(text: str) -> bool:
    """Tell whether text consists of words that makers of scanners use, short numbers and a few lone letters.

    Examples
    --------
    >>> [is_machine_text(text) for text in ("LightSpeed16", "Br40d", "FC13", "SIEMENS JONES", "J O N E S")]
    [True, True, True, False, False]
    """
    pieces = _PIECE.findall(text)
    letters = [piece for piece in pieces if piece.isalpha() and len(piece) == 1]
    return (
        text.isascii()
        and len(pieces) <= _MAX_PIECES
        and len(letters) <= _MAX_LONE_LETTERS
        and sum(character.isdigit() for character in text) <= _MAX_ALL_DIGITS
        and all(
            len(piece) <= _MAX_DIGITS if piece.isdigit() else len(piece) == 1 or piece.lower() in _load().words
            for piece in pieces
        )
    )


def _known_start(keyword: str, values: list[object]) -> list[object]:
    """Give the values up to the first that may be a name: the place of a value says what it means."""
    known: list[object] = []
    for value in values:
        if keyword in _TYPED or (isinstance(value, str) and not _is_known(keyword, value)):
            break
        known.append(value)
    return known


def _is_known(keyword: str, value: str) -> bool:
    if keyword == "PatientAge":
        # Its form, which was checked, is three digits and a letter.
        return True
    if keyword in _FREE_TEXT:
        return is_machine_text(value)
    return value == "" or value in _load().terms.get(keyword, frozenset())
