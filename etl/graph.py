"""The only place that knows Dask: one task a source to scan, one task a series to process."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import dask
from distributed import CancelledError, Client, LocalCluster, as_completed
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker, NoWorkerError
from distributed.versions import VersionMismatchWarning

from etl.errors import ClusterError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")
# Enough that no worker ever waits, few enough that the scheduler's memory does not grow with the cohort.
TASKS_PER_WORKER = 4
CONNECT_TIMEOUT_S = 10
WORKER_PRELOAD = "etl.worker_preload"
# Pickled calls do not cross versions of the first, which would hang, not fail; the others decide a volume's bytes.
SAME_EVERYWHERE = (
    *("python", "dask", "distributed"),
    *("etl", "numpy", "scipy", "pydicom", "zarr", "numcodecs", "imagecodecs", "pylibjpeg"),
)
SETTINGS = {
    # What kills its worker is tried once more, but alone, when all else is done: see Pool.map.
    "distributed.scheduler.allowed-failures": 0,
    # One task on a worker at a time: those that merely wait there would be blamed for its death too.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.comm.retry.count": 3,
    "distributed.admin.system-monitor.gil.enabled": False,
}


class Pool:
    """Workers that calls are spread over; see `open_pool`.

    Parameters
    ----------
    client : Client or None
        None: calls are made here, one after the other.
    """

    def __init__(self, client: Client | None) -> None:
        self._client = client

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard."""
        return None if self._client is None else str(self._client.dashboard_link)

    def map(
        self, function: Callable[..., Result], items: Sequence[Item], *shared: object
    ) -> Iterator[tuple[Item, Result | None]]:
        """Call ``function(item, *shared)`` for every item, as workers become free.

        Yields
        ------
        (item, result)
            In the order of completion; None where the item killed the workers that tried it.
        """
        if self._client is None:
            for item in items:
                yield item, function(item, *shared)
            return
        window = TASKS_PER_WORKER * max(1, len(self._client.ncores()))
        deadly: list[Item] = []
        for item, result in self._windowed(self._client, function, items, shared, window):
            if result is None:
                deadly.append(item)
            else:
                yield item, result
        # Once more, one at a time: memory that ran out among neighbours may do for one alone.
        yield from self._windowed(self._client, function, deadly, shared, 1)

    def _windowed(
        self,
        client: Client,
        function: Callable[..., Result],
        items: Sequence[Item],
        shared: tuple[object, ...],
        window: int,
    ) -> Iterator[tuple[Item, Result | None]]:
        waiting = iter(items)
        running: dict[Any, Item] = {}
        completed = as_completed(loop=client.loop)

        def submit_next() -> None:
            for item in waiting:
                future = client.submit(function, item, *shared, pure=False)
                running[future] = item
                completed.add(future)
                return

        for _ in range(window):
            submit_next()
        try:
            while running:
                future = next(completed)
                item = running.pop(future)
                try:
                    result: Result | None = future.result()
                except (KilledWorker, NoWorkerError):
                    result = None
                except (CancelledError, CommClosedError) as error:
                    raise ClusterError("the connection to the scheduler is lost") from error
                future.release()
                submit_next()
                yield item, result
        finally:
            if client.status == "running":
                client.cancel(list(running))


@contextmanager
def open_pool(workers: int | Literal["auto"], scheduler: str | None) -> Iterator[Pool]:
    """Open the workers of a run and close them afterwards.

    Parameters
    ----------
    workers : int or "auto"
        Local processes with one thread each; "auto" is one per core; 0 works in this process.
    scheduler : str or None
        Address of a running Dask scheduler to use instead.

    Raises
    ------
    UsageError
        No scheduler answers at the address.
    """
    if scheduler is not None:
        with dask.config.set(SETTINGS), _connect(scheduler) as client:
            yield Pool(client)
        return
    if workers == 0:
        yield Pool(None)
        return
    with (
        dask.config.set({**SETTINGS, "distributed.worker.preload": [WORKER_PRELOAD]}),
        _quiet_libraries(),
        _start_local(workers) as cluster,
        Client(cluster) as client,
    ):
        yield Pool(client)


def _start_local(workers: int | Literal["auto"]) -> LocalCluster:
    # Ctrl-C on a terminal reaches every process of the group; workers are ended by this one. They inherit
    # that they ignore it, so that none of them dies with a traceback while it starts.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        return LocalCluster(
            n_workers=_cores() if workers == "auto" else workers,
            threads_per_worker=1,
            processes=True,
            # Dask listens on the machine's outer address unless told.
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            # Large arrays are the work itself; spilling or pausing at a share of memory would only stall it.
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep Dask's words about workers that come and go off the screen; what matters is told here."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
        _refuse_other_versions(client)
        yield client


def _refuse_other_versions(client: Client) -> None:
    found = cast(dict[str, Any], client.get_versions(packages=list(SAME_EVERYWHERE[3:])))
    here = found["client"]["packages"]
    for worker, node in found["workers"].items():
        there = node["packages"]
        differing = [name for name in SAME_EVERYWHERE if there.get(name) != here.get(name)]
        if differing:
            named = ", ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in differing)
            raise UsageError(f"worker {worker} differs from this process: {named}")


def _cores() -> int:
    return max(1, int(dask.system.CPU_COUNT))
