"""Tasks that no worker has the memory for: told from the plan, before one dies of it."""

from __future__ import annotations

from collections.abc import Sequence

from etl.errors import SeriesError
from etl.plan.checks import check_worker
from etl.process.series import Receipt
from etl.run.tickets import Ticket


def part_too_large(
    tickets: Sequence[Ticket], largest_worker_bytes: int | None
) -> tuple[list[Ticket], list[Receipt]]:
    """Part the tasks that a worker has the memory for from the rest, which failed.

    Parameters
    ----------
    tickets : sequence of Ticket
    largest_worker_bytes : int or None
        See `etl.workers.pool.Pool`.
    """
    fit: list[Ticket] = []
    receipts: list[Receipt] = []
    for ticket in tickets:
        try:
            check_worker(ticket.memory_bytes, largest_worker_bytes)
        except SeriesError as error:
            receipts.append(Receipt(ticket.entry.failed(error.code, str(error))))
        else:
            fit.append(ticket)
    return fit, receipts
