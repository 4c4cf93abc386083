"""The stacks of a series in an order and with names that do not depend on the order of files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from etl.plan.labels import meaning_of
from etl.scan.distinctions import DISTINCTIONS
from etl.stack import Stack

_ORDERING = tuple(
    k
    for kind in (("number", "phase"), ("number", "acquisition"), ("instant", "acquisition"), ("instant", "record"))
    for k, row in enumerate(DISTINCTIONS)
    if (row.comparison, row.role) == kind
)
_SHARED: dict[str, Callable[[Stack], object]] = {
    "SOPClassUID": lambda stack: stack.key.sop_class_uid,
    "Modality": lambda stack: stack.key.modality,
    "Rows": lambda stack: stack.key.rows,
    "Columns": lambda stack: stack.key.columns,
    "SamplesPerPixel": lambda stack: stack.key.samples_per_pixel,
    "RescaleType": lambda stack: stack.key.rescale_type,
    "ImageOrientationPatient": lambda stack: "\\".join(f"{v + 0:.2f}" for v in np.round(stack.key.orientation, 2)),
    "PixelSpacing": lambda stack: "\\".join(f"{v:.3f}" for v in stack.key.pixel_spacing_mm),
}


def number_stacks(stacks: Sequence[Stack]) -> list[Stack]:
    """Give the stacks of each series their numbers, and complete what tells them apart."""
    series: defaultdict[tuple[str, str], list[Stack]] = defaultdict(list)
    for stack in stacks:
        series[stack.key.patient_id, stack.key.series_instance_uid].append(stack)
    numbered = []
    for key in sorted(series):
        members = series[key]
        if len(members) > 1:
            members = _told(sorted(members, key=_stack_order))
        numbered += [stack.with_slices(stack.slices, number=n) for n, stack in enumerate(members, start=1)]
    return numbered


def _is_beside(stack: Stack) -> bool:
    """Localizers and captures, which must not take the first number."""
    return stack.key.is_localizer or not stack.key.has_pixels or stack.key.samples_per_pixel != 1


def _told(members: Sequence[Stack]) -> list[Stack]:
    """Add what all slices of a stack share and those of another one do not."""
    volumes = [stack for stack in members if not _is_beside(stack)]
    told = []
    for stack in members:
        others = members if _is_beside(stack) else volumes
        own = [f"{name}={value(stack)}" for name, value in _SHARED.items() if len(set(map(value, others))) > 1]
        told.append(replace(stack, told_apart_by=", ".join([*own, *filter(None, [stack.told_apart_by])])))
    return told


def _stack_order(stack: Stack) -> tuple[object, ...]:
    slices = stack.slices
    return (
        _is_beside(stack),
        -len(slices),
        tuple(_earliest(stack, k) for k in _ORDERING) if slices.marks.size else (),
        stack.told_apart_by,
        int(slices.instance_number.min()),
        min(slices.sop_instance_uid.tolist()),
    )


def _earliest(stack: Stack, k: int) -> float:
    """Give the smallest number or instant of an attribute; -1 where a slice lacks it."""
    texts = [stack.mark_values[k][code] for code in np.unique(stack.slices.marks[:, k])]
    found = [meaning_of(DISTINCTIONS[k], text) for text in texts]
    return min(-1.0 if meaning is None else meaning[0] for meaning in found)
