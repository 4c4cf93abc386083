"""A store as a table: a row a volume, from the metadata that opening it has read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from etl.read.verdicts import Verdict, read_verdicts
from etl.read.volume_metadata import VolumeMetadata

OWN_COLUMNS = (
    "patient_id",
    "series_key",
    "is_default",
    "study_instance_uid",
    "series_instance_uid",
    "shape_z",
    "shape_y",
    "shape_x",
    "spacing_z_mm",
    "spacing_y_mm",
    "spacing_x_mm",
    "gantry_tilt_deg",
    "warnings",
    "verdict",
    "verdict_note",
)
"""What the store says of every volume; no table that is joined may have these."""
DICOM = "dicom."
"""Begins the names of columns that are DICOM attributes."""


def is_own(column: str) -> bool:
    """Whether a name is one of the store's own columns."""
    return column in OWN_COLUMNS or column.startswith(DICOM)


def table_of(volumes: Iterable[tuple[VolumeMetadata, bool]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Give a row for each volume.

    Parameters
    ----------
    volumes : iterable of (VolumeMetadata, bool)
        Whether each is its patient's default.

    Returns
    -------
    list of str
        Names of columns: `OWN_COLUMNS`; ``dicom.<Keyword>``, sorted; columns of joined tables, sorted.
    list of dict
        One a volume. What a volume does not have is None. Warnings are joined by commas, several
        values of a DICOM attribute by backslashes.
    """
    rows: list[dict[str, Any]] = []
    verdicts: dict[str, Mapping[str, Verdict]] = {}
    dicom: set[str] = set()
    joined: set[str] = set()
    for volume, is_default in volumes:
        technical = {DICOM + keyword: _one(value) for keyword, value in volume.dicom.items()}
        columns = volume.columns
        if volume.store_path not in verdicts:
            verdicts[volume.store_path] = read_verdicts(volume.store_path)
        judged = verdicts[volume.store_path].get(volume.node)
        decided = {"verdict": str(judged.verdict), "verdict_note": judged.note} if judged else {}
        rows.append({**_own(volume, is_default), **decided, **technical, **columns})
        dicom.update(technical)
        joined.update(columns)
    names = [*OWN_COLUMNS, *sorted(dicom), *sorted(joined)]
    return names, [{name: row.get(name) for name in names} for row in rows]


def _own(volume: VolumeMetadata, is_default: bool) -> dict[str, Any]:
    about: Mapping[str, Any] = volume.attributes
    values = (
        volume.patient_id,
        volume.key,
        is_default,
        about.get("study_instance_uid"),
        about.get("series_instance_uid"),
        *volume.shape,
        *volume.spacing_mm,
        volume.geometry.gantry_tilt_deg,
        ",".join(volume.warnings),
    )
    return dict(zip(OWN_COLUMNS, values, strict=False))


def _one(value: Any) -> Any:
    return "\\".join(map(str, value)) if isinstance(value, list | tuple) else value
