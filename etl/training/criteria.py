"""Which volumes `where=` lets through, given as a callable or as a mapping of what people decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from etl.codes import VerdictCode
from etl.errors import UsageError
from etl.read.patients import Volume
from etl.read.verdicts import UNJUDGED, read_verdicts

Where = Callable[[Volume], bool] | Mapping[str, str | list[str] | None]
"""A callable that is true for a volume, or ``{"verdict": "keep"}``."""
CRITERIA = ("verdict",)


def predicate_of(where: Where | None) -> Callable[[Volume], bool]:
    """Turn what `where=` may be into a callable.

    Parameters
    ----------
    where : callable, mapping or None
        ``{"verdict": "keep"}``: only volumes with that verdict beside their store (`etl.read.verdicts`). A list
        allows several; ``"none"`` stands for volumes that nobody has judged.

    Raises
    ------
    UsageError
        A key or a verdict is not known.

    Examples
    --------
    >>> predicate_of({"verdict": "kept"})
    Traceback (most recent call last):
    etl.errors.UsageError: where= verdict 'kept': allowed is keep, reject, look-again, none
    """
    if where is None:
        return lambda _volume: True
    if callable(where):
        return where
    unknown = sorted(set(where) - set(CRITERIA))
    if unknown or not where:
        raise UsageError(f"where= {', '.join(unknown) or 'nothing'}: allowed is {', '.join(CRITERIA)}")
    given = where["verdict"]
    allowed = [*map(str, VerdictCode), UNJUDGED]
    wanted = [given] if isinstance(given, str) or given is None else list(given)
    for one in wanted:
        if one not in allowed:
            raise UsageError(f"where= verdict {one!r}: allowed is {', '.join(allowed)}")
    verdicts = cache(read_verdicts)

    def is_wanted(volume: Volume) -> bool:
        found = verdicts(volume.store_path).get(volume.node)
        return (str(found.verdict) if found else UNJUDGED) in wanted

    return is_wanted
