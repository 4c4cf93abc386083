"""Choose each patient's default series among what can become a volume."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from etl.codes import ExclusionCode
from etl.entry import Entry
from etl.plan.default_series import Fact, Score, load_rules, score
from etl.plan.masks import MASK_DETAIL, holds_few_values, is_mask
from etl.plan.task import SeriesTask


def choose_defaults(
    tasks: Sequence[SeriesTask], *, is_exclusive: bool
) -> tuple[list[SeriesTask], dict[str, str], list[Entry]]:
    """Choose each patient's default series, and give every candidate its score.

    Parameters
    ----------
    tasks : sequence of SeriesTask
    is_exclusive : bool
        Nothing but the default will be written: then it is looked at whether it is a mask.

    Returns
    -------
    list of SeriesTask
        Without masks.
    dict
        Series key of the default, by Patient ID.
    list of Entry
        Of the masks. Others are found when their pixels are read.
    """
    masks = [task for task in tasks if holds_few_values(task.stack) and is_mask(task.stack)]
    while True:
        wanted = [task for task in tasks if task not in masks]
        defaults, scores = _default_series(wanted)
        chosen = [task for task in wanted if defaults[task.entry.patient_id] == task.entry.series_key]
        found = [task for task in chosen if is_exclusive and is_mask(task.stack)]
        if not found:
            break
        masks += found
    excluded = [task.entry.excluded(ExclusionCode.MASK, MASK_DETAIL) for task in masks]
    return [_with_score(task, defaults, scores) for task in wanted], defaults, excluded


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
        "kernel": stack.header.convolution_kernel,
        "description": stack.header.description,
        "image_type": stack.header.image_type,
        "contrast": stack.header.has_contrast,
    }
