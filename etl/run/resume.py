"""What is in the store already, before and after the workers have been at it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from etl.codes import FailureCode, WarningCode
from etl.entry import NOT_REACHED, Entry
from etl.process.series import Receipt
from etl.run.input_files import is_trusted
from etl.run.tickets import Ticket
from etl.store.keys import Keys
from etl.store.publish import describes_volume, is_whole, published, stored_bytes

# What a run sees of a store beside the volume; it is no property of the volume.
OF_THE_RUN = frozenset({WarningCode.SHARED_SERIES_UID})


@dataclass(frozen=True)
class Comparison:
    """Tasks by what has to be done for them."""

    todo: list[Ticket]
    """Not in the store, or out of date, or not whole."""
    to_compare: list[Ticket]
    """In the store by all that the headers say; their files do not look as they did."""
    unchanged: list[Entry]


def compare_with_store(tickets: Iterable[Ticket], keys: Keys, record: Mapping[str, str] | None) -> Comparison:
    """Tell what is in the store already, made of the same source in the same way.

    Parameters
    ----------
    tickets : iterable of Ticket
        Under the keys of the volumes that they continue.
    keys : Keys
    record : mapping or None
        What the files of each volume looked like, see `etl.run.input_files`; None: trust every file.
    """
    found = Comparison([], [], [])
    for ticket in tickets:
        attributes = _find(ticket, keys)
        if attributes is None:
            found.todo.append(ticket)
        elif record is None or is_trusted(ticket.entry.node, ticket.files, record):
            found.unchanged.append(as_unchanged(ticket.entry, attributes))
        else:
            found.to_compare.append(ticket)
    return found


def as_unchanged(entry: Entry, attributes: Mapping[str, Any]) -> Entry:
    """Give the entry of a volume that stays as it is."""
    # What the pixels showed when they were read stands in the store only.
    warnings = dict.fromkeys((*_warnings(attributes), *(code for code in entry.warnings if code in OF_THE_RUN)))
    return replace(entry, outcome="unchanged", warnings=tuple(warnings))


def account_for_all(
    tickets: Iterable[Ticket], receipts: Iterable[Receipt], keys: Keys, unproven: Container[str] = frozenset()
) -> tuple[list[Receipt], int]:
    """Give every task a receipt that says what is in the store, and the number of those that were not reached.

    A worker that died, or was stopped, may have published before it could say so.

    Parameters
    ----------
    tickets : iterable of Ticket
    receipts : iterable of Receipt
    keys : Keys
    unproven : container of str
        Nodes whose files do not look as they did: what is there may be of other pixels, and proves nothing.
    """
    by_node = {receipt.entry.node: receipt for receipt in receipts}
    accounted, pending = [], 0
    for ticket in tickets:
        receipt = by_node.get(ticket.entry.node)
        if receipt is None or receipt.entry.reason == FailureCode.WORKER_DIED:
            try:
                found = None if ticket.entry.node in unproven else _find(ticket, keys)
            except OSError:
                # The store's disk does not answer any more.
                found = None
            if found is not None:
                receipt = Receipt(_as_written(ticket.entry, found, keys))
            elif receipt is None:
                receipt = Receipt(ticket.entry.failed(FailureCode.INTERNAL_ERROR, NOT_REACHED))
                pending += 1
        accounted.append(receipt)
    return accounted, pending


def _find(ticket: Ticket, keys: Keys) -> dict[str, Any] | None:
    """Give the attributes of the published volume of a task; None where it is not there whole, or out of date."""
    node = ticket.entry.node
    found = published(keys, node) or {}
    about = found.get("ct_etl")
    provenance = about.get("provenance") if isinstance(about, Mapping) else None
    if not isinstance(provenance, Mapping):
        return None
    digests = provenance.get("source_digest"), provenance.get("config_digest")
    is_current = digests == (ticket.source_digest, ticket.config_digest)
    return found if is_current and describes_volume(found) and is_whole(keys, node, found) else None


def _warnings(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    quality = attributes["ct_etl"].get("qc")
    return tuple(quality.get("warnings", ())) if isinstance(quality, Mapping) else ()


def _as_written(entry: Entry, attributes: Mapping[str, Any], keys: Keys) -> Entry:
    return replace(
        entry, outcome="written", warnings=_warnings(attributes), bytes_out=stored_bytes(keys, entry.node)
    )
