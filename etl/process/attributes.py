"""The attributes of a published series: what it is and how it was made."""

from __future__ import annotations

from etl.config import Config
from etl.digests import volume_digest
from etl.entry import Entry
from etl.plan.task import SeriesTask
from etl.software import software_versions
from etl.store.encoding import ome_attributes
from etl.volume.convert import Converted
from etl.volume.quality import Quality


def series_attributes(
    task: SeriesTask, entry: Entry, converted: Converted, quality: Quality, config: Config
) -> dict[str, object]:
    """Give the attributes ``ct_etl``, ``dicom`` and ``ome`` of a series' group, as plain JSON values."""
    key = task.stack.key
    recipe = config.recipe()
    names = ("spacing_mm", "zoom", "native", "max_gap_mm")
    return {
        "ct_etl": {
            "patient_id": key.patient_id,
            "study_instance_uid": key.study_instance_uid,
            "series_instance_uid": key.series_instance_uid,
            "frame_of_reference_uid": task.frame_of_reference_uid,
            "stack": task.stack.number,
            "geometry": converted.geometry.to_attributes(),
            "normalization": converted.normalization.to_attributes(),
            "resampling": {name: recipe[name] for name in names},
            "qc": {
                "warnings": list(entry.warnings),
                "default_series_points": task.points,
                **quality.to_attributes(),
            },
            "provenance": {
                "config_digest": task.config_digest,
                "source_digest": task.source_digest,
                "volume_digest": volume_digest(converted.volume),
                "software": software_versions(),
            },
        },
        "dicom": task.stack.header.dicom,
        "ome": ome_attributes(
            converted.geometry, converted.normalization, name=entry.node, is_steps=config.dtype == "int16"
        ),
    }
