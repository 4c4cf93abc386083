"""Scan all inputs of a run, spread over its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from etl.dicom.sources import Source, find_sources
from etl.scan.scan import Limits, ScanResult, Unreadable, merge_scans, scan_source
from etl.stack import Location
from etl.workers.pool import Pool
from etl.workers.progress import metered

Result = TypeVar("Result")
MAX_SOURCES = 64


def scan_inputs(inputs: Sequence[str], pool: Pool, *, limits: Limits, quiet: bool) -> ScanResult:
    """Scan all inputs, one piece of work per source: see `etl.dicom.sources`.

    Raises
    ------
    UsageError
        An input does not exist.
    """
    sources = find_sources(inputs)
    found: dict[int, ScanResult] = {}
    for number, result in scan_each(sources, pool, scan_source, limits=limits, quiet=quiet):
        found[number] = result or died_scanning(sources[number])
    # In the order of the sources, not of completion: the same input gives the same plan.
    return merge_scans(found[number] for number in range(len(sources)))


def scan_each(
    sources: Sequence[Source],
    pool: Pool,
    scan: Callable[[Source, Limits], Result],
    *,
    limits: Limits,
    quiet: bool,
) -> Iterator[tuple[int, Result | None]]:
    """Scan sources as workers become free.

    Parameters
    ----------
    sources : sequence of Source
    pool : Pool
    scan : callable
        What is called for each.
    limits : Limits
    quiet : bool

    Yields
    ------
    (number, result)
        In the order of completion; None where a source killed its workers.
    """
    with metered("scan", len(sources), quiet=quiet) as meter:
        # What a source holds is not known yet; headers take little.
        scanned = pool.map(
            scan,
            range(len(sources)),
            limits,
            share=lambda _: 1 / MAX_SOURCES,
            memory_bytes=lambda _: 0,
            load=sources.__getitem__,
        )
        for number, result in scanned:
            yield number, result
            meter.advance()


def died_scanning(source: Source) -> ScanResult:
    """Give what is said of a source that killed the workers that tried it."""
    detail = "the worker process died twice while reading headers"
    return ScanResult(unreadable=(Unreadable(Location(source.container, ""), source.name, detail),))
