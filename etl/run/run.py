"""A run from input to store: scan, plan, process, finish."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etl.codes import FailureCode
from etl.config import Config
from etl.dicom.sources import find_sources
from etl.errors import ClusterError, DiskFullError
from etl.plan.plan import Plan, SeriesTask, make_plan
from etl.process.series import Receipt, process
from etl.run.finish import MAX_PICTURES, ProcessedRun, RunResult, dry_run_result, finish_run, report_order
from etl.run.rerun import input_digest
from etl.run.resume import account_for_all, split_unchanged
from etl.run.run_dir import check_run_dir, new_run_dir
from etl.scan.deidentify import Pseudonyms, check_mapping, deidentify_scan, read_key, write_mapping
from etl.scan.inputs import scan_inputs
from etl.scan.scan import Limits, ScanResult
from etl.store.inventory import check_patients
from etl.store.keys import Keys, open_keys
from etl.store.lock import StoreLock
from etl.store.root import check_root, prepare_root, withdraw_consolidated
from etl.workers.pool import Pool, open_pool
from etl.workers.progress import metered, say

# Of one message to a worker, which stays below 64 kB with them.
MAX_SLICES = 512


@dataclass(frozen=True, eq=False)
class _Job:
    """A run whose inputs, store and options have been looked at; nothing is written yet."""

    inputs: tuple[str, ...]
    keys: Keys
    config: Config
    pseudonyms: Pseudonyms | None
    recipe: Mapping[str, Any]
    store_exists: bool
    input_digest: str | None
    run_dir: Path
    start: float


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
    job = _look_before(inputs, store_path, config)
    if config.dry_run:
        return _dry_run(job)
    with StoreLock(job.keys.path) as lock:
        result = _run_locked(job, lock)
    if job.pseudonyms is not None and config.deidentify_map is not None:
        write_mapping(Path(config.deidentify_map), job.pseudonyms)
    return result


def _look_before(inputs: Sequence[str], store_path: str, config: Config) -> _Job:
    """Check everything that can be checked before any work."""
    start = time.monotonic()
    # Workers have working folders of their own.
    inputs, store_path = [os.path.abspath(given) for given in inputs], os.path.abspath(store_path)
    pseudonyms = Pseudonyms(read_key(config.deidentify)) if config.deidentify else None
    recipe = config.recipe(key_digest=pseudonyms.key_digest if pseudonyms else None)
    keys = open_keys(store_path)
    store_exists = check_root(keys, recipe, overwrite=config.overwrite) is not None
    sources = find_sources(inputs)
    state = None if pseudonyms else input_digest(sources, config)
    run_dir = new_run_dir(store_path, config)
    check_run_dir(run_dir, Path(store_path))
    if config.deidentify_map is not None:
        check_mapping(Path(config.deidentify_map), Path(store_path))
    return _Job(tuple(inputs), keys, config, pseudonyms, recipe, store_exists, state, run_dir, start)


def _dry_run(job: _Job) -> RunResult:
    """Show what the run would do."""
    with open_pool(job.config.workers, job.config.scheduler) as pool:
        scan, plan = _scan_and_plan(job, pool)
    todo, unchanged = split_unchanged(plan, job.keys if job.store_exists and not job.config.overwrite else None)
    entries = [*plan.settled, *unchanged, *(task.entry for task in todo)]
    return dry_run_result(entries, scan, job.keys.path, job.start)


def _run_locked(job: _Job, lock: StoreLock) -> RunResult:
    with ExitStack() as drawing:
        with open_pool(job.config.workers, job.config.scheduler) as pool:
            scan, plan = _scan_and_plan(job, pool)
            prepare_root(job.keys, job.recipe, overwrite=job.config.overwrite)
            todo, unchanged = split_unchanged(plan, job.keys)
            if todo:
                withdraw_consolidated(job.keys)
            todo = _with_pictures(todo, drawing.enter_context(_folder_of_pictures(job.run_dir)))
            receipts, stopped = _process_all(pool, todo, job.config, job.keys.path, lock)
        # The pool is closed: no worker of ours publishes any more.
        lock.check()
        receipts, pending = account_for_all(todo, receipts, job.keys)
        pictures = {task.entry.node: Path(task.picture) for task in todo if task.picture}
        processed = ProcessedRun(
            recipe=job.recipe,
            plan=plan,
            scan=scan,
            unchanged=tuple(unchanged),
            receipts=tuple(receipts),
            pending=pending,
            stopped=stopped,
            input_digest=job.input_digest,
            run_dir=job.run_dir,
            pictures=pictures,
        )
        return finish_run(processed, job.keys, job.start)


def _scan_and_plan(job: _Job, pool: Pool) -> tuple[ScanResult, Plan]:
    config = job.config
    if pool.dashboard:
        say(f"dashboard: {pool.dashboard}", quiet=config.quiet)
    scan = scan_inputs(job.inputs, pool, limits=_limits(config), quiet=config.quiet)
    if job.pseudonyms is not None:
        scan = deidentify_scan(scan, job.pseudonyms)
    if not scan.stacks and not scan.unreadable:
        say(f"no DICOM found among {scan.files} files of the input", quiet=config.quiet)
    plan = make_plan(scan, config, key_digest=job.recipe["deidentify"])
    if not config.overwrite:
        check_patients(Path(job.keys.path), (task.entry.patient_key for task in plan.tasks))
    return scan, plan


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
