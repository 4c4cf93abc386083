"""What is in the store already, before and after the workers have been at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from etl.codes import FailureCode
from etl.entry import Entry
from etl.plan.plan import Plan, SeriesTask
from etl.process.series import Receipt
from etl.store.keys import Keys
from etl.store.publish import is_whole, published, stored_bytes


def split_unchanged(plan: Plan, keys: Keys | None) -> tuple[list[SeriesTask], list[Entry]]:
    """Tell what is in the store already, made of the same source in the same way."""
    todo, unchanged = [], []
    for task in plan.tasks:
        found = None if keys is None else _find(task, keys)
        if found is None:
            todo.append(task)
        else:
            # What the pixels showed when they were read stands in the store only.
            unchanged.append(replace(task.entry, outcome="unchanged", warnings=_warnings(found)))
    return todo, unchanged


def account_for_all(tasks: list[SeriesTask], receipts: list[Receipt], keys: Keys) -> tuple[list[Receipt], int]:
    """Give every task a receipt that says what is in the store, and the number of those that were not reached.

    A worker that died, or was stopped, may have published before it could say so.
    """
    by_node = {receipt.entry.node: receipt for receipt in receipts}
    accounted, pending = [], 0
    for task in tasks:
        receipt = by_node.get(task.entry.node)
        if receipt is None or receipt.entry.reason == FailureCode.WORKER_DIED:
            found = _find(task, keys)
            if found is not None:
                receipt = Receipt(_as_written(task.entry, found, keys))
            elif receipt is None:
                detail = "not reached: the run was stopped before it; the next run goes on here"
                receipt = Receipt(task.entry.failed(FailureCode.INTERNAL_ERROR, detail))
                pending += 1
        accounted.append(receipt)
    return accounted, pending


def _find(task: SeriesTask, keys: Keys) -> dict[str, Any] | None:
    """Give the attributes of the published volume of a task; None where it is not there whole, or out of date."""
    found = published(keys, task.entry.node) or {}
    provenance = found.get("ct_etl", {}).get("provenance", {})
    digests = provenance.get("source_digest"), provenance.get("config_digest")
    is_current = digests == (task.source_digest, task.config_digest) and is_whole(keys, task.entry.node)
    return found if is_current else None


def _warnings(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(attributes["ct_etl"]["qc"]["warnings"])


def _as_written(entry: Entry, attributes: Mapping[str, Any], keys: Keys) -> Entry:
    return replace(
        entry, outcome="written", warnings=_warnings(attributes), bytes_out=stored_bytes(keys, entry.node)
    )
