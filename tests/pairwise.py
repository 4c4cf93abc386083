"""Few cases out of a grid of many: every two values of two different factors meet in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Choose rows of the product of some factors so that all pairs of values occur.

    A fault that needs one value, or two together, is met as in the whole grid; one that needs three may be
    missed. For two factors that is the whole grid: give a third, or take it as it is.

    Parameters
    ----------
    *factors : sequence
        The values of each; at least two factors.

    Returns
    -------
    list of tuple
        The same ones at every call.

    Examples
    --------
    >>> pairwise("ab", "xy", "12")
    [('a', 'x', '1'), ('a', 'y', '2'), ('b', 'x', '2'), ('b', 'y', '1')]
    """
    grid = list(product(*[range(len(values)) for values in factors]))
    sides = list(combinations(range(len(factors)), 2))
    missing = {(one, two, row[one], row[two]) for row in grid for one, two in sides}
    rows = []
    while missing:
        best = max(grid, key=lambda row: sum((one, two, row[one], row[two]) in missing for one, two in sides))
        missing -= {(one, two, best[one], best[two]) for one, two in sides}
        rows.append(best)
    return [tuple(values[i] for values, i in zip(factors, row, strict=True)) for row in rows]


def each_once(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Choose rows in which every value occurs at least once, the shorter factors again and again.

    For factors that do not act on each other.

    Examples
    --------
    >>> each_once("abc", "xy")
    [('a', 'x'), ('b', 'y'), ('c', 'x')]
    """
    longest = max(map(len, factors))
    return [tuple(values[i % len(values)] for values in factors) for i in range(longest)]
