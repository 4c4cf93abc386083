"""What the newest run left out, grouped by reason, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etl.codes import words_of

_OUTCOMES = ("failed", "excluded")
# Of a line of the ledger only these are shown: its other fields may hold paths.
_SHOWN = ("patient_id", "series_number", "slices", "detail")


class LeftOut:
    """The series of a ledger that are not in the store.

    Parameters
    ----------
    ledger : sequence of mappings
        Lines of ``ledger.jsonl``.
    """

    def __init__(self, ledger: Sequence[Mapping[str, Any]]) -> None:
        self._lines = [line for line in ledger if line.get("outcome") in _OUTCOMES]

    def __len__(self) -> int:
        return len(self._lines)

    def reasons(self) -> list[dict[str, Any]]:
        """Give each outcome and reason with its words and count: failures first, then the most frequent."""
        counts = Counter((str(line["outcome"]), str(line.get("reason"))) for line in self._lines)
        ordered = sorted(counts.items(), key=lambda found: (found[0][0] != "failed", -found[1], found[0][1]))
        return [
            {"outcome": outcome, "reason": reason, "words": words_of(reason), "count": count}
            for (outcome, reason), count in ordered
        ]

    def lines(self, outcome: str, reason: str, first: int, count: int) -> list[dict[str, Any]]:
        """Give some series of one reason, in the ledger's order."""
        found = [line for line in self._lines if (line["outcome"], str(line.get("reason"))) == (outcome, reason)]
        return [{name: line.get(name) for name in _SHOWN} for line in found[first : first + count]]
