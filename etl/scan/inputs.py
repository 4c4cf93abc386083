"""Scan all inputs of a run, spread over its workers."""

from __future__ import annotations

from collections.abc import Sequence

from etl.dicom.sources import Source, find_sources
from etl.scan.scan import Limits, ScanResult, Unreadable, merge_scans, scan_source
from etl.stack import Location
from etl.workers.pool import Pool
from etl.workers.progress import metered

MAX_SOURCES = 16


def scan_inputs(inputs: Sequence[str], pool: Pool, *, limits: Limits, quiet: bool) -> ScanResult:
    """Scan all inputs, one piece of work per source: see `etl.dicom.sources`.

    Raises
    ------
    UsageError
        An input does not exist.
    """
    sources = find_sources(inputs)
    found: dict[Source, ScanResult] = {}
    with metered("scan", len(sources), quiet=quiet) as meter:
        # What a source holds is not known yet; headers take little.
        scanned = pool.map(scan_source, sources, limits, share=lambda _: 1 / MAX_SOURCES, memory_bytes=lambda _: 0)
        for source, result in scanned:
            found[source] = result or _died_scanning(source)
            meter.advance()
    # In the order of the sources, not of completion: the same input gives the same plan.
    return merge_scans(found[source] for source in sources)


def _died_scanning(source: Source) -> ScanResult:
    detail = "the worker process died twice while reading headers"
    return ScanResult(unreadable=(Unreadable(Location(source.container, ""), source.name, detail),))
