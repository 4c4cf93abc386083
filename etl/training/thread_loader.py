"""A loader that reads in threads: decoding releases the GIL, and nothing goes from process to process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

from etl.errors import UsageError
from etl.training.batches import Example, collate, load_torch
from etl.training.sampler import CropSampler


class BatchSource(Protocol):
    """What a `ThreadLoader` reads from."""

    def __len__(self) -> int:
        """Count the entries."""

    def __getitems__(self, indices: Sequence[Any]) -> list[Example]:
        """Read several entries."""


class ThreadLoader:
    """Batches in the order of a sampler, as a DataLoader would give them, read by threads ahead of time.

    On two cores it gives half as much again as two worker processes (docs/performance.md).

    Parameters
    ----------
    dataset : CropDataset
    batch_size : int
    threads : int
        That read; 0: in the calling thread, when a batch is asked for.
    prefetch : int
        Batches that wait ready for each thread.
    pin_memory : bool
        Copy batches to pinned memory, for a GPU.
    sampler : CropSampler, optional
        Another order than ``CropSampler(dataset)``.
    drop_last : bool
        Leave out a last batch that is not full.

    Raises
    ------
    UsageError
        An argument is out of its range.
    """

    def __init__(
        self,
        dataset: BatchSource,
        batch_size: int = 1,
        threads: int = 2,
        prefetch: int = 2,
        pin_memory: bool = False,
        *,
        sampler: CropSampler | None = None,
        drop_last: bool = False,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("threads", threads, 0),
            ("prefetch", prefetch, 1),
        ):
            if value < least:
                raise UsageError(f"{name} {value}: allowed is {least} or more")
        self.dataset, self.batch_size = dataset, batch_size
        self.sampler = CropSampler(dataset) if sampler is None else sampler
        self._threads, self._ahead, self._pin = threads, threads * prefetch, pin_memory
        self._drop_last = drop_last
        self._state = self.sampler.state_dict()

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[Example]:
        """Read one epoch; the next pass is the next one."""
        batches = self._batches()
        if self._threads == 0:
            for indices, state in batches:
                yield self._handed_out(self._read(indices), state)
            return
        waiting: deque[tuple[Future[Example], dict[str, int]]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="ct-etl-loader") as pool:
            try:
                waiting.extend((pool.submit(self._read, i), state) for i, state in islice(batches, self._ahead))
                while waiting:
                    future, state = waiting.popleft()
                    batch = future.result()
                    waiting.extend((pool.submit(self._read, i), state) for i, state in islice(batches, 1))
                    yield self._handed_out(batch, state)
            finally:
                # A loop that is left early does not wait for what it will never see.
                for future, _ in waiting:
                    future.cancel()

    def state_dict(self) -> dict[str, int]:
        """Give the state after the batch that was handed out last."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch that was the last when the state was taken.

        Raises
        ------
        UsageError
            As `CropSampler.load_state_dict`.
        """
        self.sampler.load_state_dict(state)
        self._state = self.sampler.state_dict()

    def _batches(self) -> Iterator[tuple[list[Any], dict[str, int]]]:
        """Give the indices of each batch, and the state after it."""
        draws = iter(self.sampler)
        while indices := list(islice(draws, self.batch_size)):
            if len(indices) == self.batch_size or not self._drop_last:
                yield indices, draws.state_dict()

    def _read(self, indices: list[Any]) -> Example:
        batch = collate(self.dataset.__getitems__(indices))
        if self._pin:
            torch = load_torch()
            batch = {name: v.pin_memory() if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
        return batch

    def _handed_out(self, batch: Example, state: dict[str, int]) -> Example:
        self._state = state
        return batch
