"""What each option of a run may be: a parser and, in words, what it allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Triple = tuple[float, float, float]

MIN_PRECISION_BITS, MAX_PRECISION_BITS = 4, 23
MAX_CHUNK = 4096


def _numbers(value: Any) -> list[float]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, bool) for part in parts):
        raise TypeError(value)
    return [float(part) for part in parts]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or float(value) != int(float(value)):
        raise ValueError(value)
    return int(float(value))


def _triple(low: float, high: float, *, one_for_all: bool) -> Callable[[Any], Triple]:
    def parse(value: Any) -> Triple:
        numbers = _numbers(value)
        if len(numbers) == 1 and one_for_all:
            numbers = numbers * 3
        z, y, x = numbers
        if not all(low <= v <= high for v in (z, y, x)):
            raise ValueError(value)
        return (z, y, x)

    return parse


def _window(value: Any) -> tuple[int, int]:
    low, high = (_whole(v) for v in _numbers(value))
    if not -32768 <= low < high <= 32767:
        raise ValueError(value)
    return (low, high)


def _center(value: Any) -> float | str:
    if value in ("volume", "none"):
        return str(value)
    (number,) = _numbers(value)
    if not -10 <= number <= 10:
        raise ValueError(value)
    return number


def _precision(value: Any) -> int | str:
    return "full" if value == "full" else _in_range(MIN_PRECISION_BITS, MAX_PRECISION_BITS)(value)


def _in_range(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = _whole(value)
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return parse


def _chunk(value: Any) -> tuple[int, int, int]:
    z, y, x = (_in_range(1, MAX_CHUNK)(v) for v in _numbers(value))
    return (z, y, x)


def _non_negative(value: Any) -> float:
    (number,) = _numbers(value)
    if not 0 <= number < float("inf"):
        raise ValueError(value)
    return number


def _positive(value: Any) -> float:
    number = _non_negative(value)
    if number == 0:
        raise ValueError(value)
    return number


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(value)
        return str(value)

    return parse


def _workers(value: Any) -> int | str:
    return "auto" if value == "auto" else _in_range(0, 1024)(value)


def _flag_value(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(value)
    return value


def _address(value: Any) -> str:
    if not re.fullmatch(r"(tcp|tls|ws|wss)://[^/\s]+:\d{1,5}", _text(value)):
        raise ValueError(value)
    return str(value)


RULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "spacing_mm": (_triple(0.05, 50, one_for_all=True), "one number or Z,Y,X, each 0.05 to 50 mm"),
    "zoom": (_triple(0.02, 20, one_for_all=False), "Z,Y,X, each 0.02 to 20"),
    "native": (_flag_value, "true or false"),
    "window": (_window, "LO,HI: whole HU, LO below HI, within -32768 to 32767"),
    "center": (_center, "'volume', 'none' or a number from -10 to 10"),
    "precision_bits": (_precision, f"'full' or {MIN_PRECISION_BITS} to {MAX_PRECISION_BITS}"),
    "chunk": (_chunk, f"Z,Y,X, each 1 to {MAX_CHUNK}"),
    "max_gap_mm": (_non_negative, "a number of mm, 0 or more"),
    "deidentify": (_text, "the path of a key file"),
    "deidentify_map": (_text, "a path"),
    "max_file_mb": (_in_range(1, 1 << 20), "a whole number of MB, 1 to 1048576"),
    "max_volume_mb": (_in_range(1, 1 << 20), "a whole number of MB, 1 to 1048576"),
    "time_limit_s": (_positive, "a number of seconds above 0"),
    "slice_count": (_in_range(2, 100_000), "a whole number, 2 or more"),
    "min_slices": (_in_range(2, 100_000), "a whole number, 2 or more"),
    "series": (_one_of("all", "default"), "'all' or 'default'"),
    "workers": (_workers, "'auto' or 0 to 1024"),
    "scheduler": (_address, "an address such as tcp://127.0.0.1:8786 or tls://host:8786"),
    "overwrite": (_flag_value, "true or false"),
    "dry_run": (_flag_value, "true or false"),
    "run_dir": (_text, "a path"),
    "json": (_flag_value, "true or false"),
    "quiet": (_flag_value, "true or false"),
}
