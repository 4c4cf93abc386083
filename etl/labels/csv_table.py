"""A table of text as typed columns: what a CSV file says of patients, studies or series."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etl.errors import UsageError

Level = Literal["patient", "study", "series"]
Value = int | float | bool | str | None
# Of the name of a key column, without case and punctuation; any other names a patient.
LEVELS: dict[str, Level] = {"studyinstanceuid": "study", "seriesinstanceuid": "series"}
# As pandas reads them.
MISSING = frozenset({"", "na", "n/a", "nan", "null"})
BOOLEANS = {"true": True, "false": False}
# A whole number with leading zeros is an identifier; underscores, which Python takes, are text.
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MAX_SHOWN = 5


@dataclass(frozen=True)
class CsvTable:
    """Rows by the key that they have in the file.

    Parameters
    ----------
    level : {"patient", "study", "series"}
        What a row is about.
    columns : tuple of str
        Without the key; in the order of the file.
    rows : dict
        Values by column, by key. A column has one type in all rows, or None where nothing stands.
    """

    level: Level
    columns: tuple[str, ...]
    rows: dict[str, dict[str, Value]]

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns that hold text."""
        return tuple(
            name for name in self.columns if any(isinstance(row[name], str) for row in self.rows.values())
        )


def read_csv(path: Path, key: str) -> CsvTable:
    """Read a table with a row of names, in UTF-8, by commas, semicolons or tabs.

    Parameters
    ----------
    path : Path
    key : str
        The column that says what a row is about: ``study_instance_uid``, ``series_instance_uid``, or, by any
        other name, the patient.

    Raises
    ------
    UsageError
        The file cannot be read, it has no such column, a name or a key occurs twice, a key is missing, or a row
        has more or fewer fields than names.
    """
    names, rows = _read_rows(path)
    if key not in names:
        raise UsageError(f"{path.name} has no column {key!r}; it has {', '.join(map(repr, names))} (--key)")
    at = names.index(key)
    keys = [row[at].strip() for row in rows]
    for number, found in enumerate(keys, start=2):
        if not found:
            raise UsageError(f"{path.name}: row {number} has nothing in the key column {key!r}")
    twice = [found for found, times in Counter(keys).items() if times > 1]
    if twice:
        raise UsageError(
            f"{path.name}: {len(twice)} values of the key {key!r} occur more than once: {_listed(twice)}"
        )
    columns = tuple(name for name in names if name != key)
    typed = {name: _typed([row[names.index(name)].strip() for row in rows]) for name in columns}
    level = LEVELS.get(re.sub(r"[^a-z]", "", key.lower()), "patient")
    return CsvTable(
        level, columns, {one: {name: typed[name][n] for name in columns} for n, one in enumerate(keys)}
    )


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        # A byte order mark is what Excel writes first.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            separator = max(",;\t", key=first.count)
            stream.seek(0)
            lines = [row for row in csv.reader(stream, delimiter=separator, strict=True) if any(row)]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name} is no CSV file in UTF-8: {error}") from error
    if len(lines) < 2:
        raise UsageError(f"{path.name} has {len(lines)} rows; names and at least one row are needed")
    names = [name.strip() for name in lines[0]]
    twice = [name for name, times in Counter(names).items() if times > 1 or not name]
    if twice:
        raise UsageError(f"{path.name}: column names must differ and not be empty; see {_listed(twice)}")
    for number, row in enumerate(lines[1:], start=2):
        if len(row) != len(names):
            raise UsageError(f"{path.name}: row {number} has {len(row)} fields; there are {len(names)} names")
    return names, lines[1:]


def _typed(texts: Sequence[str]) -> list[Value]:
    """Give a column the narrowest type that all its values have."""
    there = [text for text in texts if text.lower() not in MISSING]
    parse: Callable[[str], Value] = str
    if all(text.lower() in BOOLEANS for text in there):
        parse = _boolean
    elif all(WHOLE.fullmatch(text) for text in there):
        parse = int
    elif all(_is_decimal(text) for text in there):
        parse = float
    return [None if text.lower() in MISSING else parse(text) for text in texts]


def _boolean(text: str) -> bool:
    return BOOLEANS[text.lower()]


def _is_decimal(text: str) -> bool:
    """Whether a text is a number that JSON can hold, and no identifier with leading zeros."""
    has_zeros = re.match(r"[+-]?0[0-9]", text) is not None
    return DECIMAL.fullmatch(text) is not None and not has_zeros and math.isfinite(float(text))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:MAX_SHOWN]))
    return shown if len(names) <= MAX_SHOWN else f"{shown} and {len(names) - MAX_SHOWN} more"
