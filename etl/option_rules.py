"""What a value of an option may be: parsers, each with words for what it allows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

MIN_PRECISION_BITS, MAX_PRECISION_BITS = 4, 23
MAX_CHUNK = 4096
MAX_MB = 1 << 20


@dataclass(frozen=True)
class Rule:
    """What a value may be.

    Parameters
    ----------
    parse : callable
        From a string as typed, or a TOML value; `TypeError`, `ValueError` or `OverflowError` where not allowed.
    allowed : str
        The same in words.
    words : tuple of str
        Words among what is allowed, of which one may be meant.
    """

    parse: Callable[[Any], Any]
    allowed: str
    words: tuple[str, ...] = ()


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """Give the end of a message that names the nearest right word; empty where none is near.

    Examples
    --------
    >>> did_you_mean("hed-ct", ["article", "head-ct"])
    '; did you mean head-ct?'
    >>> did_you_mean("x", ["article", "head-ct"])
    ''
    """
    near = get_close_matches(word, allowed, n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def _choice(*words: str) -> Rule:
    *most, last = map(repr, words)
    return Rule(_one_of(*words), f"{', '.join(most)} or {last}", words)


def _numbers(value: Any) -> list[float]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, bool) for part in parts):
        raise TypeError(value)
    return [float(part) for part in parts]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or float(value) != int(float(value)):
        raise ValueError(value)
    return int(float(value))


def _triple(low: float, high: float, *, one_for_all: bool) -> Callable[[Any], tuple[float, float, float]]:
    def parse(value: Any) -> tuple[float, float, float]:
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


def _path(value: Any) -> str:
    return os.path.expanduser(_text(value))


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(_path(one) for one in ([value] if isinstance(value, str) else value))


def _address(value: Any) -> str:
    text = _text(value)
    if re.fullmatch(r"(tcp|tls|ws|wss)://[^/\s]+:\d{1,5}", text):
        return text
    # An address whose protocol was forgotten is no file.
    if "://" in text or re.fullmatch(r"[^/]+:\d+", text):
        raise ValueError(value)
    return os.path.expanduser(text)


SPACING_MM = Rule(_triple(0.05, 50, one_for_all=True), "one number or Z,Y,X, each 0.05 to 50 mm")
ZOOM = Rule(_triple(0.02, 20, one_for_all=False), "Z,Y,X, each 0.02 to 20")
FLAG = Rule(_flag_value, "true or false")
WINDOW_HU = Rule(_window, "LO,HI: whole HU, LO below HI, within -32768 to 32767")
CENTER = Rule(_center, "'volume', 'none' or a number from -10 to 10", ("volume", "none"))
PRECISION_BITS = Rule(_precision, f"'full' or {MIN_PRECISION_BITS} to {MAX_PRECISION_BITS}", ("full",))
DTYPE = _choice("float32", "int16")
CODEC = _choice("lz4hc", "lz4", "zstd", "none")
CHUNK = Rule(_chunk, f"Z,Y,X, each 1 to {MAX_CHUNK}")
GAP_MM = Rule(_non_negative, "a number of mm, 0 or more")
TIME_S = Rule(_positive, "a number of seconds above 0")
SIZE_MB = Rule(_in_range(1, MAX_MB), f"a whole number of MB, 1 to {MAX_MB}")
SLICES = Rule(_in_range(2, 100_000), "a whole number, 2 or more")
SERIES = _choice("all", "default")
WORKERS = Rule(_workers, "'auto' or 0 to 1024", ("auto",))
ADDRESS = Rule(
    _address, "an address such as tcp://127.0.0.1:8786 or tls://host:8786, or the path of a Dask scheduler file"
)
PATH = Rule(_path, "a path")
PATHS = Rule(_paths, "paths")
KEY_FILE = Rule(_path, "the path of a key file")
