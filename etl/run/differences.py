"""What a published volume has that its DICOM does not give, and the other way about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from etl.config import Config
from etl.digests import json_digest
from etl.plan.task import SeriesTask
from etl.process.attributes import series_attributes
from etl.process.read_hu import convert_task
from etl.process.source_arrays import source_arrays
from etl.run.resume import OF_THE_RUN
from etl.store.fingerprint import body_threshold
from etl.store.keys import open_keys
from etl.store.layout import BODY, COORDINATES, HISTOGRAM, SOURCE, VALIDITY, VOLUME, arrays_of
from etl.store.publish import published
from etl.store.verify import read_array
from etl.volume.body import body_shares

# Of the provenance these say what the DICOM decides; software is the writer's own affair.
_DECIDED_DIGESTS = ("source_digest", "config_digest", "volume_digest")
_DECIDED_PARTS = (
    *("patient_id", "study_instance_uid", "series_instance_uid"),
    *("geometry", "normalization", "resampling", "qc"),
)


def differences(task: SeriesTask, config: Config, store_path: str) -> Iterator[str]:
    """Derive a volume anew and compare all that the DICOM decides with the store's.

    Parameters
    ----------
    task : SeriesTask
        Under the key of the published volume.
    config : Config
        That the store was written with.
    store_path : str

    Yields
    ------
    str
        One line a difference.

    Raises
    ------
    SeriesError
        The volume cannot be derived from the input.
    """
    node = task.entry.node
    converted, quality, pixel_crc32 = convert_task(task, config)
    warnings = tuple(dict.fromkeys((*task.entry.warnings, *quality.warnings())))
    entry = replace(task.entry, warnings=warnings)
    attributes = published(open_keys(store_path), node) or {}
    arrays: dict[str, NDArray[Any] | None] = {
        VOLUME.path: converted.volume,
        VALIDITY.path: converted.validity,
        HISTOGRAM.path: converted.histogram,
    }
    geometry = converted.geometry
    arrays[BODY.path] = body_shares(converted.volume, above=body_threshold(converted.normalization))
    for array, centers_mm in zip(COORDINATES, geometry.coordinates_mm(), strict=True):
        arrays[array.path] = centers_mm if geometry.is_axis_aligned else None
    for name, values in source_arrays(task, converted, pixel_crc32).items():
        arrays[f"{SOURCE}/{name}"] = values
    there = {array.path for array in arrays_of(attributes) or ()}
    for path, expected in arrays.items():
        stored = read_array(store_path, f"{node}/{path}") if path in there else None
        yield from _array_differences(path, stored, expected)
    yield from _attribute_differences(attributes, series_attributes(task, entry, converted, quality, config))


def _array_differences(path: str, stored: NDArray[Any] | None, expected: NDArray[Any] | None) -> Iterator[str]:
    if expected is None or stored is None:
        if expected is not stored:
            yield f"{path} is {'in the store' if expected is None else 'in the input'} only"
        return
    if expected.shape != stored.shape:
        yield f"{path} has shape {stored.shape} in the store, {expected.shape} from the input"
        return
    differing = int((expected != stored).sum())
    if differing:
        yield f"{differing} of {expected.size} values of {path} differ from the input's"


def _attribute_differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    ours, theirs = _decided(expected), _decided(stored)
    for name in sorted({*ours, *theirs}):
        # As JSON has it: tuples are lists there.
        if json_digest({name: ours.get(name)}) != json_digest({name: theirs.get(name)}):
            yield f"its attribute {name} differs from the input's"


def _decided(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the attributes that the DICOM and the configuration decide, one level deep."""
    about = attributes.get("ct_etl") or {}
    found = {part: about.get(part) for part in _DECIDED_PARTS}
    quality = dict(found["qc"] or {})
    quality["warnings"] = sorted(code for code in quality.get("warnings", ()) if code not in OF_THE_RUN)
    # They depend on the other series that the run saw of the patient.
    quality.pop("default_series_points", None)
    found["qc"] = quality
    provenance = about.get("provenance") or {}
    found.update({name: provenance.get(name) for name in _DECIDED_DIGESTS})
    return {**found, "dicom": attributes.get("dicom"), "ome": attributes.get("ome")}
