"""Whose group it is: two patients never share one, within a run or across runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from etl.entry import Entry
from etl.errors import UsageError
from etl.store.keys import Keys
from etl.store.publish import published


def check_patient_groups(entries: Iterable[Entry], keys: Keys) -> None:
    """Refuse a patient whose group in the store belongs to another one.

    Raises
    ------
    UsageError
        Another Patient ID has the group, or its name differs in case alone: file systems of Windows and macOS
        hold "a" and "A" in one folder.
    """
    there = {name.lower(): name for name in keys.groups("")}
    for key, patient_id in sorted({(entry.patient_key, entry.patient_id) for entry in entries}):
        other = there.get(key.lower(), key)
        if other != key:
            raise UsageError(
                f"group {key!r} of a patient differs in case alone from {other!r}, which the store has; give them "
                "to separate stores"
            )
        stored = _stored_patient_id(keys, key) if key.lower() in there else None
        if stored is not None and stored != patient_id:
            raise UsageError(
                f"Patient IDs {stored!r} and {patient_id!r} would share group {key!r} of the store, which has the "
                "first; give them to separate stores"
            )


def _stored_patient_id(keys: Keys, patient_key: str) -> str | None:
    """Patient ID of a group as its series have it: the patient's own metadata are written when a run ends."""
    for series in keys.groups(patient_key):
        found = (published(keys, f"{patient_key}/{series}") or {}).get("ct_etl")
        if isinstance(found, Mapping) and isinstance(found.get("patient_id"), str):
            return str(found["patient_id"])
    return None
