"""The scan of a run: stacks go into a spool as they come, and are put together by whom they belong to.

The rules of the plan look at one patient, or at one series: at what they share with other stacks. So stacks that
share neither, nor are linked by others that do, can be planned apart, and each part on any worker. That no two
patients get one group of the store is looked at in the end, of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from etl.dicom.sources import find_sources
from etl.run.spool import Place, Spool
from etl.scan.inputs import died_scanning, scan_each
from etl.scan.packed_scan import scan_packed
from etl.scan.scan import Limits, ScanResult, merge_scans
from etl.workers.pool import Pool


@dataclass(frozen=True, eq=False)
class SpooledScan:
    """What the inputs of a run hold.

    Parameters
    ----------
    rest : ScanResult
        All that is no stack.
    parts : tuple of tuple of Place
        The stacks, by what has to be planned together.
    """

    rest: ScanResult = field(default_factory=ScanResult)
    parts: tuple[tuple[Place, ...], ...] = ()


def scan_into(spool: Spool, inputs: Sequence[str], pool: Pool, *, limits: Limits, quiet: bool) -> SpooledScan:
    """Scan all inputs, one piece of work per source: see `etl.dicom.sources`.

    Raises
    ------
    UsageError
        An input does not exist.
    """
    sources = find_sources(inputs)
    rests: dict[int, ScanResult] = {}
    stacks: dict[int, list[tuple[str, str, Place]]] = {}
    files = 0
    for number, result in scan_each(sources, pool, scan_packed, limits=limits, quiet=quiet):
        rest = died_scanning(sources[number]) if result is None else result.rest
        files += rest.files
        if rest.ignored_files or rest.unreadable:
            rests[number] = replace(rest, files=0)
        if result is not None:
            stacks[number] = [
                (stack.patient_id, stack.series_instance_uid, spool.put(stack.content)) for stack in result.stacks
            ]
    # In the order of the sources, not of completion: the same input gives the same plan.
    rest = merge_scans(rests[number] for number in sorted(rests))
    found = (stack for number in sorted(stacks) for stack in stacks[number])
    return SpooledScan(replace(rest, files=files), tuple(linked(found)))


def linked(stacks: Iterable[tuple[str, str, Place]]) -> list[tuple[Place, ...]]:
    """Put together what shares a patient or a series, directly or through others.

    Parameters
    ----------
    stacks : iterable of (Patient ID, Series Instance UID, Place)

    Returns
    -------
    list of tuple of Place
        In the order of their first stacks; the places of each in the order given.

    Examples
    --------
    >>> a, b, c, d = (Place(n, 1) for n in range(4))
    >>> linked([("P", "1", a), ("Q", "2", b), ("P", "3", c), ("R", "2", d)]) == [(a, c), (b, d)]
    True
    """
    above: list[int] = []
    first: tuple[dict[str, int], dict[str, int]] = {}, {}
    places: list[Place] = []

    def top(number: int) -> int:
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    for number, (*names, place) in enumerate(stacks):
        above.append(number)
        places.append(place)
        for name, seen in zip(names, first, strict=True):
            one, other = sorted((top(number), top(seen.setdefault(name, number))))
            above[other] = one
    found: dict[int, list[Place]] = {}
    for number, place in enumerate(places):
        found.setdefault(top(number), []).append(place)
    return [tuple(part) for part in found.values()]
