"""Values of JSON, written for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plain(value: Any) -> str:
    """Write a value of JSON for people.

    Examples
    --------
    >>> plain(True), plain(0.123456), plain([1, 2])
    ('yes', '0.1235', '1, 2')
    """
    if value is None:
        return "–"  # noqa: RUF001 - nothing there
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value)
    return str(value)


def times(values: Sequence[float]) -> str:
    """Join the sides of a grid, or its spacings."""
    return " × ".join(plain(value) for value in values)  # noqa: RUF001 - the sign that people write
