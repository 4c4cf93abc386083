"""Where the calls of a run are made: in this process, or on Dask's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar

from etl.workers.fitness import Needs

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Protocol):
    """Workers that calls are spread over; see `open_pool`."""

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard; None where there is none."""

    @property
    def largest_worker_bytes(self) -> int | None:
        """Memory of the largest worker; None where nobody says, or where it is this machine's."""

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *shared: object,
        share: Callable[[Item], float],
        memory_bytes: Callable[[Item], int],
        load: Callable[[Item], object] | None = None,
    ) -> Iterator[tuple[Item, Result | None]]:
        """Call ``function(load(item), *shared)`` for every item, as workers become free.

        Parameters
        ----------
        function : callable
        items : sequence
        *shared : object
        share : callable
            What part of the largest message an item takes.
        memory_bytes : callable
            What a worker needs for an item.
        load : callable, optional
            Gives what is sent in the place of an item, when it is sent; the item itself where not given.

        Yields
        ------
        (item, result)
            In the order of completion; None where the item killed the workers that tried it.
        """


class SerialPool:
    """Makes the calls in this process, one after the other."""

    dashboard = None
    largest_worker_bytes = None

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *shared: object,
        share: Callable[[Item], float],
        memory_bytes: Callable[[Item], int],
        load: Callable[[Item], object] | None = None,
    ) -> Iterator[tuple[Item, Result | None]]:
        """See `Pool.map`."""
        for item in items:
            yield item, function(item if load is None else load(item), *shared)


@contextmanager
def open_pool(
    workers: int | Literal["auto"],
    scheduler: str | None,
    *,
    needs: Needs | None = None,
    wait_s: float = 600.0,
    quiet: bool = False,
) -> Iterator[Pool]:
    """Open the workers of a run and close them afterwards.

    Parameters
    ----------
    workers : int or "auto"
        Local processes with one thread each; "auto" is one per core that this process may use; 0 works in this
        process.
    scheduler : str or None
        Address of a running Dask scheduler to use instead, or the file that it writes.
    needs : Needs, optional
        What workers elsewhere need to get work.
    wait_s : float
        How long to wait where the scheduler has no workers.
    quiet : bool
        Do not say that they are waited for.

    Raises
    ------
    UsageError
        No scheduler answers at the address, or none of its workers can do the work.
    """
    if scheduler is None and workers == 0:
        yield SerialPool()
        return
    from etl.workers.dask_pool import local_processes, submitted_to  # noqa: PLC0415 - takes a third of a second

    with (
        local_processes(workers)
        if scheduler is None
        else submitted_to(scheduler, needs or Needs(), wait_s=wait_s, quiet=quiet) as pool
    ):
        yield pool
