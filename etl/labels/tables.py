"""Join a table to a store: its rows become attributes of the patients that they are about.

They stand in the attribute ``ct_etl.labels`` of the patient's group: columns under ``patient``, and under
``study`` and ``series`` columns by UID. Volumes have none of it in their own attributes, whose digest says what a
run wrote.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etl.errors import StoreError, UsageError
from etl.labels.csv_table import CsvTable, Value, read_csv
from etl.read.patients import Store, open_store
from etl.read.table import OWN_COLUMNS, is_own
from etl.scan.deidentify import Pseudonyms
from etl.store.keys import open_keys, resolve_store
from etl.store.lock import store_lock
from etl.store.patient_labels import put_labels

Rows = dict[str, dict[str, Value]]


@dataclass(frozen=True)
class TableJoin:
    """What became of a table.

    Parameters
    ----------
    level : {"patient", "study", "series"}
    columns : tuple of str
        Those that are in the store now.
    matched : int
        Rows that found their patient, study or series.
    alike : tuple of (str, str)
        Rows, and the patients, that differ in case and punctuation alone.
    unmatched_rows : tuple of str
        Keys of rows of which the store has nothing.
    unmatched_patients : tuple of str
        Patient IDs, or UIDs, of which the table says nothing.
    left_out : tuple of str
        Columns of text, which a de-identified store does not take.
    """

    level: str
    columns: tuple[str, ...]
    matched: int
    alike: tuple[tuple[str, str], ...]
    unmatched_rows: tuple[str, ...]
    unmatched_patients: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return asdict(self)


def join_table(store_path: str, table: Path, key: str, *, pseudonyms: Pseudonyms | None = None) -> TableJoin:
    """Join a CSV table to a store.

    A row is about the patient whose ID is its key; or whose group in the store has that name; or, where exactly
    one row and one patient are left that are alike without case and punctuation, about that patient. UIDs must
    be equal. A column that an earlier table had is replaced in the whole store, the others stay.

    Parameters
    ----------
    store_path : str
    table : Path
        CSV; see `read_csv`.
    key : str
        The column that says what a row is about; it is not kept itself.
    pseudonyms : Pseudonyms, optional
        Of the key that a de-identified store was written with.

    Raises
    ------
    UsageError
        The table cannot be joined; another process writes to the store; the store is de-identified and the key is
        missing or another one.
    StoreError
        There is no store, or no run into it has finished.
    """
    rows = read_csv(table, key)
    own = [name for name in rows.columns if is_own(name)]
    if own:
        raise UsageError(
            f"{table.name}: column {own[0]!r} has the name of a column of the store ({', '.join(OWN_COLUMNS)})"
        )
    path = resolve_store(store_path)
    with store_lock(path):
        store = open_store(path)
        left_out = _check_deidentified(store, rows, pseudonyms)
        columns = tuple(name for name in rows.columns if name not in left_out)
        targets = _targets(store, rows.level)
        found, alike = _match(rows, targets, _keys(store) if rows.level == "patient" else {}, pseudonyms)
        if not found:
            raise UsageError(
                f"{table.name}: none of its {len(rows.rows)} values of {key!r} is a {_WHAT[rows.level]} "
                f"of the store, such as {min(targets)!r}"
            )
        by_patient: dict[str, Rows] = defaultdict(dict)
        for row, target in found.items():
            for patient in targets[target]:
                by_patient[patient][target] = {name: rows.rows[row][name] for name in columns}
        put_labels(open_keys(path), rows.level, columns, by_patient)
    return TableJoin(
        level=rows.level,
        columns=columns,
        matched=len(found),
        alike=tuple(sorted(alike.items())),
        unmatched_rows=tuple(sorted(set(rows.rows) - set(found))),
        unmatched_patients=tuple(sorted(set(targets) - set(found.values()))),
        left_out=left_out,
    )


_WHAT = {"patient": "Patient ID", "study": "Study Instance UID", "series": "Series Instance UID"}


def _check_deidentified(store: Store, rows: CsvTable, pseudonyms: Pseudonyms | None) -> tuple[str, ...]:
    """Give the columns that a de-identified store must not have: what people wrote may name somebody."""
    digest = store.config.get("deidentify")
    if digest is None:
        if pseudonyms is not None:
            raise UsageError("the store is not de-identified; leave out --deidentify")
        return ()
    if pseudonyms is None:
        raise UsageError(
            "the store is de-identified: give the key that it was written with (--deidentify KEYFILE)"
        )
    if pseudonyms.key_digest != digest:
        raise UsageError("the store was de-identified with another key than --deidentify names")
    return rows.text_columns


def _targets(store: Store, level: str) -> dict[str, list[str]]:
    """Patient keys by what rows can be about."""
    found: dict[str, list[str]] = defaultdict(list)
    for patient_id, patient in store.items():
        if level == "patient":
            found[patient_id].append(patient.key)
            continue
        for uid in sorted({str(volume.attributes[f"{level}_instance_uid"]) for volume in patient.values()}):
            found[uid].append(patient.key)
    if not found:
        raise StoreError(f"{store.path}: no volumes, so that there is nothing to join")
    return found


def _keys(store: Store) -> dict[str, str]:
    return {patient.key: patient_id for patient_id, patient in store.items()}


def _match(
    rows: CsvTable, targets: Iterable[str], keys: Mapping[str, str], pseudonyms: Pseudonyms | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Give the target of each row, and those that are only alike."""
    there = set(targets)
    found: dict[str, str] = {}
    for row in rows.rows:
        wanted = row
        if pseudonyms is not None:
            wanted = pseudonyms.patient(row) if rows.level == "patient" else pseudonyms.uid(row)
        target = wanted if wanted in there else keys.get(wanted)
        if target is not None:
            found[row] = target
    taken = list(found.values())
    twice = sorted({target for target in taken if taken.count(target) > 1}) if len(set(taken)) < len(taken) else []
    if twice:
        raise UsageError(f"several rows are about {twice[0]!r}: its Patient ID and the name of its group")
    if rows.level != "patient" or pseudonyms is not None:
        return found, {}
    left_rows, left = _by_letters(set(rows.rows) - set(found)), _by_letters(there - set(taken))
    alike = {
        left_rows[letters][0]: left[letters][0]
        for letters in left_rows.keys() & left.keys()
        if len(left_rows[letters]) == len(left[letters]) == 1
    }
    return found | alike, alike


def _by_letters(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by what is left of them without case and punctuation."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        letters = re.sub(r"[\W_]", "", name.casefold())
        if letters:
            found[letters].append(name)
    return found
