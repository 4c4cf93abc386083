"""A bounded window of calls on Dask's workers, given out as workers come and go."""

from __future__ import annotations

import math
import queue
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from distributed import CancelledError, Client, Future, get_worker
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker, NoWorkerError
from distributed.system import MEMORY_LIMIT

from etl.errors import ClusterError
from etl.workers.declare_memory import MEMORY_RESOURCE
from etl.workers.fitness import Needs, unfit
from etl.workers.fleet import LOOK_EVERY_S, Fleet

Item = TypeVar("Item")
Result = TypeVar("Result")
# Enough that no worker ever waits, few enough that the scheduler's memory does not grow with the cohort.
TASKS_PER_WORKER = 4
# An adaptive cluster grows by the work that waits at its scheduler: behind one worker's share it never grew.
LEAST_WINDOW = 128
# Of this machine's memory, or of what its control group allows.
MEMORY_SHARE = 0.8
# How far ahead is looked for work that the free workers have the memory for.
LOOK_AHEAD = 1000
# A batch that workers could not even receive is given to others so many times.
MOST_TRIES = 3
# A result is fetched from the worker that has it. Where that stands still, those of others come first.
RESULT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Refusal:
    """The answer of a worker that turned out to be unfit when it had work already."""

    address: str
    why: str


class _LateError(Exception):
    """A result is there, but could not be fetched in time."""


@dataclass(eq=False)
class _Batch(Generic[Item]):
    items: tuple[Item, ...]
    need: int
    tries: int = 0
    allowed: frozenset[str] | None = None
    """Workers that it is kept to; None: any."""


class Calls(Generic[Item, Result]):
    """Calls of one function; see `windowed`.

    Parameters
    ----------
    client : Client
    function : callable
    shared : tuple
        Further arguments.
    memory_bytes : callable
        What an item needs.
    load : callable or None
        Gives what is sent in the place of an item; None: the item itself.
    needs : Needs
    fleet : Fleet or None
        None: processes of this machine, which share its memory.
    """

    def __init__(
        self,
        client: Client,
        function: Callable[..., Result],
        shared: tuple[object, ...],
        memory_bytes: Callable[[Item], int],
        load: Callable[[Item], object] | None,
        *,
        needs: Needs,
        fleet: Fleet | None,
    ) -> None:
        self._client, self._function, self._shared = client, function, shared
        self._memory_bytes, self._load = memory_bytes, load
        self._needs, self._fleet = needs, fleet
        self._budget = MEMORY_SHARE * MEMORY_LIMIT if fleet is None else math.inf
        self._local_workers = 0 if fleet else max(1, len(client.ncores()))

    def windowed(
        self, batches: Iterable[tuple[Item, ...]], *, alone: bool = False
    ) -> Iterator[tuple[tuple[Item, ...], list[Result] | None]]:
        """Call for all batches.

        Parameters
        ----------
        batches : iterable of tuple
        alone : bool
            One at a time.

        Yields
        ------
        (batch, results)
            In the order of completion; None where it killed its workers.

        Raises
        ------
        ClusterError
            The scheduler is lost, or all workers are.
        """
        waiting = deque(_Batch(items, max(map(self._memory_bytes, items))) for items in batches)
        running: dict[Future[Any], _Batch[Item]] = {}
        done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        late: deque[Future[Any]] = deque()
        try:
            while waiting or running:
                self._look(waiting, running)
                while (batch := self._next(waiting, running, alone=alone)) is not None:
                    future = self._submit(batch)
                    running[future] = batch
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=LOOK_EVERY_S)
                except queue.Empty:
                    if late:
                        done.put(late.popleft())
                    continue
                finished = running.pop(future, None)
                if finished is None:
                    continue  # taken back from a worker that had gone
                try:
                    results = self._results(future, finished)
                except _LateError:
                    running[future] = finished
                    late.append(future)
                    continue
                future.release()
                if isinstance(results, Refusal):
                    waiting.appendleft(finished)
                else:
                    yield finished.items, results
        except Exception as error:
            # A client without a scheduler raises whatever the part of it does that was at work.
            if isinstance(error, CancelledError | CommClosedError) or self._client.status != "running":
                raise ClusterError("the connection to the scheduler is lost") from error
            raise
        finally:
            if self._client.status == "running":
                self._client.cancel(list(running))

    def _look(self, waiting: deque[_Batch[Item]], running: dict[Future[Any], _Batch[Item]]) -> None:
        """See who is there; take back what lies with workers that have gone or are silent."""
        if self._fleet is None or self._client.status != "running":
            return
        held = self._fleet.look(len(waiting) + len(running))
        stranded = [
            future
            for future, batch in running.items()
            if future.key in held or (batch.allowed is not None and not batch.allowed & self._fleet.hands.keys())
        ]
        for future in stranded:
            waiting.appendleft(running.pop(future))
            self._client.cancel([future])

    def _next(
        self, waiting: deque[_Batch[Item]], running: dict[Future[Any], _Batch[Item]], *, alone: bool
    ) -> _Batch[Item] | None:
        """Take the next batch for which there is room."""
        if not waiting or (alone and running):
            return None
        if self._fleet is None:
            in_use = sum(batch.need for batch in running.values())
            is_full = len(running) >= TASKS_PER_WORKER * self._local_workers
            if is_full or (running and in_use + waiting[0].need > self._budget):
                return None
            return waiting.popleft()
        if not self._fleet.hands or len(running) >= max(LEAST_WINDOW, TASKS_PER_WORKER * self._fleet.threads):
            return None
        kept = Counter(batch.allowed for batch in running.values() if batch.allowed is not None)
        for index, batch in enumerate(islice(waiting, LOOK_AHEAD)):
            able = self._fleet.able(batch.need)
            is_kept = self._fleet.has_others or len(able) < len(self._fleet.hands)
            batch.allowed = frozenset(able) if is_kept else None
            # Dask gives what is kept to some workers to them at once, and blames all that a worker has for its
            # death: so no more than it works on.
            if batch.allowed is None or kept[batch.allowed] < sum(hand.threads for hand in able.values()):
                del waiting[index]
                return batch
        return None

    def _submit(self, batch: _Batch[Item]) -> Future[Any]:
        batch.tries += 1
        return self._client.submit(
            _call_each,
            self._function,
            batch.items if self._load is None else tuple(map(self._load, batch.items)),
            self._needs,
            *self._shared,
            pure=False,
            resources=self._resources(batch.need),
            workers=None if batch.allowed is None else sorted(batch.allowed),
        )

    def _resources(self, need: int) -> dict[str, float] | None:
        """Have Dask count the memory where a worker does several calls at once."""
        if self._fleet is None:
            return None
        hands = self._fleet.hands.values()
        if not all(hand.declares for hand in hands) or all(hand.threads == 1 for hand in hands):
            return None
        # More than any worker has would wait for ever.
        return {MEMORY_RESOURCE: min(need, max(hand.memory or 0.0 for hand in hands))}

    def _results(self, future: Future[Any], batch: _Batch[Item]) -> list[Result] | Refusal | None:
        """Give what came back; a refusal where the batch is to be given to another worker."""
        try:
            results: list[Result] | Refusal = future.result(timeout=RESULT_TIMEOUT_S)
        except KilledWorker:
            return None
        except NoWorkerError:
            return Refusal("", "")
        except (CancelledError, CommClosedError):
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and future.status != "error":
                raise _LateError from error
            # A worker that lacks the package cannot even say so.
            fleet = self._fleet
            if fleet is None or self._client.status != "running" or batch.tries >= MOST_TRIES:
                raise
            fleet.look_now()
            if fleet.has_others:
                return Refusal("", str(error))
            raise
        if isinstance(results, Refusal) and self._fleet is not None:
            self._fleet.refuse(results.address, results.why)
        return results


def _call_each(
    function: Callable[..., Result], batch: Sequence[Item], needs: Needs, *shared: object
) -> list[Result] | Refusal:
    why = unfit(needs)
    if why is not None:
        return Refusal(get_worker().address, why)
    return [function(item, *shared) for item in batch]
