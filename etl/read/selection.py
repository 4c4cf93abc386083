"""What numpy calls basic indexing, without negative steps, as ranges along each axis."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

Selection = SupportsIndex | slice | EllipsisType | tuple[SupportsIndex | slice | EllipsisType, ...]
"""What a volume takes between brackets."""
Indices = Sequence[range | NDArray[np.intp]]
"""Increasing indices along each axis."""
Inside = slice | NDArray[np.intp]


@dataclass(frozen=True)
class Part:
    """What is wanted of one chunk along one axis.

    Parameters
    ----------
    chunk : int
        Its number along the axis.
    inside : slice or int array
        Wanted indices, counted from the chunk's beginning.
    low, high : int
        The first of them, and the last plus one.
    target : slice
        Where they go.
    """

    chunk: int
    inside: Inside
    low: int
    high: int
    target: slice


def ranges_of(selection: Selection, shape: tuple[int, ...]) -> tuple[list[range], tuple[int, ...]]:
    """Turn a selection into a range an axis.

    Returns
    -------
    list of range
    tuple of int
        Shape of the result: without the axes that were indexed by a number.

    Raises
    ------
    IndexError
        An index is outside, a step is not positive, or there are too many indices.

    Examples
    --------
    >>> ranges_of((..., slice(1, 9, 3), -1), (4, 5, 6))
    ([range(0, 4), range(1, 5, 3), range(5, 6)], (4, 2))
    """
    given = selection if isinstance(selection, tuple) else (selection,)
    dots = [n for n, one in enumerate(given) if one is Ellipsis]
    if len(dots) > 1:
        raise IndexError("more than one ellipsis in a selection")
    at = dots[0] if dots else len(given)
    before, after = given[:at], given[at + 1 :]
    missing = len(shape) - len(before) - len(after)
    if missing < 0:
        raise IndexError(f"{len(before) + len(after)} indices for {len(shape)} axes")
    each = (*before, *(slice(None),) * missing, *after)
    ranges = [_range_of(one, n, axis) for axis, (one, n) in enumerate(zip(each, shape, strict=True))]
    return ranges, tuple(len(r) for r, one in zip(ranges, each, strict=True) if isinstance(one, slice))


def _range_of(one: SupportsIndex | slice | EllipsisType, length: int, axis: int) -> range:
    if isinstance(one, slice):
        start, stop, step = one.indices(length)
        if step < 1:
            raise IndexError(f"step {step} along axis {axis}: allowed is 1 or more")
        return range(start, max(start, stop), step)
    if isinstance(one, bool | EllipsisType) or not hasattr(one, "__index__"):
        raise IndexError(f"{one!r} along axis {axis}: allowed are whole numbers and slices")
    index = operator.index(one)
    if not -length <= index < length:
        raise IndexError(f"index {index} along axis {axis}: allowed is {-length} to {length - 1}")
    index %= length
    return range(index, index + 1)


def parts_of(indices: range | NDArray[np.intp], side: int) -> list[Part]:
    """Sort wanted indices along one axis by the chunks of `side` in which they lie.

    Examples
    --------
    >>> [(part.chunk, part.inside, part.target) for part in parts_of(range(3, 10, 4), 4)]
    [(0, slice(3, 4, 4), slice(0, 1, None)), (1, slice(3, 4, 4), slice(1, 2, None))]
    """
    if isinstance(indices, range):
        return _parts_of_range(indices, side)
    numbers = indices // side
    parts = []
    for chunk in np.unique(numbers).tolist():
        places = np.flatnonzero(numbers == chunk)
        inside = indices[places] - chunk * side
        target = slice(int(places[0]), int(places[-1]) + 1)
        parts.append(Part(chunk, inside, int(inside[0]), int(inside[-1]) + 1, target))
    return parts


def _parts_of_range(wanted: range, side: int) -> list[Part]:
    parts, done, step = [], 0, wanted.step
    while done < len(wanted):
        first = wanted[done]
        chunk = first // side
        stop = min((chunk + 1) * side, wanted[-1] + 1)
        count = -(-(stop - first) // step)
        low = first - chunk * side
        high = low + (count - 1) * step + 1
        parts.append(Part(chunk, slice(low, high, step), low, high, slice(done, done + count)))
        done += count
    return parts
