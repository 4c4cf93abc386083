"""From scanned stacks to tasks: rules and geometry, no pixels, nothing written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
    check_rescale,
    check_size,
    estimated_memory_bytes,
    layout_warnings,
    stack_digest,
)
from etl.plan.default_series import Fact, Score, load_rules, score
from etl.plan.incomplete_series import find_incomplete
from etl.plan.left_out import series_left_out
from etl.plan.selection import exclusion_of
from etl.plan.series_keys import keys_of
from etl.plan.split_stacks import check_origin, check_repeats, separate
from etl.scan.scan import ScanResult
from etl.stack import Stack
from etl.store.node_names import patient_key
from etl.volume.geometry import Layout, lay_out
from etl.volume.grid import make_grid


@dataclass(frozen=True, eq=False)
class SeriesTask:
    """One unit of work: paths and numbers that turn one stack into one volume.

    Parameters
    ----------
    stack, layout : Stack, Layout
        Slices in spatial order, and where they are.
    entry : Entry
        The ledger's line as far as the plan knows it.
    source_digest, config_digest : str
        What the published volume is compared with.
    memory_bytes : int
        What a worker needs, at most.
    points : int
        How well the series suits as its patient's default, see `etl.plan.default_series`.
    picture : str, optional
        File for the report's picture.
    """

    stack: Stack
    layout: Layout
    entry: Entry
    source_digest: str
    config_digest: str
    memory_bytes: int
    points: int = 0
    picture: str | None = None

    @property
    def bytes_in(self) -> int:
        """Bytes of pixel data once decoded; the measure of how much work this is."""
        return sum(self.stack.formats[i].frame_bytes for i in self.stack.slices.format)

    @property
    def row_count(self) -> int:
        """Slices that a message about this holds, copies too."""
        return len(self.stack.slices) + len(self.stack.copies or ())


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
    numbered = separate(scan.stacks)
    keys = keys_of(numbered)
    incomplete = find_incomplete([stack.key for stack in numbered], [len(stack.slices) for stack in numbered])
    for stack, key, lack in zip(numbered, keys, incomplete, strict=True):
        entry = _entry(stack, key)
        stacks.append((entry, stack))
        if lack is not None:
            settled.append(entry.failed(lack.code, str(lack)))
            continue
        exclusion = exclusion_of(
            stack,
            min_slices=config.min_slices,
            slice_count=config.slice_count,
            allow_burned_in=key_digest is None,
        )
        if exclusion is not None:
            settled.append(entry.excluded(exclusion.reason, exclusion.detail))
            continue
        try:
            tasks.append(_task(stack, entry, config, digest))
        except SeriesError as error:
            settled.append(entry.failed(error.code, str(error)))
    left_out = series_left_out(stacks, settled)
    tasks = [_told(task) if task.stack.key.series_instance_uid in left_out else task for task in tasks]
    _refuse_shared_keys(tasks)
    defaults, scores = _default_series(tasks)
    tasks = [_with_score(task, defaults, scores) for task in tasks]
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


def _refuse_shared_keys(tasks: Sequence[SeriesTask]) -> None:
    """Refuse a plan in which two patients would become one."""
    owners: dict[str, str] = {}
    named = {task.entry.patient_id for task in tasks if not task.stack.key.patient_id_from_path}
    containers: defaultdict[str, set[str]] = defaultdict(set)
    for task in tasks:
        if task.stack.key.patient_id_from_path:
            containers[task.entry.patient_id] |= {where.container for where in task.stack.slices.locations}
    for name, found in containers.items():
        if len(found) > 1 or name in named:
            raise UsageError(
                f"files without Patient ID (0010,0020) in a folder or zip named {name!r} would be taken for "
                "another patient of that name; rename it, or run it into a store of its own"
            )
    for patient_id in sorted({task.entry.patient_id for task in tasks}):
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


def _entry(stack: Stack, series_key: str) -> Entry:
    key = stack.key
    return Entry(
        patient_id=key.patient_id,
        patient_key=patient_key(key.patient_id),
        series_instance_uid=key.series_instance_uid,
        series_number=key.series_number,
        series_key=series_key,
        slices=len(stack.slices),
        outcome="written",
        warnings=(WarningCode.NO_PATIENT_ID,) if key.patient_id_from_path else (),
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
    check_rescale(stack)
    check_complete(stack)
    try:
        layout = _lay_out(stack)
    except SeriesError:
        # Of positions that repeat this says more.
        check_repeats(stack)
        raise
    check_gaps(layout, config.max_gap_mm)
    grid = make_grid(layout, spacing_mm=config.spacing_mm, zoom=config.zoom)
    check_size(stack, grid.count, limit_mb=config.max_volume_mb)
    return SeriesTask(
        stack=stack.with_slices(stack.slices.take(layout.order)),
        layout=replace(layout, order=np.arange(len(layout.order))),
        entry=replace(entry, warnings=(*entry.warnings, *layout_warnings(stack, layout))),
        source_digest=stack_digest(stack),
        config_digest=config_digest,
        memory_bytes=estimated_memory_bytes(stack, grid.count),
    )


def _default_series(tasks: Sequence[SeriesTask]) -> tuple[dict[str, str], dict[str, Score]]:
    """Choose each patient's default series; give every candidate's score, by series key."""
    by_patient: defaultdict[str, list[SeriesTask]] = defaultdict(list)
    for task in tasks:
        by_patient[task.entry.patient_id].append(task)
    defaults: dict[str, str] = {}
    scores: dict[str, Score] = {}
    for patient, candidates in by_patient.items():
        longest = max(_coverage_mm(task) for task in candidates)
        of_patient = {
            task.entry.series_key: score(_facts(task, longest_mm=longest), load_rules()) for task in candidates
        }
        best = min(
            (-of_patient[entry.series_key].points, -entry.slices, entry.series_number, entry.series_key)
            for entry in (task.entry for task in candidates)
        )
        defaults[patient] = best[-1]
        scores.update((f"{patient}/{key}", found) for key, found in of_patient.items())
    return defaults, scores


def _with_score(task: SeriesTask, defaults: dict[str, str], scores: dict[str, Score]) -> SeriesTask:
    entry = task.entry
    role = "default series, " if defaults[entry.patient_id] == entry.series_key else ""
    found = scores[f"{entry.patient_id}/{entry.series_key}"]
    return replace(task, entry=replace(entry, detail=f"{role}{found}"), points=found.points)


def _coverage_mm(task: SeriesTask) -> float:
    return float(np.ptp(task.layout.offset_mm[:, 0]))


def _facts(task: SeriesTask, *, longest_mm: float) -> dict[str, Fact]:
    stack = task.stack
    return {
        "coverage_share": _coverage_mm(task) / longest_mm,
        "slice_spacing_mm": float(np.median(task.layout.gaps_mm)),
        "kernel": stack.convolution_kernel,
        "description": stack.description,
        "image_type": stack.image_type,
        "contrast": stack.has_contrast,
    }
