"""The end of a run: root and patients, ledger, totals, report."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.buckets.urls import is_bucket_url
from etl.codes import FailureCode
from etl.config import Config
from etl.entry import Entry, LedgerLines, count_outcomes
from etl.errors import DiskFullError, StoreError
from etl.run.input_files import RECORD_FIELD, leave_pointer, update_record
from etl.run.ledger import LABELS_NAME, REPORT_NAME, write_label_ledger, write_run
from etl.run.run_dir import new_run_dir
from etl.store.finish import finish_store
from etl.store.keys import Keys
from etl.store.layout import FORMAT_VERSION, METADATA
from etl.store.root import root_digest
from etl.workers.progress import say

if TYPE_CHECKING:
    # Loading them takes half of the time of a run that has nothing to do.
    from etl.labels.label_entry import LabelEntry
    from etl.process.series import Receipt
    from etl.run.input_files import FilesSeen
    from etl.scan.scan import ScanResult
    from etl.store.series_nodes import SeriesNodes

# A card is 100 kB of the page: the report of a run shows what it wrote, `ct-etl report` all that is in the store.
MAX_PICTURES = 200
TRACEBACKS_NAME = "tracebacks.txt"


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run leaves behind.

    Parameters
    ----------
    entries : tuple of Entry
        One per stack found.
    totals : dict
        The content of ``run.json``.
    interrupted : bool
        Somebody stopped it; what was finished stays.
    stopped : BaseException, optional
        By what.
    labels : tuple of LabelEntry
        One per mask and series, with ``--labels``.
    """

    entries: tuple[Entry, ...]
    totals: dict[str, Any]
    interrupted: bool = False
    stopped: BaseException | None = None
    labels: tuple[LabelEntry, ...] = ()

    @property
    def has_failures(self) -> bool:
        """Whether a wanted series or mask is not in the store."""
        outcomes = {*(entry.outcome for entry in self.entries), *(entry.outcome for entry in self.labels)}
        return bool(self.totals.get("damaged")) or "failed" in outcomes


@dataclass(frozen=True, eq=False)
class ProcessedRun:
    """What a run has done when its workers are through."""

    recipe: Mapping[str, Any]
    limits: Mapping[str, Any]
    default_series: Mapping[str, str]
    """Series key that this run prefers, by Patient ID."""
    scan: ScanResult
    """All that was found and is no stack."""
    dropped: Mapping[str, int]
    """Attributes that did not parse, and in how many stacks."""
    record: Mapping[str, str]
    """What was known of files before the run, see `etl.run.input_files`."""
    files: Sequence[tuple[str, FilesSeen]]
    """By node, what the files of everything that was planned looked like."""
    settled: tuple[Entry, ...]
    """Entries that needed no work, or are known to be unchanged."""
    receipts: tuple[Receipt, ...]
    pending: int
    """Receipts of series that were not reached."""
    stopped: BaseException | None
    """What stopped the run before its end."""
    may_write: bool
    """The store is this run's: it was made ready, and the lock is held."""
    input_digest: str | None
    """What the input looked like when the run began, see `etl.run.rerun`."""
    run_dir: Path
    labels: tuple[LabelEntry, ...]
    """What became of the masks of ``--labels``."""
    pictures: Mapping[str, Path]
    """Where workers drew their volumes, by ``<patient key>/<series key>``."""
    nodes: Callable[[str], SeriesNodes | None]
    """What workers said of the series that they published, see `etl.store.finish.finish_store`."""


def dry_run_result(
    entries: Iterable[Entry], scan: ScanResult, dropped: Mapping[str, int], store_path: str, start: float
) -> RunResult:
    """Give the result of a run that writes nothing."""
    ordered = _sorted(entries)
    return RunResult(ordered, _totals(ordered, scan, dropped, start, store_path, None))


def finish_run(run: ProcessedRun, keys: Keys, start: float) -> RunResult:
    """Write the store's upper levels, the ledger, the totals and the report.

    Whatever of it fails, the ledger is written.

    Raises
    ------
    EtlError, OSError
        What stopped the run, once everything is written down.
    """
    stopped, fingerprint, damaged = run.stopped, None, list[str]()
    if run.may_write:
        try:
            fingerprint, damaged = finish_store(keys, run.recipe, run.default_series, _known(run))
        except (DiskFullError, StoreError, OSError) as error:
            # The record may lie on another disk, and says what is finished.
            stopped = stopped or error
    for node in damaged:
        say(f"{node} in the store is damaged or foreign, and left out; see ct-etl verify --repair", quiet=False)
    found = (*run.settled, *(_confirmed(receipt.entry, keys) for receipt in run.receipts))
    entries = _sorted(_with_older(entry, keys) for entry in found)
    totals = {
        **_totals(entries, run.scan, run.dropped, start, keys.path, run.run_dir),
        "config": run.recipe,
        "limits": run.limits,
        "fingerprint": fingerprint,
        "interrupted": stopped is not None,
        "pending": run.pending,
        "damaged": damaged,
        "report": None if stopped is not None else str(run.run_dir / REPORT_NAME),
        "unreadable_paths": [os.path.join(*item.location) for item in run.scan.unreadable],
        "input_digest": run.input_digest,
        "store_digest": _root_digest(keys),
        RECORD_FIELD: update_record(run.record, run.files, entries),
    }
    _write_ledger(run, entries, totals)
    if run.may_write:
        # Without it the next run reads what this one knows.
        with suppress(DiskFullError, OSError):
            leave_pointer(keys.path, run.run_dir)
    if stopped is not None and not isinstance(stopped, KeyboardInterrupt):
        raise stopped
    if stopped is None:
        _write_report(keys.path, run.run_dir, entries, totals, run.pictures)
    return RunResult(entries, totals, stopped is not None, stopped, run.labels)


def _known(run: ProcessedRun) -> Callable[[str], SeriesNodes | None]:
    """Give what is known of series, those left out that have got labels since."""
    labeled = {entry.node for entry in run.labels}
    return lambda node: None if node in labeled else run.nodes(node)


def _write_ledger(run: ProcessedRun, entries: Sequence[Entry], totals: dict[str, Any]) -> None:
    """Write ledger, totals and tracebacks: into the run directory, or where it takes nothing, a temporary one."""
    try:
        write_run(run.run_dir, entries, totals)
        if run.labels:
            write_label_ledger(run.run_dir / LABELS_NAME, run.labels)
        _write_tracebacks(run.run_dir, run.receipts)
    except (DiskFullError, OSError) as error:
        refuge = Path(tempfile.mkdtemp(prefix=f"ct-etl-{run.run_dir.name}-"))
        say(f"run directory {run.run_dir} cannot be written ({error}); the ledger is in {refuge}", quiet=False)
        write_run(refuge, entries, {**totals, "run_dir": str(refuge), "report": None})
        _write_tracebacks(refuge, run.receipts)


def finish_unchanged(
    entries: Sequence[Entry], earlier: Mapping[str, Any], keys: Keys, config: Config, start: float
) -> RunResult:
    """Write ledger, totals and report of a run that found everything as the last one had left it.

    Parameters
    ----------
    entries : sequence of Entry
    earlier : mapping
        Totals of the last run.
    keys : Keys
    config : Config
    start : float
        `time.monotonic` when the run began.
    """
    run_dir = new_run_dir(keys.path, config)
    totals = {
        **earlier,
        **count_outcomes(entries),
        "seconds": round(time.monotonic() - start, 3),
        "bytes_in": 0,
        "bytes_out": 0,
        "store": keys.path,
        "run_dir": str(run_dir),
        "report": str(run_dir / REPORT_NAME),
    }
    write_run(run_dir, entries, totals)
    _write_report(keys.path, run_dir, entries, totals, {})
    return RunResult(tuple(entries), totals)


def _write_report(
    store_path: str,
    run_dir: Path,
    entries: Sequence[Entry],
    totals: dict[str, Any],
    pictures: Mapping[str, Path],
) -> None:
    # Its libraries take a while to load; a dry run draws nothing.
    from etl.report.page import write_report  # noqa: PLC0415

    written = [entry.node for entry in entries if entry.outcome == "written"]
    shown = {node: pictures.get(node) for node in written[:MAX_PICTURES]}
    write_report(store_path, run_dir / REPORT_NAME, ledger=LedgerLines(entries), run=totals, pictures=shown)


def _with_older(entry: Entry, keys: Keys) -> Entry:
    """Say of a series that failed now that the store still has it from before."""
    if entry.outcome == "failed" and entry.series_key and _is_published(keys, entry.node):
        return replace(entry, detail=f"{entry.detail}; the store still holds its volume of an earlier run")
    return entry


def _root_digest(keys: Keys) -> str | None:
    try:
        return root_digest(keys)
    except OSError:
        return None


def _is_published(keys: Keys, node: str) -> bool:
    """Whether the driver finds a series; a disk that does not answer has none."""
    try:
        return keys.size(f"{node}/{METADATA}") is not None
    except OSError:
        return False


def _confirmed(entry: Entry, keys: Keys) -> Entry:
    """Believe a worker that it wrote only if the driver finds it: a remote one may not see the same disk."""
    # A bucket is the same one wherever it is asked.
    if entry.outcome == "written" and not is_bucket_url(keys.path) and not _is_published(keys, entry.node):
        return entry.failed(
            FailureCode.INTERNAL_ERROR, "a worker wrote it, and it is not in the store: another file system?"
        )
    return entry


def _totals(
    entries: Sequence[Entry],
    scan: ScanResult,
    dropped: Mapping[str, int],
    start: float,
    store_path: str,
    run_dir: Path | None,
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        **count_outcomes(entries),
        "files": scan.files,
        "ignored_files": scan.ignored_files,
        "dropped_attributes": dict(sorted(dropped.items())),
        "ignored_paths": [os.path.join(*location) for location in scan.ignored],
        "seconds": round(time.monotonic() - start, 3),
        "bytes_in": sum(entry.bytes_in for entry in entries if entry.outcome == "written"),
        "bytes_out": sum(entry.bytes_out for entry in entries),
        "store": store_path,
        "run_dir": None if run_dir is None else str(run_dir),
        "report": None if run_dir is None else str(run_dir / REPORT_NAME),
    }


def _write_tracebacks(run_dir: Path, receipts: Sequence[Receipt]) -> None:
    found = [r for r in receipts if r.traceback]
    if found:
        text = "\n".join(f"{r.entry.node}\n{r.traceback}" for r in found)
        (run_dir / TRACEBACKS_NAME).write_text(text, "utf-8", errors="backslashreplace")


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=report_order))


def report_order(entry: Entry) -> tuple[str, int, str, str]:
    """Give the order of ledger and report."""
    return entry.patient_key, entry.series_number, entry.series_key, entry.detail or ""
