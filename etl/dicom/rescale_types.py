"""Rescale Type (0028,1054) as scanners and programs spell it.

References
----------
DICOM PS3.3 C.11.1.1.2: HU is the term for Hounsfield units, US for unspecified ones.
"""

from __future__ import annotations

import re

HOUNSFIELD = "HU"
# GE's reformats say "Houndsfield Unit": 33 of 60 series of one public collection.
HOUNSFIELD_SPELLINGS = frozenset(
    {
        *("hu", "hus", "hounsfield", "hounsfields", "hounsfieldunit", "hounsfieldunits"),
        *("houndsfield", "houndsfields", "houndsfieldunit", "houndsfieldunits"),
        *("hunsfield", "hunsfieldunit", "hunsfieldunits", "hounsfeld", "hounsfeldunit", "hounsfeldunits"),
        *("hounsfieldunithu", "hounsfieldunitshu", "houndsfieldunithu", "houndsfieldunitshu"),
    }
)
UNSPECIFIED = frozenset({"US", "UNSPECIFIED", "UNKNOWN", "NONE", "N/A"})
"""What says nothing about units; ``--assume-hu`` takes it for Hounsfield units."""


def canonical_rescale_type(text: str) -> str:
    """Give ``HU`` for Hounsfield units in any spelling and where nothing is said, else the text in capitals.

    Examples
    --------
    >>> [canonical_rescale_type(text) for text in ("", "Houndsfield Unit", "H.U.", "US", "mgml")]
    ['HU', 'HU', 'HU', 'US', 'MGML']
    """
    letters = re.sub(r"[^a-z]", "", text.lower())
    return HOUNSFIELD if not text or letters in HOUNSFIELD_SPELLINGS else text.upper()
