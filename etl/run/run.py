"""A run from input to store: scan, plan, process, finish. Whatever ends it, a ledger is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from etl.buckets.urls import local_stand_in
from etl.codes import FailureCode
from etl.config import LIMITS, Config
from etl.entry import Entry
from etl.errors import ClusterError, DiskFullError, StoreError, UsageError
from etl.plan.plan import Plan, make_plan
from etl.plan.task import SeriesTask
from etl.process.compare import has_published_pixels
from etl.process.series import Receipt, process
from etl.run.existing import check_patient_groups, match_store
from etl.run.finish import MAX_PICTURES, ProcessedRun, RunResult, dry_run_result, finish_run, report_order
from etl.run.input_files import read_record
from etl.run.job import Job, look_before, pool_of, scan_job
from etl.run.label import LabelOptions, LabelRun, label_all
from etl.run.resume import account_for_all, as_unchanged, compare_with_store
from etl.run.run_dir import runs_folder
from etl.run.too_large import part_too_large
from etl.scan.deidentify import write_mapping
from etl.scan.scan import ScanResult
from etl.store.lock import Lock, store_lock
from etl.store.publish import published
from etl.store.root import prepare_root, withdraw_consolidated
from etl.workers.pool import Pool
from etl.workers.progress import metered, say
from etl.workers.stop_signals import stop_signals

# Of one message to a worker, which stays below 64 kB with them.
MAX_SLICES = 512
STOPPED = "stopped: finished series stay in the store, the next run goes on from here"
# What ends a run before its end, and leaves what is finished.
STOPS = (KeyboardInterrupt, ClusterError, DiskFullError, StoreError, OSError)


@dataclass(eq=False)
class _Work:
    """How far a run has come: what a ledger can be made of at any moment."""

    scan: ScanResult = field(default_factory=ScanResult)
    tasks: list[SeriesTask] = field(default_factory=list)
    """Under the keys of the volumes that they continue."""
    default_series: dict[str, str] = field(default_factory=dict)
    record: dict[str, str] = field(default_factory=dict)
    settled: list[Entry] = field(default_factory=list)
    todo: list[SeriesTask] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    stopped: BaseException | None = None
    store_is_ready: bool = False
    """The root is there, and of this run's recipe."""
    lock_is_lost: bool = False
    labels: LabelRun | None = None


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
    job = look_before(inputs, store_path, config)
    if config.dry_run:
        return _dry_run(job)
    with stop_signals() as signals, store_lock(job.keys.path, partial(say, quiet=config.quiet)) as lock:
        work = _Work()
        with _folder_of_pictures(job) as pictures:
            try:
                _work(job, work, lock, pictures)
            except STOPS as stopped:
                work.stopped = stopped
                say(STOPPED, quiet=config.quiet)
            except UsageError:
                raise
            except Exception as defect:  # noqa: BLE001 - a defect too leaves a ledger, and is raised after it
                work.stopped = defect
            with signals.held():
                result = _finish(job, work)
                if job.pseudonyms is not None and config.deidentify_map is not None:
                    write_mapping(Path(config.deidentify_map), job.pseudonyms)
    return result


def _dry_run(job: Job) -> RunResult:
    """Show what the run would do."""
    config, keys = job.config, job.keys
    with pool_of(job) as pool:
        scan = scan_job(job, pool)
    plan = make_plan(scan, config, key_digest=job.recipe["deidentify"])
    if config.overwrite or not job.store_exists:
        entries = [*plan.settled, *(task.entry for task in plan.tasks)]
    else:
        check_patient_groups(plan.tasks, keys)
        tasks, refused = match_store(plan.tasks, keys, may_lose_slices=config.replace)
        compared = compare_with_store(tasks, keys, None)
        entries = [*plan.settled, *refused, *compared.unchanged, *(task.entry for task in compared.todo)]
    return dry_run_result(entries, scan, keys.path, job.start)


def _work(job: Job, work: _Work, lock: Lock, pictures: Path) -> None:
    """Do everything up to the last volume; `work` says how far it came, also where this raises."""
    config, keys = job.config, job.keys
    with pool_of(job) as pool:
        if pool.dashboard:
            say(f"dashboard: {pool.dashboard}", quiet=config.quiet)
        work.scan = scan_job(job, pool)
        plan = make_plan(work.scan, config, key_digest=job.recipe["deidentify"])
        _prepare_store(job, plan)
        work.store_is_ready = True
        work.settled = list(plan.settled)
        _match(job, work, plan)
        work.record = read_record(keys.path, job.run_dir)
        compared = compare_with_store(work.tasks, keys, work.record)
        work.settled += compared.unchanged
        # Until it is known better, what is to be compared counts as not reached.
        work.todo = [*compared.todo, *compared.to_compare]
        changed = _changed(pool, compared.to_compare, job, work)
        work.todo = _with_pictures([*compared.todo, *changed], pictures)
        if work.todo:
            withdraw_consolidated(keys)
            _process_all(pool, work, job, lock)
        if config.labels:
            work.labels = LabelRun()
            options = LabelOptions(config=config)
            label_all(work.labels, job.masks, keys, pool, lock, job.pseudonyms, {}, options)
    # The pool is closed: no worker of ours publishes any more.
    try:
        lock.check()
    except StoreError:
        work.lock_is_lost = True
        raise


def _prepare_store(job: Job, plan: Plan) -> None:
    """Make the store ready to be written to; only what has something to put into it may empty it."""
    config, keys = job.config, job.keys
    if config.overwrite and keys.names("") and not plan.tasks:
        raise UsageError(
            f"--overwrite would empty store {keys.path!r}: the input has nothing to write ({len(plan.settled)} "
            "series excluded or failed); nothing was touched"
        )
    if not config.overwrite:
        check_patient_groups(plan.tasks, keys)
    foreign = prepare_root(keys, job.recipe, overwrite=config.overwrite)
    if foreign is not None:
        say(f"what ct-etl did not write into the old store is now in {foreign}", quiet=False)


def _match(job: Job, work: _Work, plan: Plan) -> None:
    """Give the tasks the keys of the volumes that they continue; refuse those that would lose slices."""
    work.tasks, refused = match_store(plan.tasks, job.keys, may_lose_slices=job.config.replace)
    work.settled += refused
    now = {(task.entry.patient_id, task.source_digest): task.entry.series_key for task in work.tasks}
    work.default_series = dict(plan.default_series)
    for task in plan.tasks:
        patient_id, key = task.entry.patient_id, task.entry.series_key
        if plan.default_series.get(patient_id) == key:
            work.default_series[patient_id] = now.get((patient_id, task.source_digest), key)


def _changed(pool: Pool, tasks: Sequence[SeriesTask], job: Job, work: _Work) -> list[SeriesTask]:
    """Compare the pixels of files that do not look as they did; give the tasks of those that differ."""
    if not tasks:
        return []
    config, changed = job.config, []
    with metered("compare", len(tasks), quiet=config.quiet) as meter:
        outcomes = pool.map(
            has_published_pixels,
            tasks,
            job.keys.path,
            config.max_file_mb << 20,
            config.time_limit_s,
            share=_message_share,
            memory_bytes=lambda _: 0,
        )
        for task, is_equal in outcomes:
            attributes = published(job.keys, task.entry.node) if is_equal else None
            if attributes is None:
                changed.append(task)
            else:
                work.settled.append(as_unchanged(task.entry, attributes))
                work.todo.remove(task)
            meter.advance(byte_count=task.entry.bytes_in)
    return changed


@contextmanager
def _folder_of_pictures(job: Job) -> Iterator[Path]:
    """Give a folder for the workers' pictures; it goes when they are in the report."""
    run_dir = job.run_dir
    new = [folder for folder in (run_dir, run_dir.parent) if not folder.exists()]
    run_dir.mkdir(parents=True, exist_ok=True)
    # A run that was killed had a directory of its own.
    for folder in (run_dir, *runs_folder(local_stand_in(job.keys.path)).glob("*/")):
        for left in folder.glob(".pictures-*"):
            shutil.rmtree(left, ignore_errors=True)
    # Workers have working folders of their own.
    folder = Path(tempfile.mkdtemp(prefix=".pictures-", dir=os.path.abspath(run_dir)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            # They are empty where the run ended before it wrote anything.
            for unused in new:
                unused.rmdir()


def _with_pictures(tasks: list[SeriesTask], folder: Path) -> list[SeriesTask]:
    """Have those drawn that the report shows."""
    ordered = sorted(tasks, key=lambda task: report_order(task.entry))
    drawn = [replace(task, picture=str(folder / f"{n}.jpg")) for n, task in enumerate(ordered[:MAX_PICTURES])]
    return drawn + ordered[MAX_PICTURES:]


def _message_share(task: SeriesTask) -> float:
    return task.row_count / MAX_SLICES


def _process_all(pool: Pool, work: _Work, job: Job, lock: Lock) -> None:
    """Process the tasks; the receipts are what came back, also where this raises."""
    config = job.config
    # Largest first: a long series that starts last would leave the other workers idle.
    ordered, too_large = part_too_large(
        sorted(work.todo, key=lambda task: -task.bytes_in), pool.largest_worker_bytes
    )
    work.receipts += too_large
    total_bytes = sum(task.entry.bytes_in for task in ordered)
    with metered("series", len(ordered), quiet=config.quiet, total_bytes=total_bytes) as meter:
        outcomes = pool.map(
            process,
            ordered,
            config,
            job.keys.path,
            lock.token,
            share=_message_share,
            memory_bytes=lambda task: task.memory_bytes,
        )
        for task, result in outcomes:
            receipt = result or Receipt(
                task.entry.failed(FailureCode.WORKER_DIED, "the worker process died twice while at this series")
            )
            work.receipts.append(receipt)
            meter.advance(byte_count=task.entry.bytes_in, failed=receipt.entry.outcome == "failed")
            if receipt.disk_is_full:
                raise DiskFullError(receipt.entry.detail or "")


def _finish(job: Job, work: _Work) -> RunResult:
    receipts, pending = account_for_all(work.todo, work.receipts, job.keys)
    if pending:
        say(f"{pending} series were not reached; the same command again goes on with them", quiet=job.config.quiet)
    processed = ProcessedRun(
        recipe=job.recipe,
        limits={name: getattr(job.config, name) for name in LIMITS},
        default_series=work.default_series,
        scan=work.scan,
        record=work.record,
        tasks=tuple(work.tasks),
        settled=tuple(work.settled),
        receipts=tuple(receipts),
        pending=pending,
        stopped=work.stopped,
        may_write=work.store_is_ready and not work.lock_is_lost,
        input_digest=job.input_digest,
        run_dir=job.run_dir,
        labels=() if work.labels is None else tuple(work.labels.entries),
        pictures={task.entry.node: Path(task.picture) for task in work.todo if task.picture},
    )
    return finish_run(processed, job.keys, job.start)
