"""Tell apart the slices of one series that are several scans, by what their headers say.

The rules are data: `etl.scan.distinctions.DISTINCTIONS`. A stack is *sound* where no place occurs twice and no
attribute weaves, that is, no two values of it lie between each other. Of a stack that is not sound the attributes
are tried in the order of trust, one alone, then two and three together; the first whose parts are all sound
decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from etl.plan.labels import Column
from etl.plan.weaving import adjoin, alternates, is_woven, places_of, regions_of

Index = NDArray[np.intp]
MAX_TOGETHER = 3
# More attributes than this are never independent of each other.
MAX_COLUMNS = 10
WHOLE_SHARE = 0.9
MIN_WHOLE_SHARE = 0.8
OVERLAP_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Part:
    """Slices that are one scan, and what tells them apart from the others."""

    index: Index
    told: str = ""


class Slab:
    """Slices of one stack: where they lie along the normal, how thick they are, and what is not the same in all.

    Parameters
    ----------
    along_mm, thickness_mm : (n,) float64 arrays
    columns : sequence of Column
        In the order of trust.
    """

    def __init__(
        self, along_mm: NDArray[np.float64], thickness_mm: NDArray[np.float64], columns: Sequence[Column]
    ) -> None:
        self.along_mm, self.thickness_mm, self.columns = along_mm, thickness_mm, columns
        self.places = places_of(along_mm)

    def repeats(self, index: Index) -> bool:
        """Whether two of the slices lie at one place."""
        return len(np.unique(self.places[index])) < len(index)

    def weaver(self, index: Index) -> Column | None:
        """Give the first attribute whose values lie between each other."""
        order = index[np.argsort(self.along_mm[index], kind="stable")]
        along, thickness = self.along_mm[order], self.thickness_mm[order]
        for column in self.columns:
            labels = column.labels[order]
            if (labels != labels[0]).any() and is_woven(labels, along, thickness, column.row.role):
                return column
        return None

    def is_sound(self, index: Index) -> bool:
        """Whether the slices are one scan as far as places and attributes tell."""
        return not self.repeats(index) and self.weaver(index) is None


def tell_apart(slab: Slab) -> list[Part] | None:
    """Part slices into scans.

    Returns
    -------
    list of Part or None
        One part where nothing has to be told apart. None: places occur twice and nothing tells them apart.

    Examples
    --------
    >>> from etl.scan.distinctions import DISTINCTIONS
    >>> temporal = Column(DISTINCTIONS[5], np.array([0, 0, 1, 1]), np.array([1.0, 1, 2, 2]), ("1", "2"))
    >>> slab = Slab(np.array([0, 5.0, 0, 5]), np.full(4, 5.0), [temporal])
    >>> [(part.index.tolist(), part.told) for part in tell_apart(slab)]
    [([0, 1], 'TemporalPositionIdentifier=1'), ([2, 3], 'TemporalPositionIdentifier=2')]
    """
    every = np.arange(len(slab.along_mm))
    if slab.is_sound(every):
        return _regions(slab, Part(every))
    ways = chain(
        (_parts(slab, columns, is_coarse=True) for columns in _choices(slab)),
        (_turns(slab, column) for column in slab.columns),
        (_parts(slab, columns, is_coarse=False) for columns in _choices(slab)),
    )
    parts = next((found for found in ways if found is not None), None)
    if parts is not None:
        return [region for part in parts for region in _regions(slab, part)]
    return None if slab.repeats(every) else [Part(every)]


def alternating(slab: Slab) -> Column | None:
    """Give the attribute in which a stack alternates that no volume may alternate in."""
    order = np.argsort(slab.along_mm, kind="stable")
    for column in slab.columns:
        if column.row.is_strict and alternates(column.labels[order], slab.along_mm[order]):
            return column
    return None


def _choices(slab: Slab) -> Iterator[tuple[Column, ...]]:
    """Give the attributes alone, then two and three together; of those that cut in the same way the first."""
    distinct: dict[bytes, Column] = {}
    for column in slab.columns:
        first = np.unique(column.labels, return_index=True)[1]
        # Named by first occurrence, a cut is the same bytes whatever its labels are called.
        distinct.setdefault(first[column.labels].tobytes(), column)
    usable = [c for c in distinct.values() if 2 * len(c.texts) <= len(c.labels) + 2][:MAX_COLUMNS]
    for together in range(1, MAX_TOGETHER + 1):
        yield from combinations(usable, together)


def _parts(slab: Slab, columns: tuple[Column, ...], *, is_coarse: bool) -> list[Part] | None:
    """Part slices by the values of attributes; None where a part would be no scan.

    Coarse: into no more parts than a place has slices, unless all of them are scans of one region.
    """
    labels = np.unique(np.stack([c.labels for c in columns], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    parts = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    most = int(np.bincount(slab.places).max())
    if len(parts) > most and all(column.row.role in {"acquisition", "record"} for column in columns):
        parts = _joined_along(slab, parts)
    whole = [part for part in parts if len(part) > 1]
    fragments = len(parts) - len(whole)
    # A scan that was stopped leaves a slice; many slices alone are a cut that is too fine.
    is_fine = fragments > max(1, len(parts) // 3) or sum(map(len, whole)) < MIN_WHOLE_SHARE * (len(labels) - 1)
    if len(parts) < 2 or not whole or is_fine:
        return None
    if is_coarse and len(parts) > most and not _lie_over_each_other(slab, whole):
        return None
    if not all(slab.is_sound(part) for part in whole):
        return None
    return [Part(part, _told(columns, part)) for part in parts]


def _lie_over_each_other(slab: Slab, parts: Sequence[Index]) -> bool:
    starts = np.array([slab.along_mm[part].min() for part in parts])
    ends = np.array([slab.along_mm[part].max() for part in parts])
    return bool(ends.min() - starts.max() >= OVERLAP_SHARE * (ends - starts).min())


def _joined_along(slab: Slab, parts: list[Index]) -> list[Index]:
    """Join acquisitions of one scan that lie behind each other: rotations, or the ends of a table that toggles.

    Nothing is joined where one of them covers all: then the others are scans of its region, or fragments of them.
    """
    extents = [np.ptp(slab.along_mm[part]) for part in parts]
    if max(extents) >= WHOLE_SHARE * np.ptp(slab.along_mm):
        return parts
    joined: list[Index] = []
    for part in parts:
        for i, group in enumerate(joined):
            if adjoin(np.sort(slab.along_mm[group]), np.sort(slab.along_mm[part])):
                joined[i] = np.sort(np.concatenate([group, part]))
                break
        else:
            joined.append(part)
    return joined


def _turns(slab: Slab, column: Column) -> list[Part] | None:
    """Make the first slices at every place one scan, the second ones the next: each slice has a time of its own.

    The last turn may be incomplete where every turn ended before the next began.
    """
    if column.row.comparison not in {"instant", "number"} or column.row.role == "image":
        return None
    order = np.lexsort((column.order, slab.places))
    starts = np.flatnonzero(np.diff(slab.places[order], prepend=-1))
    counts = np.diff([*starts, len(order)])
    if len(counts) < 2 or counts.max() < 2 or counts.max() - counts.min() > 1:
        return None
    same_place = np.diff(slab.places[order]) == 0
    if (np.diff(column.order[order])[same_place] <= 0).any():
        return None
    turn = np.empty(len(order), np.intp)
    turn[order] = np.arange(len(order)) - np.repeat(starts, counts)
    parts = [np.flatnonzero(turn == k) for k in range(int(counts.max()))]
    if counts.min() < counts.max() and not _follow_each_other(parts, column.order):
        return None
    whole = [part for part in parts if len(part) > 1]
    if len(whole) < len(parts) - 1 or not all(slab.is_sound(part) for part in whole):
        return None
    first = [part[np.argmin(column.order[part])] for part in parts]
    return [Part(part, _told((column,), part[part == i])) for part, i in zip(parts, first, strict=True)]


def _follow_each_other(parts: Sequence[Index], order: NDArray[np.float64]) -> bool:
    return all(order[a].max() < order[b].min() for a, b in pairwise(parts))


def _regions(slab: Slab, part: Part) -> list[Part]:
    """Part regions that lie far apart and that one attribute tells apart; else they are one scan with a gap."""
    order = part.index[np.argsort(slab.along_mm[part.index], kind="stable")]
    region = regions_of(slab.along_mm[order])
    count = int(region.max(initial=0)) + 1
    if count < 2 or np.bincount(region).min() < 2:
        return [part]
    for column in (column for column in slab.columns if column.row.parts_regions):
        of_region = [np.unique(column.labels[order[region == k]]) for k in range(count)]
        if all(len(found) == 1 for found in of_region) and len(np.unique(np.concatenate(of_region))) == count:
            turns = np.argsort([found[0] for found in of_region])
            found = [np.sort(order[region == k]) for k in turns]
            return [Part(one, ", ".join(filter(None, (part.told, _told((column,), one))))) for one in found]
    return [part]


def _told(columns: Sequence[Column], part: Index) -> str:
    """Say what a part has: the smallest value of each attribute, in one way of writing."""
    return ", ".join(f"{c.row.keyword}={c.texts[int(c.labels[part].min())]}" for c in columns)
