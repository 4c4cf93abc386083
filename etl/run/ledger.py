"""The operator's record of a run: one line per stack found, and the totals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from etl.store.durable import write_durably

Outcome = Literal["written", "unchanged", "excluded", "failed"]
LEDGER_NAME = "ledger.jsonl"
TOTALS_NAME = "run.json"
# A detail may quote an attribute, and an attribute may have 64 kB.
MAX_DETAIL_CHARACTERS = 500
REPORT_NAME = "report.html"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: what became of one stack."""

    patient_id: str
    patient_key: str
    series_instance_uid: str
    series_number: int
    series_key: str
    slices: int
    outcome: Outcome
    reason: str | None = None
    detail: str | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0

    def excluded(self, reason: str, detail: str) -> Entry:
        """Give the entry of a stack that is not wanted."""
        return replace(self, outcome="excluded", reason=reason, detail=detail[:MAX_DETAIL_CHARACTERS])

    def failed(self, reason: str, detail: str) -> Entry:
        """Give the entry of a stack that is wanted and not possible."""
        return replace(self, outcome="failed", reason=reason, detail=detail[:MAX_DETAIL_CHARACTERS])

    def to_json(self) -> dict[str, Any]:
        """Give the ledger's line as plain JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}


def count_outcomes(entries: Iterable[Entry]) -> dict[str, int]:
    """Count the entries by outcome; ``scanned`` is their sum."""
    counts = Counter(entry.outcome for entry in entries)
    outcomes = {outcome: counts[outcome] for outcome in ("written", "unchanged", "excluded", "failed")}
    return {"scanned": sum(outcomes.values()), **outcomes}


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
