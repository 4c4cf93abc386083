"""Replace what identifies a patient by keyed hashes, the same in every run with the same key.

References
----------
DICOM PS3.15 E.3.9 (retain longitudinal information: no dates are kept at all), E.1.1 (UIDs are replaced);
HMAC: RFC 2104.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from etl.errors import DiskFullError, UsageError
from etl.header import Header
from etl.scan.distinctions import DISTINCTIONS, Distinction
from etl.scan.known_terms import is_defined_term, known_attributes
from etl.scan.scan import ScanResult, Unreadable
from etl.stack import Stack
from etl.store.durable import write_durably

MIN_KEY_BYTES = 16
# A key that somebody made by random has 16 of 256 values at most once or twice; a file of zeros has one.
MIN_DISTINCT_BYTES = 8
OLDEST_AGE_YEARS = 89
OTHER = "OTHER"
"""Stands for a Modality or Rescale Type that nobody defined."""
MAX_SHIFT_DAYS = 3650
_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
_DATE_KEYWORDS = frozenset({"StudyDate"})


class Pseudonyms:
    """Keyed hashes of identifiers.

    Parameters
    ----------
    key : bytes
        At least 16 bytes, kept secret.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise UsageError(f"the key has {len(key)} bytes; at least {MIN_KEY_BYTES} are needed")
        if _is_guessable(key):
            raise UsageError(
                f"the key has {len(set(key))} different bytes or repeats itself; whoever guesses it knows every "
                "patient (make one with: head -c 32 /dev/urandom)"
            )
        self._key = key
        self.patients: dict[str, str] = {}
        """Pseudonym by Patient ID, of all patients that were asked for."""

    @property
    def key_digest(self) -> str:
        """Tells two keys apart and nothing else; kept in the store's configuration."""
        return self._hash("key", "")[:16]

    def patient(self, patient_id: str) -> str:
        """Give the pseudonym of a Patient ID."""
        return self.patients.setdefault(patient_id, f"p-{self._hash('patient', patient_id)[:24]}")

    def uid(self, uid: str) -> str:
        """Give the pseudonym of a UID, itself a UID (DICOM PS3.5 B.2)."""
        return f"2.25.{int(self._hash('uid', uid)[:32], 16)}"

    def shift_days(self, patient_id: str) -> int:
        """Give by how many days the dates of a patient are moved back before they are compared."""
        return 1 + int(self._hash("days", patient_id)[:8], 16) % MAX_SHIFT_DAYS

    def _hash(self, kind: str, value: str) -> str:
        message = f"{kind}\0{value}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def _is_guessable(key: bytes) -> bool:
    """Whether a key is made of few different bytes, or of a piece that is too short to be one."""
    period = (key + key).index(key, 1)
    return len(set(key)) < MIN_DISTINCT_BYTES or period < MIN_KEY_BYTES


def read_key(path: str) -> bytes:
    """Read a key file.

    Raises
    ------
    UsageError
        It cannot be read, or others than its owner can read it.
    """
    file = Path(path)
    try:
        key = file.read_bytes().strip()
        mode = file.stat().st_mode
    except OSError as error:
        raise UsageError(f"key file {path!r} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise UsageError(f"key file {path!r} has mode {mode & 0o777:03o}; others must not read it (chmod 600)")
    return key


def deidentify_scan(scan: ScanResult, pseudonyms: Pseudonyms) -> ScanResult:
    """Replace Patient ID and all UIDs of what was scanned; cap ages, drop free text.

    Everything downstream, keys and ledger included, then knows pseudonyms only.
    """
    return replace(
        scan,
        stacks=tuple(_deidentify_stack(stack, pseudonyms) for stack in scan.stacks),
        unreadable=tuple(
            Unreadable(item.location, pseudonyms.patient(item.patient_name_from_path), item.detail)
            for item in scan.unreadable
        ),
    )


def capped_age(age: str) -> str:
    """Cap an Age String (PS3.5 6.2, VR AS): over 89 years a person can be told by it.

    Examples
    --------
    >>> capped_age("093Y"), capped_age("045Y"), capped_age("006M")
    ('089Y', '045Y', '006M')
    """
    match = re.fullmatch(r"(\d{3})([DWMY])", age)
    if match is None:
        return ""
    per_year = {"D": 365, "W": 52, "M": 12, "Y": 1}[match[2]]
    return f"{OLDEST_AGE_YEARS:03d}Y" if int(match[1]) / per_year > OLDEST_AGE_YEARS else age


def _deidentify_stack(stack: Stack, pseudonyms: Pseudonyms) -> Stack:
    key, slices = stack.key, stack.slices
    days = pseudonyms.shift_days(key.patient_id)
    return replace(
        stack,
        key=replace(
            key,
            patient_id=pseudonyms.patient(key.patient_id),
            study_instance_uid=pseudonyms.uid(key.study_instance_uid),
            series_instance_uid=pseudonyms.uid(key.series_instance_uid),
            # The ledger quotes them where they are not what they should be.
            modality=key.modality if is_defined_term(key.modality) else OTHER,
            rescale_type=key.rescale_type if is_defined_term(key.rescale_type) else OTHER,
        ),
        slices=replace(slices, sop_instance_uid=_uids(slices.sop_instance_uid.tolist(), pseudonyms)),
        headers=tuple(_deidentified(header) for header in stack.headers),
        mark_values=tuple(
            tuple(_mark(row, text, pseudonyms, days) for text in texts)
            for row, texts in zip(DISTINCTIONS, stack.mark_values, strict=False)
        ),
    )


def _deidentified(header: Header) -> Header:
    dicom, dropped = known_attributes(header.dicom)
    if "PatientAge" in dicom:
        dicom["PatientAge"] = capped_age(str(dicom["PatientAge"]))
    return replace(header, dicom=dicom, dropped=(*header.dropped, *dropped))


def _mark(row: Distinction, text: str, pseudonyms: Pseudonyms, days: int) -> str:
    """Replace a UID, and shift a date, of what tells slices apart: it decides keys, and their order stays."""
    if row.comparison == "uid":
        return pseudonyms.uid(text) if text else ""
    is_date = row.comparison == "instant" or row.keywords[0] in _DATE_KEYWORDS
    match = _DATE.match(text) if is_date else None
    if match is None:
        return text
    try:
        shifted = date(int(match[1]), int(match[2]), int(match[3])) - timedelta(days)
    except (ValueError, OverflowError):
        return text
    return f"{shifted:%Y%m%d}{text[match.end() :]}"


def _uids(uids: Sequence[bytes], pseudonyms: Pseudonyms) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
    return np.array([pseudonyms.uid(uid.decode("ascii", "replace")).encode() for uid in uids], "S64")


def check_mapping(path: Path, store: Path) -> None:
    """Refuse a place for the mapping before any work.

    Raises
    ------
    UsageError
        It lies in the store, or cannot be written.
    """
    absolute = Path(os.path.abspath(path))
    if store in absolute.parents:
        raise UsageError(f"mapping {str(path)!r} lies in the store, which is given away without it")
    if absolute.is_dir() or not absolute.parent.is_dir() or not os.access(absolute.parent, os.W_OK):
        raise UsageError(f"mapping {str(path)!r} cannot be written: no folder to write it to")


def write_mapping(path: Path, pseudonyms: Pseudonyms) -> None:
    """Write which pseudonym is whose Patient ID, readable by the owner only; what the file held stays in it.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    try:
        known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        mapping = {**known, **{name: patient for patient, name in pseudonyms.patients.items()}}
        text = json.dumps(dict(sorted(mapping.items())), indent=2)
        # Through a link too: the file that is there is the one that must survive.
        write_durably(path.resolve(), f"{text}\n".encode("utf-8", "backslashreplace"), mode=0o600)
    except (OSError, DiskFullError, ValueError, TypeError) as error:
        raise UsageError(f"mapping {str(path)!r} cannot be written: {type(error).__name__}") from error
