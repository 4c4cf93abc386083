"""The operator's record of a run: one line per stack found, and the totals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.entry import Entry
from etl.store.durable import write_durably

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
    lines = "".join(f"{json.dumps(entry.to_json())}\n" for entry in entries)
    text = f"{json.dumps(totals, indent=2, ensure_ascii=False)}\n"
    for name, content in ((LEDGER_NAME, lines), (TOTALS_NAME, text)):
        write_durably(run_dir / name, content.encode("utf-8", errors="backslashreplace"))


def read_run(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Read back what `write_run` wrote: the ledger's lines and the totals, None where a file is not there."""
    ledger, totals = run_dir / LEDGER_NAME, run_dir / TOTALS_NAME
    lines = ledger.read_text("utf-8").split("\n") if ledger.is_file() else []
    return [json.loads(line) for line in lines if line], json.loads(
        totals.read_text("utf-8")
    ) if totals.is_file() else None


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
