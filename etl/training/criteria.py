"""Which volumes `where=` lets through: a callable, or a mapping of columns and of what people decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from etl.codes import VerdictCode
from etl.errors import UsageError
from etl.read.patients import Volume
from etl.read.verdicts import UNJUDGED, read_verdicts

Where = Callable[[Volume], bool] | Mapping[str, Any]
"""A callable that is true for a volume, or ``{"verdict": "keep", "R1:ICH": 1}``."""
VERDICT = "verdict"
_SEVERAL = (set, frozenset, list, tuple)


def chosen(volumes: Sequence[Volume], where: Where | None) -> list[Volume]:
    """Choose volumes.

    Parameters
    ----------
    volumes : sequence of Volume
    where : callable, mapping or None
        ``"verdict"``: only volumes with that verdict beside their store (`etl.read.verdicts`), ``"none"`` for
        those that nobody has judged. Any other key is a column of `Volume.columns`. A list allows several values.

    Raises
    ------
    UsageError
        A verdict is not known, or no volume has such a column.
    """
    if where is None:
        return list(volumes)
    if not isinstance(where, Mapping):
        return [volume for volume in volumes if where(volume)]
    wanted = dict(where)
    found = list(volumes)
    if VERDICT in wanted:
        found = _with_verdict(found, wanted.pop(VERDICT))
    columns = [volume.columns for volume in volumes] if wanted else []
    there = sorted({name for one in columns for name in one})
    for name in wanted:
        if name not in there:
            raise UsageError(f"where: no volume has a column {name!r}; there are {', '.join(there) or 'none'}")
    return [
        volume
        for volume in found
        if all(
            name in volume.columns and _is_one_of(volume.columns[name], value) for name, value in wanted.items()
        )
    ]


def _with_verdict(volumes: Sequence[Volume], given: Any) -> list[Volume]:
    allowed = [*map(str, VerdictCode), UNJUDGED]
    wanted = list(given) if isinstance(given, _SEVERAL) else [given]
    for one in wanted:
        if one not in allowed:
            raise UsageError(f"where= verdict {one!r}: allowed is {', '.join(allowed)}")
    verdicts = cache(read_verdicts)

    def verdict_of(volume: Volume) -> str:
        found = verdicts(volume.store_path).get(volume.node)
        return str(found.verdict) if found else UNJUDGED

    return [volume for volume in volumes if verdict_of(volume) in wanted]


def _is_one_of(found: object, value: object) -> bool:
    return found in value if isinstance(value, _SEVERAL) else found == value
