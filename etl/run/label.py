"""Masks onto the volumes of a store: survey, find, place, publish. Whatever ends it, a ledger is left."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etl.buckets.urls import local_stand_in
from etl.codes import FailureCode, LabelCode
from etl.config import Config
from etl.errors import ClusterError, DiskFullError, StoreError, UsageError
from etl.labels.find import MappedTo, StoreIndex, mapped_to, read_mapping
from etl.labels.label_entry import LabelEntry
from etl.labels.label_series import LabelTask, is_done, label_series
from etl.labels.names import name_apart
from etl.labels.source_mask import LabelError
from etl.labels.survey import Source, Survey, find_masks, survey
from etl.run.ledger import LEDGER_NAME, TOTALS_NAME, count_labels, write_label_ledger
from etl.run.run_dir import check_run_dir, new_label_dir
from etl.scan.deidentify import Pseudonyms, read_key
from etl.store.durable import write_durably
from etl.store.finish import finish_store
from etl.store.keys import Keys, open_keys, resolve_store
from etl.store.layout import METADATA
from etl.store.lock import Lock, store_lock
from etl.store.metadata import ct_etl_attributes, parsed
from etl.store.node_names import label_key
from etl.store.root import withdraw_consolidated
from etl.workers.pool import Pool, open_pool
from etl.workers.progress import metered
from etl.workers.stop_signals import stop_signals

DEFAULT_NAMES = {"seg": "seg", "rtstruct": "rtstruct", "nifti": "mask", "nrrd": "mask"}
STOPS = (KeyboardInterrupt, ClusterError, DiskFullError, StoreError, OSError)


@dataclass(frozen=True)
class LabelOptions:
    """Options of ``ct-etl label``; those of the same name are `Config`'s."""

    mapping: str | None = None
    name: str | None = None
    config: Config = field(default_factory=lambda: Config(native=True))


@dataclass(eq=False)
class LabelRun:
    """How far a run of labels has come."""

    entries: list[LabelEntry] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    stopped: BaseException | None = None
    totals: dict[str, Any] = field(default_factory=dict)

    @property
    def has_failures(self) -> bool:
        """Whether a mask did not become a label."""
        return any(entry.outcome == "failed" for entry in self.entries)


def label(store_path: str, sources: Sequence[str], options: LabelOptions) -> LabelRun:
    """Put masks onto the volumes that they were drawn on.

    Parameters
    ----------
    store_path : str
    sources : sequence of str
        Files, and folders that are searched for them.
    options : LabelOptions

    Raises
    ------
    UsageError
        The sources, the store or the options cannot be used as given; nothing was written.
    """
    start, config = time.monotonic(), options.config
    store_path = resolve_store(store_path)
    keys = open_keys(store_path)
    recipe = recipe_of(keys)
    pseudonyms = pseudonyms_of(config.deidentify, recipe)
    run_dir = new_label_dir(store_path, config)
    check_run_dir(run_dir, local_stand_in(store_path))
    found = find_masks(sources)
    mapping = read_mapping(os.path.expanduser(options.mapping)) if options.mapping else {}
    run = LabelRun()
    with stop_signals() as signals, store_lock(store_path) as lock:
        try:
            keys.clear_leftovers()
            with open_pool(config.workers, config.scheduler) as pool:
                label_all(run, found.sources, keys, pool, lock, pseudonyms, mapping, options)
            lock.check()
        except STOPS as stopped:
            run.stopped = stopped
        with signals.held():
            damaged: list[str] = []
            if not isinstance(run.stopped, StoreError):
                _, damaged = finish_store(keys, recipe, {})
            run.totals = {
                **count_labels(run.entries),
                "ignored_files": found.ignored_files,
                "seconds": round(time.monotonic() - start, 3),
                "store": keys.path,
                "run_dir": str(run_dir),
                "interrupted": run.stopped is not None,
                "damaged": damaged,
            }
            write_label_ledger(run_dir / LEDGER_NAME, run.entries)
            text = f"{json.dumps(run.totals, indent=2, ensure_ascii=False)}\n"
            write_durably(run_dir / TOTALS_NAME, text.encode("utf-8", "backslashreplace"))
            if run.tracebacks:
                (run_dir / "tracebacks.txt").write_text("\n".join(run.tracebacks), "utf-8", "backslashreplace")
    if run.stopped is not None and not isinstance(run.stopped, KeyboardInterrupt):
        raise run.stopped
    return run


def recipe_of(keys: Keys) -> Mapping[str, Any]:
    """Give the configuration that a store was written with.

    Raises
    ------
    UsageError
        There is no store, or its configuration is lost.
    """
    recipe = ct_etl_attributes(parsed(keys.get(METADATA)) or {}).get("config")
    if not isinstance(recipe, dict):
        raise UsageError(f"no ct-etl store at {keys.path!r}; ct-etl run makes one")
    return recipe


def pseudonyms_of(key_file: str | None, recipe: Mapping[str, Any]) -> Pseudonyms | None:
    """Read the key of a de-identified store.

    Raises
    ------
    UsageError
        The store needs a key that is not given, or another one, or none.
    """
    pseudonyms = Pseudonyms(read_key(os.path.expanduser(key_file))) if key_file else None
    given = pseudonyms.key_digest if pseudonyms else None
    if given != recipe.get("deidentify"):
        there = "with the key that it was written with" if recipe.get("deidentify") else "without a key"
        raise UsageError(f"--deidentify: the store was written {there}")
    return pseudonyms


def label_all(
    run: LabelRun,
    sources: Sequence[Source],
    keys: Keys,
    pool: Pool,
    lock: Lock,
    pseudonyms: Pseudonyms | None,
    mapping: Mapping[str, MappedTo],
    options: LabelOptions,
) -> None:
    """Survey the sources, find their series, and place what is new or changed; `run` says how far it came."""
    config = options.config
    surveys = dict(pool.map(survey, sources, share=lambda _: 0.01, memory_bytes=lambda _: 0))
    index = StoreIndex(keys, pseudonyms)
    tasks: list[LabelTask] = []
    for source in sources:
        found = surveys.get(source)
        mapped = mapped_to(mapping, source)
        try:
            if not isinstance(found, Survey):
                raise found or LabelError(LabelCode.UNREADABLE_MASK, "the worker died while reading its header")
            for series in index.find(source, found.references, mapped):
                source_id = index.uid(found.references.source_id)
                hidden = None if pseudonyms is None else (*found.words, *_stem_words(source))
                name = label_key((mapped.name if mapped else "") or options.name or DEFAULT_NAMES[source.kind])
                patient_id = str(series.about["patient_id"])
                tasks.append(LabelTask(source, found.digest, source_id, patient_id, series.node, name, hidden))
        except LabelError as error:
            run.entries.append(LabelEntry(source.path, source.kind).failed(error.code, str(error)))
    todo = []
    attributes = {series.node: series.attributes for series in index.series}
    for task in name_apart(tasks, keys):
        names = is_done(keys, task, attributes[task.node])
        if names:
            run.entries.append(_unchanged(task, names))
        else:
            todo.append(task)
    if todo:
        withdraw_consolidated(keys)
        _place_all(run, todo, keys, pool, lock, config)


def _place_all(
    run: LabelRun, todo: Sequence[LabelTask], keys: Keys, pool: Pool, lock: Lock, config: Config
) -> None:
    # Two masks of one series list their labels in one group: they are placed one after the other.
    by_node: dict[str, list[LabelTask]] = {}
    for task in todo:
        by_node.setdefault(task.node, []).append(task)
    done: set[LabelTask] = set()
    try:
        with metered("labels", len(todo), quiet=config.quiet) as meter:
            outcomes = pool.map(
                _place_each,
                [tuple(tasks) for tasks in by_node.values()],
                keys.path,
                lock.token,
                config.time_limit_s,
                share=lambda tasks: 0.01 * len(tasks),
                memory_bytes=lambda _: 0,
            )
            for tasks, receipts in outcomes:
                for number, task in enumerate(tasks):
                    receipt = receipts[number] if receipts else None
                    entry = (
                        receipt.entry
                        if receipt
                        else task.entry.failed(
                            FailureCode.WORKER_DIED, "the worker process died twice while at this mask"
                        )
                    )
                    run.entries.append(entry)
                    done.add(task)
                    meter.advance(failed=entry.outcome == "failed")
                    if receipt and receipt.traceback:
                        run.tracebacks.append(f"{entry.source}\n{receipt.traceback}")
                    if receipt and receipt.disk_is_full:
                        raise DiskFullError(entry.detail or "")
    finally:
        run.entries += [
            task.entry.failed(FailureCode.INTERNAL_ERROR, "the run was stopped before this mask")
            for task in todo
            if task not in done
        ]


def _place_each(tasks: tuple[LabelTask, ...], store_path: str, token: str, limit_s: float) -> list[Any]:
    return [label_series(task, store_path, token, limit_s) for task in tasks]


def _stem_words(source: Source) -> tuple[str, ...]:
    return (source.stem.lower(),) if source.kind in ("nifti", "nrrd") and len(source.stem) > 2 else ()


def _unchanged(task: LabelTask, names: tuple[str, ...]) -> LabelEntry:
    entry = task.entry
    return LabelEntry(entry.source, entry.kind, entry.patient_id, entry.node, names, "unchanged")
