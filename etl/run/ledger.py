"""The operator's record of a run: one line per stack found, and the totals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.entry import Entry
from etl.store.durable import write_durably, write_parts_durably

if TYPE_CHECKING:
    from etl.labels.label_entry import LabelEntry

LEDGER_NAME = "ledger.jsonl"
TOTALS_NAME = "run.json"
REPORT_NAME = "report.html"
LABELS_NAME = "labels.jsonl"
"""What ``run --labels`` did with masks; the ledger of ``ct-etl label`` has the same lines."""


def write_run(run_dir: Path, entries: Sequence[Entry], totals: Mapping[str, Any]) -> None:
    """Write ``ledger.jsonl`` and ``run.json``.

    Parameters
    ----------
    run_dir : Path
        Created if it is not there.
    entries : sequence of Entry
    totals : mapping
        Plain JSON values for ``run.json``.

    Raises
    ------
    DiskFullError
    """
    text = f"{json.dumps(totals, indent=2, ensure_ascii=False)}\n"
    lines = (f"{json.dumps(entry.to_json())}\n" for entry in entries)
    # Line by line: the text of a large run takes as much memory as all else that is known of it.
    write_parts_durably(run_dir / LEDGER_NAME, map(_encoded, lines))
    write_durably(run_dir / TOTALS_NAME, _encoded(text))


def read_run(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Read back what `write_run` wrote: the ledger's lines and the totals, None where a file is not there."""
    return list(read_lines(run_dir)), read_totals(run_dir)


def read_lines(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a ledger one by one; none where there is no ledger.

    Raises
    ------
    OSError, ValueError
    """
    ledger = run_dir / LEDGER_NAME
    if ledger.is_file():
        # Only what `json.dumps` left as it is may end a line.
        with ledger.open(encoding="utf-8", newline="\n") as lines:
            yield from (json.loads(line) for line in lines if line != "\n")


def read_totals(run_dir: Path) -> dict[str, Any] | None:
    """Read the totals of a run; None where there are none.

    Raises
    ------
    OSError, ValueError
    """
    totals = run_dir / TOTALS_NAME
    found: dict[str, Any] | None = json.loads(totals.read_text("utf-8")) if totals.is_file() else None
    return found


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")


def count_labels(entries: Iterable[LabelEntry]) -> dict[str, int]:
    """Count the entries of masks by outcome; ``scanned`` is their sum."""
    found = [entry.outcome for entry in entries]
    return {"scanned": len(found), **{name: found.count(name) for name in ("written", "unchanged", "failed")}}


def write_label_ledger(path: Path, entries: Iterable[LabelEntry]) -> None:
    """Write a line for every mask and series, by mask.

    Raises
    ------
    DiskFullError
    """
    ordered = sorted(entries, key=lambda entry: (entry.source, entry.node))
    lines = "".join(f"{json.dumps(entry.to_json())}\n" for entry in ordered)
    write_durably(path, lines.encode("utf-8", errors="backslashreplace"))
