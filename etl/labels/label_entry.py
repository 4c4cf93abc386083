"""What became of one mask on one series: a line of the ledger of ``ct-etl label``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from etl.codes import FailureCode, LabelCode
from etl.entry import MAX_DETAIL_CHARACTERS, Outcome
from etl.labels.placing import SegmentVolume


@dataclass(frozen=True)
class LabelEntry:
    """One line of the ledger: one source on one series."""

    source: str
    """Path of the file: the ledger may hold it, the store never does."""
    kind: str
    patient_id: str = ""
    node: str = ""
    labels: tuple[str, ...] = ()
    """Names of the arrays; several where segments overlap."""
    outcome: Outcome = "written"
    reason: str | None = None
    detail: str | None = None
    warnings: tuple[str, ...] = ()
    segments: tuple[SegmentVolume, ...] = ()
    seconds: float = 0.0
    bytes_out: int = 0

    def failed(self, reason: LabelCode | FailureCode, detail: str) -> LabelEntry:
        """Give the entry of a mask that did not become a label."""
        return replace(self, outcome="failed", reason=reason, detail=detail[:MAX_DETAIL_CHARACTERS])

    def to_json(self) -> dict[str, Any]:
        """Give the ledger's line as plain JSON values."""
        return {**asdict(self), "labels": list(self.labels), "warnings": list(self.warnings)}
