"""Which series stands for a patient: rules as data, every candidate with its score and reasons."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

Fact = float | str | bool


@dataclass(frozen=True)
class Rule:
    """Adds `points` to a candidate whose `fact` passes the test."""

    name: str
    points: int
    fact: str
    at_least: float | None = None
    at_most: float | None = None
    matches: str | None = None
    equals: Fact | None = None

    def applies(self, facts: Mapping[str, Fact]) -> bool:
        """Whether a candidate passes; a fact that is not known passes nothing."""
        found = facts.get(self.fact)
        if found is None:
            return False
        if self.matches is not None:
            return re.search(self.matches, str(found), re.IGNORECASE) is not None
        if self.equals is not None:
            return found == self.equals
        number = float(found)
        return (self.at_least is None or number >= self.at_least) and (
            self.at_most is None or number <= self.at_most
        )


@dataclass(frozen=True)
class Score:
    """The sum of a candidate's points, and the rules that gave them."""

    points: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"score {self.points} ({', '.join(self.reasons) or 'no rule applies'})"


@cache
def load_rules() -> tuple[Rule, ...]:
    """Read the rules that ship with the package."""
    text = (resources.files("etl") / "rules" / "default-series.toml").read_text("utf-8")
    return tuple(Rule(**rule) for rule in tomllib.loads(text)["rule"])


def score(facts: Mapping[str, Fact], rules: Sequence[Rule]) -> Score:
    """Add up the points of a candidate.

    Parameters
    ----------
    facts : mapping
        What is known of the series, by the names the rules use.
    rules : sequence of Rule

    Examples
    --------
    >>> thin = Rule("thin", 20, "slice_spacing_mm", at_most=1.5)
    >>> print(score({"slice_spacing_mm": 0.625}, [thin]))
    score 20 (thin +20)
    """
    applied = [rule for rule in rules if rule.applies(facts)]
    reasons = tuple(f"{rule.name} {rule.points:+d}" for rule in applied)
    return Score(sum(rule.points for rule in applied), reasons)
