"""What is in the store already, before and after the workers have been at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from etl.codes import FailureCode
from etl.entry import Entry
from etl.plan.plan import Plan, SeriesTask
from etl.process.series import Receipt
from etl.store.writer import StoreWriter


def split_unchanged(plan: Plan, writer: StoreWriter | None) -> tuple[list[SeriesTask], list[Entry]]:
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


def account_for_all(
    tasks: list[SeriesTask], receipts: list[Receipt], writer: StoreWriter
) -> tuple[list[Receipt], int]:
    """Give every task a receipt that says what is in the store, and the number of those that were not reached.

    A worker that died, or was stopped, may have published before it could say so.
    """
    by_key = {(r.entry.patient_key, r.entry.series_key): r for r in receipts}
    accounted, pending = [], 0
    for task in tasks:
        receipt = by_key.get((task.entry.patient_key, task.entry.series_key))
        if receipt is None or receipt.entry.reason == FailureCode.WORKER_DIED:
            published = _find(task, writer)
            if published is not None:
                receipt = Receipt(_as_written(task.entry, published, writer))
            elif receipt is None:
                detail = "not reached: the run was stopped before it; the next run goes on here"
                receipt = Receipt(task.entry.failed(FailureCode.INTERNAL_ERROR, detail))
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
