"""What a code of ledger or store means, why it usually appears, and what to do."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources

from etl.codes import ExclusionCode, FailureCode, LabelCode, WarningCode, words_of
from etl.errors import UsageError

_KINDS = {
    WarningCode: "warning: the volume is in the store",
    FailureCode: "failed: the series was wanted and is not in the store",
    ExclusionCode: "excluded: the series was not wanted",
    LabelCode: "mask: of ct-etl label",
}


@dataclass(frozen=True)
class Explanation:
    """One code, for a person.

    Parameters
    ----------
    code : str
    kind : str
        What became of the series.
    meaning, cause, remedy : str
    """

    code: str
    kind: str
    meaning: str
    cause: str
    remedy: str


@cache
def explanations() -> dict[str, Explanation]:
    """Give every code's explanation, in the order of `etl.codes`."""
    text = (resources.files("etl") / "rules" / "explanations.toml").read_text("utf-8")
    more = tomllib.loads(text)
    return {
        str(code): Explanation(str(code), kind, words_of(code), more[code]["cause"], more[code]["remedy"])
        for codes, kind in _KINDS.items()
        for code in codes
    }


def explain(code: str) -> Explanation:
    """Explain one code.

    Raises
    ------
    UsageError
        There is no such code; names the nearest.
    """
    known = explanations()
    if code not in known:
        near = get_close_matches(code, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"codes are {', '.join(known)}"
        raise UsageError(f"no code {code!r}; {hint}")
    return known[code]
