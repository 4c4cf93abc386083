"""A run from input to store: scan, plan, process, finish."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from etl.codes import FailureCode
from etl.config import Config
from etl.dicom.sources import find_sources
from etl.errors import ClusterError, DiskFullError
from etl.plan.plan import SeriesTask, make_plan
from etl.process.series import Receipt, process
from etl.run.finish import MAX_PICTURES, ProcessedRun, RunResult, dry_run_result, finish_run, report_order
from etl.run.rerun import input_digest
from etl.run.resume import account_for_all, split_unchanged
from etl.run.run_dir import check_run_dir, new_run_dir
from etl.scan.deidentify import Pseudonyms, check_mapping, deidentify_scan, read_key, write_mapping
from etl.scan.inputs import scan_inputs
from etl.scan.scan import Limits
from etl.store.inventory import check_patients
from etl.store.lock import StoreLock
from etl.store.writer import StoreWriter
from etl.workers.pool import Pool, open_pool
from etl.workers.progress import metered, say

# Of one message to a worker, which stays below 64 kB with them.
MAX_SLICES = 512


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
                todo, unchanged = split_unchanged(plan, writer if exists and not config.overwrite else None)
                return dry_run_result(
                    [*plan.settled, *unchanged, *(task.entry for task in todo)], scan, store_path, start
                )
            writer.prepare(config.recipe(), overwrite=config.overwrite)
            todo, unchanged = split_unchanged(plan, writer)
            if todo:
                writer.withdraw_consolidated()
            todo = _with_pictures(todo, drawing.enter_context(_folder_of_pictures(run_dir)))
            receipts, stopped = _process_all(pool, todo, config, store_path, lock)
        # The pool is closed: no worker of ours publishes any more.
        lock.check()
        receipts, pending = account_for_all(todo, receipts, writer)
        pictures = {task.entry.node: Path(task.picture) for task in todo if task.picture}
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
                    task.entry.failed(
                        FailureCode.WORKER_DIED, "the worker process died twice while at this series"
                    )
                )
                receipts.append(receipt)
                meter.advance(byte_count=task.entry.bytes_in, failed=receipt.entry.outcome == "failed")
                if receipt.disk_is_full:
                    raise DiskFullError(receipt.entry.detail or "")
    except (KeyboardInterrupt, ClusterError, DiskFullError) as stopped:
        say("stopped: finished series stay in the store, the next run goes on from here", quiet=config.quiet)
        return receipts, stopped
    return receipts, None
