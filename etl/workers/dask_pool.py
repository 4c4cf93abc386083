"""A pool of Dask's workers; only this module and `local_cluster` know Dask.

Loaded only where a run has workers: it takes as long as all else that a run in one process loads.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar, cast

import dask
from distributed import CancelledError, Client, as_completed
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker, NoWorkerError
from distributed.system import MEMORY_LIMIT
from distributed.versions import VersionMismatchWarning

from etl.errors import ClusterError, UsageError
from etl.software import SOFTWARE, refuse_other_versions
from etl.workers.local_cluster import local_cluster
from etl.workers.quiet_libraries import quiet_libraries

Item = TypeVar("Item")
Result = TypeVar("Result")
# Enough that no worker ever waits, few enough that the scheduler's memory does not grow with the cohort.
TASKS_PER_WORKER = 4
# A task of Dask's costs the driver 4 ms; where series are many, several make one task. Each worker still gets so
# many tasks that none waits long for the last.
BATCHES_PER_WORKER = 32
# Of this machine's memory, or of what its control group allows.
MEMORY_SHARE = 0.8
MEMORY_RESOURCE = "MEMORY"
CONNECT_TIMEOUT_S = 10
SETTINGS = {
    # What kills its worker is tried once more, but alone, when all else is done: see Pool.map.
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
    is_local : bool
        The workers are processes of this machine.
    """

    def __init__(self, client: Client, *, is_local: bool) -> None:
        self._client = client
        self._is_local = is_local

    @property
    def dashboard(self) -> str:
        """Address of Dask's dashboard."""
        return str(self._client.dashboard_link)

    @property
    def largest_worker_bytes(self) -> int | None:
        """See `etl.workers.pool.Pool`; None here, where an item may have all memory of the machine."""
        return None if self._is_local else _largest_worker_bytes(self._client)

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *shared: object,
        share: Callable[[Item], float],
        memory_bytes: Callable[[Item], int],
    ) -> Iterator[tuple[Item, Result | None]]:
        """Call ``function(item, *shared)`` for every item: see `etl.workers.pool.Pool.map`.

        Calls that would not fit into this machine's memory together do not run together; workers elsewhere that
        declare the resource MEMORY in bytes get what a call needs as Dask's resource. Items are put together into
        one task where they are many.
        """
        workers = max(1, len(self._client.ncores()))
        batches = _batched(items, share, len(items) // (BATCHES_PER_WORKER * workers))
        calls = _Calls(self._client, function, shared, memory_bytes, is_local=self._is_local)
        deadly: list[tuple[Item, ...]] = []
        for batch, results in calls.windowed(batches, TASKS_PER_WORKER * workers):
            if results is None:
                deadly += ((item,) for item in batch)
            else:
                yield from zip(batch, results, strict=True)
        # Once more, one at a time: memory that ran out among neighbors may do for one alone.
        for (item,), results in calls.windowed(deadly, 1):
            yield item, None if results is None else results[0]


class _Calls(Generic[Item, Result]):
    """Keeps a bounded window of calls on the cluster."""

    def __init__(
        self,
        client: Client,
        function: Callable[..., Result],
        shared: tuple[object, ...],
        memory_bytes: Callable[[Item], int],
        *,
        is_local: bool,
    ) -> None:
        self._client, self._function, self._shared, self._memory_bytes = client, function, shared, memory_bytes
        declared = () if is_local else _declared_memory(client)
        self._largest_worker = max(declared, default=0.0)
        self._budget = MEMORY_SHARE * MEMORY_LIMIT if is_local else math.inf

    def windowed(
        self, batches: Iterable[tuple[Item, ...]], window: int
    ) -> Iterator[tuple[tuple[Item, ...], list[Result] | None]]:
        waiting = deque(batches)
        running: dict[Any, tuple[tuple[Item, ...], int]] = {}
        completed = as_completed(loop=self._client.loop)

        def submit() -> None:
            in_use = sum(need for _, need in running.values())
            while waiting and len(running) < window:
                need = max(map(self._memory_bytes, waiting[0]))
                if running and in_use + need > self._budget:
                    return
                future = self._submit(waiting[0], need)
                running[future] = (waiting.popleft(), need)
                in_use += need
                completed.add(future)

        try:
            submit()
            while running:
                future = next(completed)
                batch, _ = running.pop(future)
                try:
                    results: list[Result] | None = future.result()
                except (KilledWorker, NoWorkerError):
                    results = None
                future.release()
                submit()
                yield batch, results
        except Exception as error:
            # A client without a scheduler raises whatever the part of it does that was at work.
            if isinstance(error, CancelledError | CommClosedError) or self._client.status != "running":
                raise ClusterError("the connection to the scheduler is lost") from error
            raise
        finally:
            if self._client.status == "running":
                self._client.cancel(list(running))

    def _submit(self, batch: tuple[Item, ...], need: int) -> Any:
        # More than any worker has would wait for ever.
        resources = {MEMORY_RESOURCE: min(need, self._largest_worker)} if self._largest_worker else None
        return self._client.submit(
            _call_each, self._function, batch, *self._shared, pure=False, resources=resources
        )


def _declared_memory(client: Client) -> tuple[float, ...]:
    """Give what each worker declares as resource MEMORY; nothing where one does not."""
    workers = cast(dict[str, Any], client.scheduler_info())["workers"].values()
    found = tuple(float(worker.get("resources", {}).get(MEMORY_RESOURCE, 0)) for worker in workers)
    return found if all(found) else ()


def _largest_worker_bytes(client: Client) -> int | None:
    """Give what the largest worker has: the smaller of its resource MEMORY and its memory limit; None: unknown."""
    largest = 0.0
    for worker in cast(dict[str, Any], client.scheduler_info())["workers"].values():
        resources = worker.get("resources") or {}
        bounds = [float(bound) for bound in (resources.get(MEMORY_RESOURCE), worker.get("memory_limit")) if bound]
        if not bounds:
            return None
        largest = max(largest, min(bounds))
    return int(largest) or None


def _call_each(function: Callable[..., Result], batch: Sequence[Item], *shared: object) -> list[Result]:
    return [function(item, *shared) for item in batch]


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
def submitted_to(scheduler: str) -> Iterator[DaskPool]:
    """Use a running scheduler.

    Parameters
    ----------
    scheduler : str
        Its address.

    Raises
    ------
    UsageError
        No scheduler answers there, it has no workers, or they have other versions.
    """
    with dask.config.set(SETTINGS), quiet_libraries(), _connect(scheduler) as client:
        yield DaskPool(client, is_local=False)


@contextmanager
def local_processes(workers: int | Literal["auto"]) -> Iterator[DaskPool]:
    """Start processes with one thread each, and end them afterwards: see `etl.workers.local_cluster`.

    Parameters
    ----------
    workers : int or "auto"
        "auto" is one per core.

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
        yield DaskPool(client, is_local=True)


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    try:
        with warnings.catch_warnings():
            # Said below in one line, and as an error.
            warnings.simplefilter("ignore", VersionMismatchWarning)
            client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(f"scheduler {address!r} does not answer: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except TimeoutError as error:
            raise UsageError(f"scheduler {address!r} has no workers") from error
        refuse_other_versions(cast(dict[str, Any], client.get_versions(packages=list(SOFTWARE))))
        yield client
