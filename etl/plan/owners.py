"""Whose slices they are: one series under several Patient IDs, one Patient ID of several people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from etl.codes import FailureCode, WarningCode
from etl.errors import SeriesError
from etl.plan.split_stacks import along_mm, are_torn
from etl.plan.weaving import adjoin
from etl.stack import Stack

HALF_SHARE = 1 / 3


def refuse_torn_series(stacks: Sequence[Stack]) -> list[Stack]:
    """Refuse the stacks of a series whose slices stand under several Patient IDs and complete each other.

    A series that is whole under each of them stays: see `owner_warnings`.
    """
    refused = list(stacks)
    for members in _shared_series(stacks).values():
        planes: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        for i in members:
            key = stacks[i].key
            if key.has_pixels and not key.is_localizer:
                planes[(key.rows, key.columns, *np.round(key.orientation, 2))].append(i)
        for together in planes.values():
            patients = {stacks[i].key.patient_id for i in together}
            parts = [stacks[i] for i in together]
            if len(patients) > 1 and (are_torn(parts) or _go_on(parts)):
                detail = (
                    f"Patient ID (0010,0020) has {len(patients)} values in slices of one series that complete "
                    "each other; one value is needed"
                )
                for i in together:
                    refused[i] = replace(stacks[i], refusal=(FailureCode.INCONSISTENT_SLICES, detail))
    return refused


def owner_warnings(stacks: Sequence[Stack]) -> list[tuple[str, ...]]:
    """Give for each stack the codes of what is unusual about whose it is."""
    shared = {i for members in _shared_series(stacks).values() for i in members}
    persons: defaultdict[str, list[set[str]]] = defaultdict(lambda: [set(), set(), set()])
    for stack in stacks:
        for header in stack.own_headers:
            for known, value in zip(persons[stack.key.patient_id], header.person, strict=False):
                known.add(value)
    conflicting = {
        patient for patient, known in persons.items() if any(len(values - {""}) > 1 for values in known)
    }
    found: list[tuple[str, ...]] = []
    for i, stack in enumerate(stacks):
        codes = {
            WarningCode.NO_PATIENT_ID: stack.key.patient_id_from_path,
            WarningCode.UNDECODABLE_PATIENT_ID: stack.key.undecodable_patient_id,
            WarningCode.PATIENT_ID_CONFLICT: stack.key.patient_id in conflicting,
            WarningCode.SHARED_SERIES_UID: i in shared and stack.refusal is None,
        }
        found.append(tuple(code for code, applies in codes.items() if applies))
    return found


def _shared_series(stacks: Sequence[Stack]) -> dict[str, list[int]]:
    """Give the stacks of each series that several patients have, by its UID."""
    series: defaultdict[str, list[int]] = defaultdict(list)
    for i, stack in enumerate(stacks):
        if not stack.key.series_uid_from_path:
            series[stack.key.series_instance_uid].append(i)
    return {uid: found for uid, found in series.items() if len(_patients(stacks, found)) > 1}


def _patients(stacks: Sequence[Stack], chosen: Iterable[int]) -> set[str]:
    return {stacks[i].key.patient_id for i in chosen}


def _go_on(parts: Sequence[Stack]) -> bool:
    """Whether one part goes on where another patient's ends; a few slices at an end are told, and no half."""
    try:
        places = sorted(
            ((np.sort(along_mm(part)), part.key.patient_id) for part in parts),
            key=lambda found: float(found[0][0]),
        )
    except SeriesError:
        return False
    if not all(np.isfinite(along).all() for along, _ in places):
        return False
    return any(
        a[1] != b[1] and min(len(a[0]), len(b[0])) >= HALF_SHARE * max(len(a[0]), len(b[0])) and adjoin(a[0], b[0])
        for a, b in pairwise(places)
    )
