"""Tasks that no worker has the memory for: told from the plan, before one dies of it."""

from __future__ import annotations

from collections.abc import Sequence

from etl.errors import SeriesError
from etl.plan.checks import check_worker
from etl.plan.task import SeriesTask
from etl.process.series import Receipt


def part_too_large(
    tasks: Sequence[SeriesTask], largest_worker_bytes: int | None
) -> tuple[list[SeriesTask], list[Receipt]]:
    """Part the tasks that a worker has the memory for from the rest, which failed.

    Parameters
    ----------
    tasks : sequence of SeriesTask
    largest_worker_bytes : int or None
        See `etl.workers.pool.Pool`.
    """
    fit: list[SeriesTask] = []
    receipts: list[Receipt] = []
    for task in tasks:
        try:
            check_worker(task.memory_bytes, largest_worker_bytes)
        except SeriesError as error:
            receipts.append(Receipt(task.entry.failed(error.code, str(error))))
        else:
            fit.append(task)
    return fit, receipts
