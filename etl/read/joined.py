"""What tables say of patients, studies and series: one place in the store, one value a column and volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEVELS = ("patient", "study", "series")
UID_OF = {"study": "study_instance_uid", "series": "series_instance_uid"}


def joined_columns(patient: Mapping[str, Any], volume: Mapping[str, Any]) -> dict[str, Any]:
    """Give what tables say of a volume.

    Parameters
    ----------
    patient : mapping
        The patient's attribute ``ct_etl``, whose ``labels`` have a mapping of columns under ``patient``, and under
        ``study`` and ``series`` one by UID.
    volume : mapping
        The volume's attribute ``ct_etl``.

    Returns
    -------
    dict
        Value by column. What is said of the series goes before the study, and the study before the patient.
    """
    labels = patient.get("labels")
    if not isinstance(labels, Mapping):
        return {}
    found: dict[str, Any] = {}
    for level in LEVELS:
        about = labels.get(level, {})
        found |= about if level == "patient" else about.get(volume.get(UID_OF[level]), {})
    return found
