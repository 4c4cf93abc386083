"""What became of one stack of slices: a line of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, overload

Outcome = Literal["written", "unchanged", "excluded", "failed"]
# A detail may quote an attribute, and an attribute may have 64 kB.
MAX_DETAIL_CHARACTERS = 500
NOT_REACHED = "not reached: the run was stopped before it; the next run goes on here"


@dataclass(frozen=True, slots=True)
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
    related: tuple[str, ...] = ()
    """Other nodes of the store that the entry concerns."""

    @property
    def node(self) -> str:
        """Path of the series' group in the store."""
        return f"{self.patient_key}/{self.series_key}"

    @property
    def is_reached(self) -> bool:
        """Whether the run came to it before it was stopped."""
        return self.detail != NOT_REACHED

    def excluded(self, reason: str, detail: str) -> Entry:
        """Give the entry of a stack that is not wanted."""
        return replace(self, outcome="excluded", reason=reason, detail=detail[:MAX_DETAIL_CHARACTERS])

    def failed(self, reason: str, detail: str) -> Entry:
        """Give the entry of a stack that is wanted and not possible."""
        return replace(self, outcome="failed", reason=reason, detail=detail[:MAX_DETAIL_CHARACTERS])

    @staticmethod
    def from_json(line: Mapping[str, Any]) -> Entry:
        """Read back what `to_json` gave; a line of an earlier version may lack what is new."""
        lists = {name: tuple(line.get(name, ())) for name in ("warnings", "related")}
        return Entry(**{**line, **lists})

    def to_json(self) -> dict[str, Any]:
        """Give the ledger's line as plain JSON values."""
        # `asdict` copies every value, and takes ten times as long.
        line = {name: getattr(self, name) for name in _NAMES}
        return {**line, "warnings": list(self.warnings), "related": list(self.related)}


_NAMES = tuple(one.name for one in fields(Entry))


class LedgerLines(Sequence[Mapping[str, Any]]):
    """The lines of entries, each made when it is looked at: those of a large run take more than the entries."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> LedgerLines: ...

    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | LedgerLines:
        found = self._entries[index]
        return found.to_json() if isinstance(found, Entry) else LedgerLines(found)


def count_outcomes(entries: Iterable[Entry]) -> dict[str, int]:
    """Count the entries by outcome; ``scanned`` is their sum."""
    counts = Counter(entry.outcome for entry in entries)
    outcomes = {outcome: counts[outcome] for outcome in ("written", "unchanged", "excluded", "failed")}
    return {"scanned": sum(outcomes.values()), **outcomes}
