"""From scanned stacks to tasks: rules and geometry, no pixels, nothing written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etl.codes import ExclusionCode, FailureCode, WarningCode
from etl.config import Config
from etl.dicom.pixels import check_pixel_format
from etl.digests import json_digest
from etl.entry import Entry
from etl.errors import SeriesError, UsageError
from etl.plan.checks import (
    check_complete,
    check_gaps,
    check_planes,
    check_rescale,
    check_size,
    estimated_memory_bytes,
    layout_warnings,
    stack_digest,
)
from etl.plan.choose_default import choose_defaults
from etl.plan.evidence import lost_parts, refuse_lost_frames, with_evidence
from etl.plan.incomplete_series import find_incomplete
from etl.plan.left_out import series_left_out
from etl.plan.owners import owner_warnings, refuse_torn_series
from etl.plan.selection import exclusion_of, too_few
from etl.plan.series_keys import keys_of
from etl.plan.split_stacks import check_origin, frame_of_reference, separate
from etl.plan.task import SeriesTask
from etl.scan.scan import ScanResult
from etl.stack import Stack
from etl.store.node_names import patient_key
from etl.volume.geometry import Layout, lay_out
from etl.volume.grid import make_grid


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run will do: `tasks` to process, `settled` entries that need no work."""

    tasks: tuple[SeriesTask, ...]
    settled: tuple[Entry, ...]
    default_series: dict[str, str]
    """Series key, by Patient ID."""
    stacks: tuple[tuple[Entry, Stack], ...]
    """Every stack that was found, by its first entry; `describe` tells more of it."""


def make_plan(scan: ScanResult, config: Config, *, key_digest: str | None = None) -> Plan:
    """Decide what becomes of every stack that was found.

    Parameters
    ----------
    scan : ScanResult
    config : Config
    key_digest : str, optional
        Of the key by which identifiers were replaced in `scan`.

    Raises
    ------
    UsageError
        Two patients would share one group of the store.
    """
    digest = json_digest(config.recipe(key_digest=key_digest))
    tasks: list[SeriesTask] = []
    settled: list[Entry] = [_unreadable(item.patient_name_from_path, item.detail) for item in scan.unreadable]
    stacks: list[tuple[Entry, Stack]] = []
    numbered = [refuse_lost_frames(stack) for stack in refuse_torn_series(separate(scan.stacks))]
    incomplete = find_incomplete([stack.key for stack in numbered], [len(stack.slices) for stack in numbered])
    facts = zip(numbered, keys_of(numbered), incomplete, owner_warnings(numbered), strict=True)
    for stack, key, lack, warnings in facts:
        entry = _entry(stack, key, warnings)
        stacks.append((entry, stack))
        if lack is not None:
            settled.append(entry.failed(lack.code, str(lack)))
            continue
        exclusion = exclusion_of(stack, allow_burned_in=key_digest is None)
        try:
            if exclusion is None:
                _check_consistent(stack)
                exclusion = too_few(stack, min_slices=config.min_slices, slice_count=config.slice_count)
            if exclusion is None:
                tasks.append(_task(stack, entry, config, digest))
            else:
                settled.append(entry.excluded(exclusion.reason, exclusion.detail))
        except SeriesError as error:
            settled.append(entry.failed(error.code, str(error)))
    left_out = series_left_out(stacks, settled)
    tasks = [_told(task) if task.stack.key.series_instance_uid in left_out else task for task in tasks]
    refuse_shared_keys((task.entry.patient_id, task.unnamed_in) for task in tasks)
    tasks, defaults, masks = choose_defaults(tasks, is_exclusive=config.series == "default")
    settled += masks
    if config.series == "default":
        others = [task.entry for task in tasks if defaults[task.entry.patient_id] != task.entry.series_key]
        settled += [
            entry.excluded(
                ExclusionCode.NOT_SELECTED, f"series {defaults[entry.patient_id]} is the default; {entry.detail}"
            )
            for entry in others
        ]
        tasks = [task for task in tasks if defaults[task.entry.patient_id] == task.entry.series_key]
    return Plan(tuple(tasks), tuple(settled), defaults, tuple(stacks))


def _told(task: SeriesTask) -> SeriesTask:
    """Have a volume say that slices of its series are no part of it."""
    return replace(task, entry=replace(task.entry, warnings=(*task.entry.warnings, WarningCode.SLICES_LEFT_OUT)))


def refuse_shared_keys(patients: Iterable[tuple[str, Collection[str]]]) -> None:
    """Refuse a plan in which two patients would become one.

    Parameters
    ----------
    patients : iterable of (str, collection of str)
        Patient ID of each task, and the folders or zips that its files lie in where they name no Patient ID.

    Raises
    ------
    UsageError
    """
    owners: dict[str, str] = {}
    named: set[str] = set()
    containers: defaultdict[str, set[str]] = defaultdict(set)
    for patient_id, unnamed_in in patients:
        if unnamed_in:
            containers[patient_id].update(unnamed_in)
        else:
            named.add(patient_id)
    for name, found in containers.items():
        if len(found) > 1 or name in named:
            raise UsageError(
                f"files without Patient ID (0010,0020) in a folder or zip named {name!r} would be taken for "
                "another patient of that name; rename it, or run it into a store of its own"
            )
    for patient_id in sorted({*named, *containers}):
        # Case too: file systems of Windows and macOS hold "a" and "A" in one folder.
        other = owners.setdefault(patient_key(patient_id).lower(), patient_id)
        if other != patient_id:
            raise UsageError(
                f"Patient IDs {other!r} and {patient_id!r} would share group {patient_key(patient_id)!r} of the "
                "store; give them to separate stores"
            )


def describe(stack: Stack) -> dict[str, Any]:
    """Give size, spacing, tilt and kernel for a person to look at; what cannot be told is left out."""
    key, slices = stack.key, stack.slices
    facts: dict[str, Any] = {
        "size": [len(slices), key.rows, key.columns],
        "convolution_kernel": stack.convolution_kernel,
    }
    try:
        layout = _lay_out(stack)
    except SeriesError:
        return facts
    if len(slices) > 1:
        spacing = [float(np.median(layout.gaps_mm)), layout.row_spacing_mm, layout.column_spacing_mm]
        facts.update(spacing_mm=spacing, gantry_tilt_deg=layout.gantry_tilt_deg)
    return facts


def _lay_out(stack: Stack) -> Layout:
    key = stack.key
    return lay_out(
        stack.slices.position_lps_mm,
        orientation=key.orientation,
        pixel_spacing_mm=key.pixel_spacing_mm,
        rows=key.rows,
        columns=key.columns,
        thickness_mm=stack.slices.thickness_mm,
        instance_number=stack.slices.instance_number,
    )


def _check_consistent(stack: Stack) -> None:
    """Refuse slices that are not one scan, however few they are."""
    if stack.refusal is not None and stack.refusal[0] == FailureCode.INCONSISTENT_SLICES:
        raise SeriesError(*stack.refusal)


def _entry(stack: Stack, series_key: str, warnings: tuple[str, ...]) -> Entry:
    key = stack.key
    return Entry(
        patient_id=key.patient_id,
        patient_key=patient_key(key.patient_id),
        series_instance_uid=key.series_instance_uid,
        series_number=key.series_number,
        series_key=series_key,
        slices=len(stack.slices),
        outcome="written",
        warnings=warnings,
        bytes_in=int(stack.slices.file_bytes.sum()),
    )


def _unreadable(name_from_path: str, detail: str) -> Entry:
    key = patient_key(name_from_path)
    return Entry(
        name_from_path, key, "", 0, "", 0, "failed", FailureCode.UNREADABLE, detail, (WarningCode.NO_PATIENT_ID,)
    )


def _task(stack: Stack, entry: Entry, config: Config, config_digest: str) -> SeriesTask:
    for pixel_format in stack.formats:
        check_pixel_format(pixel_format)
    check_origin(stack)
    check_rescale(stack, assume_hu=config.assume_hu)
    check_complete(stack)
    if stack.refusal is not None:
        raise SeriesError(*stack.refusal)
    check_planes(stack)
    layout = _lay_out(stack)
    try:
        check_gaps(layout, config.max_gap_mm)
    except SeriesError as error:
        raise SeriesError(error.code, with_evidence(str(error), stack)) from error
    lost = lost_parts(stack)
    if lost is not None and not stack.told_apart_by:
        raise SeriesError(FailureCode.MISSING_SLICES, with_evidence(lost, stack))
    grid = make_grid(layout, spacing_mm=config.spacing_mm, zoom=config.zoom)
    check_size(stack, grid.count, limit_mb=config.max_volume_mb)
    return SeriesTask(
        stack=stack.with_slices(stack.slices.take(layout.order)).without_marks(),
        layout=replace(layout, order=np.arange(len(layout.order))),
        entry=replace(entry, warnings=(*entry.warnings, *layout_warnings(stack, layout, lost_parts=lost))),
        source_digest=stack_digest(stack),
        config_digest=config_digest,
        memory_bytes=estimated_memory_bytes(stack, grid.count),
        frame_of_reference_uid=frame_of_reference(stack),
    )
