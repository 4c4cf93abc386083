"""A run from input to store: scan, plan, process, finish."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from etl.config import Config
from etl.dicom.sources import Source, find_sources
from etl.errors import ClusterError, DiskFullError
from etl.plan.plan import Plan, SeriesTask, make_plan
from etl.process.series import Receipt, process
from etl.run.finish import (
    MAX_PICTURES,
    ProcessedRun,
    RunResult,
    check_run_dir,
    dry_run_result,
    finish_run,
    new_run_dir,
    report_order,
)
from etl.run.ledger import Entry
from etl.run.rerun import input_digest
from etl.scan.deidentify import Pseudonyms, check_mapping, deidentify_scan, read_key, write_mapping
from etl.scan.scan import Limits, ScanResult, Unreadable, merge_scans, scan_source
from etl.stack import Location
from etl.store.inventory import check_patients
from etl.store.lock import StoreLock
from etl.store.writer import StoreWriter
from etl.workers.pool import Pool, open_pool
from etl.workers.progress import metered, say

# Of one message to a worker, which stays below 64 kB with them.
MAX_SLICES = 512
MAX_SOURCES = 16


def scan_inputs(inputs: Sequence[str], pool: Pool, *, limits: Limits, quiet: bool) -> ScanResult:
    """Scan all inputs, one task per top-level folder or zip.

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


def run(inputs: Sequence[str], store_path: str, config: Config) -> RunResult:
    """Bring every wanted series of the inputs into the store.

    Parameters
    ----------
    inputs : sequence of str
        Folders, zips, single files.
    store_path : str
    config : Config

    Raises
    ------
    UsageError
        The inputs, the store or the cluster cannot be used as given; nothing was written.
    """
    start = time.monotonic()
    # Workers have working folders of their own.
    inputs, store_path = [os.path.abspath(given) for given in inputs], os.path.abspath(store_path)
    pseudonyms = Pseudonyms(read_key(config.deidentify)) if config.deidentify else None
    if pseudonyms is not None:
        # The key's digest tells stores of different keys apart; its path means nothing elsewhere.
        config = replace(config, deidentify=pseudonyms.key_digest)
    writer = StoreWriter(store_path)
    exists = writer.check(config.recipe(), overwrite=config.overwrite) is not None
    sources = find_sources(inputs)
    state = None if config.deidentify else input_digest(sources, config)
    run_dir = new_run_dir(store_path, config)
    check_run_dir(run_dir, Path(store_path))
    if config.deidentify_map is not None:
        check_mapping(Path(config.deidentify_map), Path(store_path))
    with nullcontext() if config.dry_run else StoreLock(store_path) as lock, ExitStack() as drawing:
        with open_pool(config.workers, config.scheduler) as pool:
            if pool.dashboard:
                say(f"dashboard: {pool.dashboard}", quiet=config.quiet)
            scan = scan_inputs(inputs, pool, limits=_limits(config), quiet=config.quiet)
            if pseudonyms is not None:
                scan = deidentify_scan(scan, pseudonyms)
            if not scan.stacks and not scan.unreadable:
                say(f"no DICOM found among {scan.files} files of the input", quiet=config.quiet)
            plan = make_plan(scan, config)
            if not config.overwrite:
                check_patients(Path(store_path), (task.entry.patient_key for task in plan.tasks))
            if lock is None:
                todo, unchanged = _split_unchanged(plan, writer if exists and not config.overwrite else None)
                return dry_run_result(
                    [*plan.settled, *unchanged, *(task.entry for task in todo)], scan, store_path, start
                )
            writer.prepare(config.recipe(), overwrite=config.overwrite)
            todo, unchanged = _split_unchanged(plan, writer)
            if todo:
                writer.withdraw_consolidated()
            todo = _with_pictures(todo, drawing.enter_context(_folder_of_pictures(run_dir)))
            receipts, stopped = _process_all(pool, todo, config, store_path, lock)
        # The pool is closed: no worker of ours publishes any more.
        lock.check()
        receipts, pending = _accounted(todo, receipts, writer)
        pictures = {
            f"{task.entry.patient_key}/{task.entry.series_key}": Path(task.picture)
            for task in todo
            if task.picture
        }
        outcome = ProcessedRun(
            plan, scan, tuple(unchanged), tuple(receipts), pending, stopped, state, run_dir, pictures
        )
        result = finish_run(outcome, writer, config, start)
    if pseudonyms is not None and config.deidentify_map is not None:
        write_mapping(Path(config.deidentify_map), pseudonyms)
    return result


@contextmanager
def _folder_of_pictures(run_dir: Path) -> Iterator[Path]:
    """Give a folder for the workers' pictures; it goes when they are in the report."""
    is_new = not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    # Workers have working folders of their own.
    folder = Path(tempfile.mkdtemp(prefix=".pictures-", dir=os.path.abspath(run_dir)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                # It is empty where the run ended before it wrote anything.
                run_dir.rmdir()


def _with_pictures(tasks: list[SeriesTask], folder: Path) -> list[SeriesTask]:
    """Have those drawn that the report shows."""
    ordered = sorted(tasks, key=lambda task: report_order(task.entry))
    drawn = [replace(task, picture=str(folder / f"{n}.jpg")) for n, task in enumerate(ordered[:MAX_PICTURES])]
    return drawn + ordered[MAX_PICTURES:]


def _limits(config: Config) -> Limits:
    return Limits(file_bytes=config.max_file_mb << 20, header_limit_s=config.time_limit_s)


def _died_scanning(source: Source) -> ScanResult:
    detail = "the worker process died twice while reading headers"
    return ScanResult(unreadable=(Unreadable(Location(source.container, ""), source.name, detail),))


def _split_unchanged(plan: Plan, writer: StoreWriter | None) -> tuple[list[SeriesTask], list[Entry]]:
    """Tell what is in the store already, made of the same source in the same way."""
    todo, unchanged = [], []
    for task in plan.tasks:
        published = None if writer is None else _find(task, writer)
        if published is None:
            todo.append(task)
        else:
            # What the pixels showed when they were read stands in the store only.
            unchanged.append(replace(task.entry, outcome="unchanged", warnings=_warnings(published)))
    return todo, unchanged


def _find(task: SeriesTask, writer: StoreWriter) -> dict[str, Any] | None:
    """Give the attributes of the published volume of a task; None where it is not there whole, or out of date."""
    keys = task.entry.patient_key, task.entry.series_key
    published = writer.published(*keys) or {}
    provenance = published.get("ct_etl", {}).get("provenance", {})
    digests = provenance.get("source_digest"), provenance.get("config_digest")
    is_current = digests == (task.source_digest, task.config_digest) and writer.is_whole(*keys)
    return published if is_current else None


def _warnings(published: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(published["ct_etl"]["qc"]["warnings"])


def _process_all(
    pool: Pool, tasks: list[SeriesTask], config: Config, store_path: str, lock: StoreLock
) -> tuple[list[Receipt], BaseException | None]:
    """Process the tasks; give what came back, and what stopped it before the end."""
    # Largest first: a long series that starts last would leave the other workers idle.
    ordered = sorted(tasks, key=lambda task: -task.bytes_in)
    receipts: list[Receipt] = []
    try:
        with metered("series", len(ordered), quiet=config.quiet) as meter:
            outcomes = pool.map(
                process,
                ordered,
                config,
                store_path,
                lock.token,
                share=lambda task: task.row_count / MAX_SLICES,
                memory_bytes=lambda task: task.memory_bytes,
            )
            for task, result in outcomes:
                receipt = result or Receipt(
                    task.entry.failed("worker-died", "the worker process died twice while at this series")
                )
                receipts.append(receipt)
                meter.advance(byte_count=task.entry.bytes_in, failed=receipt.entry.outcome == "failed")
                if receipt.disk_is_full:
                    raise DiskFullError(receipt.entry.detail or "")
    except (KeyboardInterrupt, ClusterError, DiskFullError) as stopped:
        say("stopped: finished series stay in the store, the next run goes on from here", quiet=config.quiet)
        return receipts, stopped
    return receipts, None


def _accounted(tasks: list[SeriesTask], receipts: list[Receipt], writer: StoreWriter) -> tuple[list[Receipt], int]:
    """Give every task a receipt that says what is in the store, and the number of those that were not reached.

    A worker that died, or was stopped, may have published before it could say so.
    """
    by_key = {(r.entry.patient_key, r.entry.series_key): r for r in receipts}
    accounted, pending = [], 0
    for task in tasks:
        receipt = by_key.get((task.entry.patient_key, task.entry.series_key))
        if receipt is None or receipt.entry.reason == "worker-died":
            published = _find(task, writer)
            if published is not None:
                receipt = Receipt(_as_written(task.entry, published, writer))
            elif receipt is None:
                detail = "not reached: the run was stopped before it; the next run goes on here"
                receipt = Receipt(task.entry.failed("internal-error", detail))
                pending += 1
        accounted.append(receipt)
    return accounted, pending


def _as_written(entry: Entry, published: Mapping[str, Any], writer: StoreWriter) -> Entry:
    folder = Path(writer.path, entry.patient_key, entry.series_key)
    return replace(
        entry,
        outcome="written",
        warnings=_warnings(published),
        bytes_out=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )
