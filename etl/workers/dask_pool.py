"""A pool of Dask's workers; only this package knows Dask.

Loaded only where a run has workers: it takes as long as all else that a run in one process loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Literal, TypeVar

import dask
from distributed import Client

from etl.errors import ClusterError
from etl.software import versions_here
from etl.workers.calls import Calls
from etl.workers.connect import connected, dashboard_of
from etl.workers.fitness import Needs
from etl.workers.fleet import Fleet
from etl.workers.local_cluster import local_cluster
from etl.workers.quiet_libraries import quiet_libraries

Item = TypeVar("Item")
Result = TypeVar("Result")
# A task of Dask's costs the driver 4 ms; where series are many, several make one task. Each worker still gets so
# many tasks that none waits long for the last.
BATCHES_PER_WORKER = 32
# A cluster may grow: batches are cut for so many from the start.
LIKELY_WORKERS = 16
SETTINGS = {
    # What kills its worker is tried once more, but alone, when all else is done: see `DaskPool.map`.
    "distributed.scheduler.allowed-failures": 0,
    # One task on a worker at a time: those that merely wait there would be blamed for its death too.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.comm.retry.count": 3,
    "distributed.admin.system-monitor.gil.enabled": False,
}


class DaskPool:
    """An `etl.workers.pool.Pool` whose calls are Dask tasks.

    Parameters
    ----------
    client : Client
    needs : Needs, optional
        What its workers need.
    fleet : Fleet, optional
        Its workers, where they are elsewhere; left out, they are processes of this machine.
    """

    def __init__(self, client: Client, *, needs: Needs | None = None, fleet: Fleet | None = None) -> None:
        self._client, self._needs, self._fleet = client, needs or Needs(), fleet

    @property
    def dashboard(self) -> str:
        """Where Dask's dashboard answers."""
        return str(self._client.dashboard_link) if self._fleet is None else dashboard_of(self._client)

    @property
    def largest_worker_bytes(self) -> int | None:
        """See `etl.workers.pool.Pool`; None here, where an item may have all memory of the machine."""
        return None if self._fleet is None else self._fleet.largest_bytes

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *shared: object,
        share: Callable[[Item], float],
        memory_bytes: Callable[[Item], int],
        load: Callable[[Item], object] | None = None,
    ) -> Iterator[tuple[Item, Result | None]]:
        """Call ``function(load(item), *shared)`` for every item: see `etl.workers.pool.Pool.map`.

        Calls that would not fit into this machine's memory together do not run together; workers elsewhere get
        what they have the memory for. Items are put together into one task where they are many.
        """
        workers = (
            max(1, len(self._client.ncores())) if self._fleet is None else max(LIKELY_WORKERS, self._fleet.threads)
        )
        batches = _batched(items, share, len(items) // (BATCHES_PER_WORKER * workers))
        calls = Calls(self._client, function, shared, memory_bytes, load, needs=self._needs, fleet=self._fleet)
        deadly: list[tuple[Item, ...]] = []
        for batch, results in calls.windowed(batches):
            if results is None:
                deadly += ((item,) for item in batch)
            else:
                yield from zip(batch, results, strict=True)
        # Once more, one at a time: memory that ran out among neighbors may do for one alone.
        for (item,), results in calls.windowed(deadly, alone=True):
            yield item, None if results is None else results[0]


def _batched(items: Sequence[Item], share: Callable[[Item], float], most: int) -> Iterator[tuple[Item, ...]]:
    """Put neighbors together, at most so many and not beyond one whole message."""
    batch: list[Item] = []
    filled = 0.0
    for item in items:
        part = share(item)
        if batch and (len(batch) >= most or filled + part > 1):
            yield tuple(batch)
            batch, filled = [], 0.0
        batch.append(item)
        filled += part
    if batch:
        yield tuple(batch)


@contextmanager
def submitted_to(scheduler: str, needs: Needs, *, wait_s: float, quiet: bool) -> Iterator[DaskPool]:
    """Use a running scheduler.

    Parameters
    ----------
    scheduler : str
        Its address, or its file.
    needs : Needs
        What its workers need to get work.
    wait_s : float
        How long to wait where it has none.
    quiet : bool
        Say only what went wrong.

    Raises
    ------
    UsageError
        No scheduler answers there, or none of its workers can do the work.
    """
    with dask.config.set(SETTINGS), quiet_libraries(), connected(scheduler) as client:
        needs = replace(needs, versions=tuple(versions_here().items()))
        with closing(Fleet(client, needs, wait_s=wait_s, quiet=quiet)) as fleet:
            try:
                fleet.wait()
            except (OSError, TimeoutError) as error:
                raise ClusterError("the connection to the scheduler is lost") from error
            yield DaskPool(client, needs=needs, fleet=fleet)


@contextmanager
def local_processes(workers: int | Literal["auto"]) -> Iterator[DaskPool]:
    """Start processes with one thread each, and end them afterwards: see `etl.workers.local_cluster`.

    Parameters
    ----------
    workers : int or "auto"
        "auto" is one per core that this process may use.

    Raises
    ------
    ClusterError
        They do not start.
    """
    with (
        dask.config.set(SETTINGS),
        quiet_libraries(),
        local_cluster(workers) as cluster,
        Client(cluster, timeout="60s") as client,
    ):
        yield DaskPool(client)
