"""Names of groups in the store, safe for every Zarr implementation and every bucket."""

from __future__ import annotations

import hashlib
import re

MAX_KEY_CHARACTERS = 64
MAX_STEM_CHARACTERS = 48
_ALLOWED = re.compile(r"[A-Za-z0-9._-]+")
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
)
_RESERVED = frozenset({"zarr.json", "c"})


def patient_key(patient_id: str) -> str:
    """Give the group name of a patient.

    Patient ID (0010,0020) itself where it has only ``[A-Za-z0-9._-]``, at most 64 characters, and is no
    reserved name; else its first 48 characters with the others replaced by ``_``, and a digest.

    Examples
    --------
    >>> patient_key("CQ500-CT-108")
    'CQ500-CT-108'
    >>> patient_key("../x")
    '.._x-d6b96a97'
    """
    if (
        len(patient_id) <= MAX_KEY_CHARACTERS
        and _ALLOWED.fullmatch(patient_id)
        and not patient_id.startswith((".", "__"))
        and patient_id.lower() not in _RESERVED
        and patient_id.lower().split(".")[0] not in _WINDOWS_DEVICES
    ):
        return patient_id
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", patient_id)[:MAX_STEM_CHARACTERS]
    return f"{stem}-{_digest(patient_id)}"


def series_key(series_number: int, series_instance_uid: str, stack: int) -> str:
    """Give the group name of a stack: Series Number, digest of the UID, and the stack's number from 2 on.

    Examples
    --------
    >>> series_key(3, "1.2.3", 1)
    '0003-c47f5b18'
    >>> series_key(3, "1.2.3", 2)
    '0003-c47f5b18-2'
    """
    key = f"{max(0, series_number):04d}-{_digest(series_instance_uid)}"
    return key if stack == 1 else f"{key}-{stack}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
