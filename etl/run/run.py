"""A run from input to store: scan, plan, process, finish. Whatever ends it, a ledger is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from etl.codes import FailureCode
from etl.config import LIMITS, Config
from etl.entry import Entry
from etl.errors import ClusterError, DiskFullError, StoreError, UsageError
from etl.plan.task import SeriesTask
from etl.process.compare import has_published_pixels
from etl.process.series import Receipt, process
from etl.run.existing import Matched, match_store
from etl.run.finish import ProcessedRun, RunResult, dry_run_result, finish_run
from etl.run.input_files import read_record
from etl.run.job import Job, look_before, plan_job, pool_of, scan_job
from etl.run.label import LabelOptions, LabelRun, label_all
from etl.run.patient_groups import check_patient_groups
from etl.run.pictures import folder_of_pictures, with_pictures
from etl.run.planning import MESSAGE_BYTES, RunPlan
from etl.run.resume import account_for_all, as_unchanged, compare_with_store
from etl.run.spool import Place, Spool
from etl.run.spooled_scan import SpooledScan
from etl.run.tickets import Ticket, with_task
from etl.run.too_large import part_too_large
from etl.scan.deidentify import write_mapping
from etl.store.lock import Lock, store_lock
from etl.store.publish import published
from etl.store.root import prepare_root, withdraw_consolidated
from etl.store.series_nodes import SeriesNodes
from etl.workers.pool import Pool
from etl.workers.progress import metered, say
from etl.workers.stop_signals import stop_signals

STOPPED = "stopped: finished series stay in the store, the next run goes on from here"
# What ends a run before its end, and leaves what is finished.
STOPS = (KeyboardInterrupt, ClusterError, DiskFullError, StoreError, OSError)


@dataclass(eq=False)
class _Work:
    """How far a run has come: what a ledger can be made of at any moment."""

    spool: Spool
    scan: SpooledScan = field(default_factory=SpooledScan)
    plan: RunPlan = field(default_factory=RunPlan)
    tickets: list[Ticket] = field(default_factory=list)
    """Under the keys of the volumes that they continue."""
    default_series: dict[str, str] = field(default_factory=dict)
    record: dict[str, str] = field(default_factory=dict)
    settled: list[Entry] = field(default_factory=list)
    todo: list[Ticket] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    unproven: frozenset[str] = frozenset()
    """Nodes whose files do not look as they did."""
    nodes: dict[str, Place] = field(default_factory=dict)
    """Where what is known of published series lies, see `Receipt.nodes`."""
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
    with (
        stop_signals() as signals,
        store_lock(job.keys.path, partial(say, quiet=config.quiet)) as lock,
        folder_of_pictures(job.run_dir, job.keys.path) as pictures,
        Spool(pictures) as spool,
    ):
        work = _Work(spool)
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
    with pool_of(job) as pool, Spool() as spool:
        scan = scan_job(job, pool, spool)
        plan = plan_job(job, scan, pool, spool)
        settled, tickets = list(plan.settled), plan.tickets
        if not config.overwrite and job.store_exists:
            check_patient_groups((ticket.entry for ticket in tickets), keys)
            matched = match_store(tickets, keys, _loader(spool), may_lose_slices=config.replace)
            compared = compare_with_store(matched.there, keys, None)
            settled += [*matched.refused, *compared.unchanged]
            tickets = [*matched.fresh, *compared.todo]
    entries = [*settled, *(ticket.entry for ticket in tickets)]
    return dry_run_result(entries, scan.rest, plan.dropped, keys.path, job.start)


def _loader(spool: Spool) -> Callable[[Ticket], SeriesTask]:
    return lambda ticket: ticket.load(spool).unpacked()


def _work(job: Job, work: _Work, lock: Lock, pictures: Path) -> None:
    """Do everything up to the last volume; `work` says how far it came, also where this raises."""
    config, keys = job.config, job.keys
    with pool_of(job) as pool:
        if pool.dashboard:
            say(f"dashboard: {pool.dashboard}", quiet=config.quiet)
        work.scan = scan_job(job, pool, work.spool)
        work.plan = plan_job(job, work.scan, pool, work.spool)
        _prepare_store(job, work.plan)
        work.store_is_ready = True
        work.settled = list(work.plan.settled)
        matched = _match(job, work)
        work.record = read_record(keys.path, job.run_dir)
        compared = compare_with_store(matched.there, keys, work.record)
        work.settled += compared.unchanged
        # Until it is known better, what is to be compared counts as not reached.
        work.unproven = frozenset(ticket.entry.node for ticket in compared.to_compare)
        new = [*matched.fresh, *compared.todo]
        work.todo = [*new, *compared.to_compare]
        changed = _changed(pool, compared.to_compare, job, work)
        work.todo = with_pictures([*new, *changed], pictures)
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


def _prepare_store(job: Job, plan: RunPlan) -> None:
    """Make the store ready to be written to; only what has something to put into it may empty it."""
    config, keys = job.config, job.keys
    if config.overwrite and keys.names("") and not plan.tickets:
        raise UsageError(
            f"--overwrite would empty store {keys.path!r}: the input has nothing to write ({len(plan.settled)} "
            "series excluded or failed); nothing was touched"
        )
    if not config.overwrite:
        check_patient_groups((ticket.entry for ticket in plan.tickets), keys)
    foreign = prepare_root(keys, job.recipe, overwrite=config.overwrite)
    if foreign is not None:
        say(f"what ct-etl did not write into the old store is now in {foreign}", quiet=False)


def _match(job: Job, work: _Work) -> Matched[Ticket]:
    """Give the tasks the keys of the volumes that they continue; refuse those that would lose slices."""
    plan = work.plan
    matched = match_store(plan.tickets, job.keys, _loader(work.spool), may_lose_slices=job.config.replace)
    work.tickets = [*matched.fresh, *matched.there]
    work.settled += matched.refused
    now = {(ticket.entry.patient_id, ticket.source_digest): ticket.entry.series_key for ticket in matched.there}
    work.default_series = dict(plan.default_series)
    for ticket in plan.tickets:
        patient_id, key = ticket.entry.patient_id, ticket.entry.series_key
        if plan.default_series.get(patient_id) == key:
            work.default_series[patient_id] = now.get((patient_id, ticket.source_digest), key)
    return matched


def _changed(pool: Pool, tickets: Sequence[Ticket], job: Job, work: _Work) -> list[Ticket]:
    """Compare the pixels of files that do not look as they did; give those that differ."""
    if not tickets:
        return []
    config, changed = job.config, []
    unchanged: set[str] = set()
    with metered("compare", len(tickets), quiet=config.quiet) as meter:
        outcomes = pool.map(
            with_task,
            tickets,
            has_published_pixels,
            job.keys.path,
            config.max_file_mb << 20,
            config.time_limit_s,
            share=_message_share,
            memory_bytes=lambda _: 0,
            load=lambda ticket: ticket.load(work.spool),
        )
        try:
            for ticket, is_equal in outcomes:
                attributes = published(job.keys, ticket.entry.node) if is_equal else None
                if attributes is None:
                    changed.append(ticket)
                else:
                    work.settled.append(as_unchanged(ticket.entry, attributes))
                    unchanged.add(ticket.entry.node)
                meter.advance(byte_count=ticket.entry.bytes_in)
        finally:
            work.todo = [ticket for ticket in work.todo if ticket.entry.node not in unchanged]
    return changed


def _message_share(ticket: Ticket) -> float:
    return ticket.place.size / MESSAGE_BYTES


def _process_all(pool: Pool, work: _Work, job: Job, lock: Lock) -> None:
    """Process the tasks; the receipts are what came back, also where this raises."""
    config = job.config
    # Largest first: a long series that starts last would leave the other workers idle.
    ordered, too_large = part_too_large(
        sorted(work.todo, key=lambda ticket: -ticket.bytes_in), pool.largest_worker_bytes
    )
    work.receipts += too_large
    total_bytes = sum(ticket.entry.bytes_in for ticket in ordered)
    with metered("series", len(ordered), quiet=config.quiet, total_bytes=total_bytes) as meter:
        outcomes = pool.map(
            with_task,
            ordered,
            process,
            config,
            job.keys.path,
            lock.token,
            share=_message_share,
            memory_bytes=lambda ticket: ticket.memory_bytes,
            load=lambda ticket: ticket.load(work.spool),
        )
        for ticket, result in outcomes:
            receipt = result or Receipt(
                ticket.entry.failed(FailureCode.WORKER_DIED, "the worker process died twice while at this series")
            )
            if receipt.nodes is not None:
                work.nodes[receipt.entry.node] = work.spool.put(receipt.nodes)
                receipt = replace(receipt, nodes=None)
            work.receipts.append(receipt)
            meter.advance(byte_count=ticket.entry.bytes_in, failed=receipt.entry.outcome == "failed")
            if receipt.disk_is_full:
                raise DiskFullError(receipt.entry.detail or "")


def _finish(job: Job, work: _Work) -> RunResult:
    receipts, pending = account_for_all(work.todo, work.receipts, job.keys, work.unproven)
    if pending:
        say(f"{pending} series were not reached; the same command again goes on with them", quiet=job.config.quiet)
    processed = ProcessedRun(
        recipe=job.recipe,
        limits={name: getattr(job.config, name) for name in LIMITS},
        default_series=work.default_series,
        scan=work.scan.rest,
        dropped=work.plan.dropped,
        record=work.record,
        files=[(ticket.entry.node, ticket.files) for ticket in work.tickets],
        settled=tuple(work.settled),
        receipts=tuple(receipts),
        pending=pending,
        stopped=work.stopped,
        may_write=work.store_is_ready and not work.lock_is_lost,
        input_digest=job.input_digest,
        run_dir=job.run_dir,
        labels=() if work.labels is None else tuple(work.labels.entries),
        pictures={ticket.entry.node: Path(ticket.picture) for ticket in work.todo if ticket.picture},
        nodes=partial(_nodes_of, work),
    )
    return finish_run(processed, job.keys, job.start)


def _nodes_of(work: _Work, node: str) -> SeriesNodes | None:
    place = work.nodes.get(node)
    return None if place is None else SeriesNodes.unpack(work.spool.get(place))
