"""Names of groups in the store, safe for every Zarr implementation and every bucket."""

from __future__ import annotations

import hashlib
import re

MAX_KEY_CHARACTERS = 64
MAX_STEM_CHARACTERS = 48
PATIENT_DIGITS = 8
# Of 25,000 series two had 8 digits in common.
SERIES_DIGITS = 16
SUFFIX_DIGITS = 8
_SERIES_KEY = re.compile(r"\d{4,}-([0-9a-f]{16}|[0-9a-f]{8})(-\d+|-[0-9a-f]{8})?")
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
    return f"{stem}-{_digest(patient_id, PATIENT_DIGITS)}"


def label_key(name: str) -> str:
    """Give the group name of a label: its name, by the rules of `patient_key`.

    Examples
    --------
    >>> label_key("Lung, left")
    'Lung__left-fbe31b23'
    """
    return patient_key(name)


def series_key(series_number: int, series_instance_uid: str, suffix_digest: str = "") -> str:
    """Give the group name of a stack: Series Number, digest of the UID, and for further stacks a suffix.

    Parameters
    ----------
    series_number : int
        Series Number (0020,0011); 0 where absent.
    series_instance_uid : str
        Series Instance UID (0020,000E).
    suffix_digest : str
        Hex digest of what tells a further stack apart; empty for the first.

    Examples
    --------
    >>> series_key(3, "1.2.3")
    '0003-c47f5b18b8a430e6'
    >>> series_key(3, "1.2.3", "0123456789abcdef")
    '0003-c47f5b18b8a430e6-01234567'
    """
    key = f"{max(0, series_number):04d}-{_digest(series_instance_uid, SERIES_DIGITS)}"
    return f"{key}-{suffix_digest[:SUFFIX_DIGITS]}" if suffix_digest else key


def series_digits(series_key: str) -> str:
    """Give the digits of a series key that stand for the Series Instance UID; empty where it is no series key.

    Examples
    --------
    >>> series_digits("0003-c47f5b18b8a430e6-01234567")
    'c47f5b18b8a430e6'
    """
    found = _SERIES_KEY.fullmatch(series_key)
    return found[1] if found else ""


def is_series_key(name: str) -> bool:
    """Whether the name of a group below a patient is one that this package gives, format 1.0 included."""
    return _SERIES_KEY.fullmatch(name) is not None


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]
