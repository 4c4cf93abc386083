"""What a run left out, by reason: how many, why, what to do, and some of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etl.codes import words_of
from etl.read.facts import plain
from etl.report.explain import explanations

# A page stays below 3 MB however many series there are; the ledger has them all.
MAX_FAILED, MAX_EXCLUDED = 500, 25
MAX_DETAIL_CHARACTERS = 600
_SHOWN = ("detail", "patient_id", "series_number", "slices")


@dataclass(frozen=True)
class Reason:
    """All series that were left out for one reason.

    Parameters
    ----------
    outcome : str
        "failed" or "excluded".
    code, meaning, cause, remedy : str
        Cause and remedy are empty for a code of another version.
    count : int
    lines : list of dict
        The first of them, by `_SHOWN`.
    """

    outcome: str
    code: str
    meaning: str
    cause: str
    remedy: str
    count: int
    lines: list[dict[str, str]]

    @property
    def more(self) -> int:
        """How many are not listed."""
        return self.count - len(self.lines)


def reasons_of(ledger: Sequence[Mapping[str, Any]]) -> list[Reason]:
    """Group what is not in the store: failures first, then by number.

    Parameters
    ----------
    ledger : sequence of mappings
        Lines of ``ledger.jsonl``.
    """
    groups: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for line in ledger:
        if line.get("outcome") in ("failed", "excluded"):
            groups[str(line["outcome"]), str(line.get("reason"))].append(line)
    failed_left = MAX_FAILED
    found = []
    for (outcome, code), lines in sorted(groups.items(), key=lambda g: (g[0][0] != "failed", -len(g[1]), g[0][1])):
        most = failed_left if outcome == "failed" else MAX_EXCLUDED
        shown = [{name: plain(line.get(name))[:MAX_DETAIL_CHARACTERS] for name in _SHOWN} for line in lines[:most]]
        failed_left -= len(shown) if outcome == "failed" else 0
        known = explanations().get(code)
        cause, remedy = (known.cause, known.remedy) if known else ("", "")
        found.append(Reason(outcome, code, words_of(code), cause, remedy, len(lines), shown))
    return found
