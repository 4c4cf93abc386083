"""What the table of distinctions says of the slices of one stack, as labels that can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl.dicom.instants import instant_us
from etl.scan.distinctions import DISTINCTIONS, Distinction
from etl.stack import Stack

Label = tuple[float, str]
"""What a text means: a number or instant that orders it, and how it is written in one way only."""


@dataclass(frozen=True, eq=False)
class Column:
    """One attribute that is not the same in all slices.

    Parameters
    ----------
    row : Distinction
    labels : (n,) int array
        The same number for slices that agree, in the order of the values.
    order : (n,) float64 array
        Number or instant; equal for texts.
    texts : tuple of str
        Canonical text of each label.
    """

    row: Distinction
    labels: NDArray[np.intp]
    order: NDArray[np.float64]
    texts: tuple[str, ...]


def read_columns(stack: Stack) -> list[Column]:
    """Give the attributes that are not the same in all slices, in the order of trust.

    Where some slices lack a number, an instant or a UID it tells nothing; a text may be absent.
    """
    marks = stack.slices.marks
    if marks.size == 0:
        return []
    varying = np.flatnonzero((marks != marks[0]).any(axis=0))
    columns = (_column(DISTINCTIONS[k], marks[:, k], stack.mark_values[k]) for k in varying)
    return [column for column in columns if column is not None]


def _column(row: Distinction, codes: NDArray[np.int32], texts: Sequence[str]) -> Column | None:
    used, index = np.unique(codes, return_inverse=True)
    meanings = [meaning_of(row, texts[code]) for code in used]
    known = [meaning for meaning in meanings if meaning is not None]
    if len(known) < len(meanings) or len(set(known)) < 2:
        return None
    if row.comparison == "number":
        known = _clustered(known, row.tolerance)
    distinct = sorted(set(known))
    if len(distinct) < 2:
        return None
    number = {meaning: i for i, meaning in enumerate(distinct)}
    labels = np.array([number[meaning] for meaning in known], np.intp)[index]
    order = np.array([meaning[0] for meaning in known])[index]
    return Column(row, labels, order, tuple(text for _, text in distinct))


def meaning_of(row: Distinction, text: str) -> Label | None:
    """Give what a text says; None where it says nothing that can be compared."""
    if row.comparison == "text":
        return 0.0, " ".join(text.upper().split())
    if row.comparison == "uid":
        return (0.0, text) if text else None
    if row.comparison == "instant":
        found = instant_us(*text.split(" ")) if text.count(" ") < 2 else None
        return None if found is None else (float(found), f"{found}")
    try:
        value = float(text.split("\\", maxsplit=1)[0])
    except ValueError:
        return None
    return (value, f"{value:.9g}") if math.isfinite(value) else None


def _clustered(found: Sequence[Label], tolerance: float) -> list[Label]:
    """Give numbers that are nearer than the tolerance the smallest of them, whatever order they come in."""
    smallest: dict[Label, Label] = {}
    last: Label | None = None
    for meaning in sorted(set(found)):
        first = smallest[last] if last is not None else meaning
        # Measured from the smallest: a drift over many values does not chain what is really apart.
        smallest[meaning] = first if meaning[0] - first[0] <= tolerance * abs(first[0]) else meaning
        last = meaning
    return [smallest[meaning] for meaning in found]
