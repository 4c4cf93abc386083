"""The order of crops: another one every epoch, shared among ranks, resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.training.batches import load_torch


class Draw(NamedTuple):
    """One entry of a `CropDataset` in one epoch: each epoch draws other crops."""

    epoch: int
    entry: int


class CropSampler:
    """Give the entries of a data set in an order that depends on `seed` and epoch alone.

    Each pass is an epoch of its own; nothing has to be set. Ranks get every `num_replicas`-th entry, as many each,
    so that all ranks together see the same crops in the same order whatever their number; up to
    ``num_replicas - 1`` entries of an epoch are left out. Workers of a loader decide nothing.

    Parameters
    ----------
    dataset : sized
        A `CropDataset`.
    num_replicas, rank : int, optional
        Of distributed training; taken from `torch.distributed` where that is initialized.
    seed : int
        Not negative.
    shuffle : bool

    Raises
    ------
    UsageError
        An argument is out of its range, or there are fewer entries than ranks.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        if num_replicas is None or rank is None:
            world, own = _distributed()
            num_replicas, rank = world if num_replicas is None else num_replicas, own if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise UsageError(f"rank {rank}: allowed is 0 to {num_replicas - 1}")
        if seed < 0:
            raise UsageError(f"seed {seed}: allowed is 0 or more")
        self._count, self._ranks, self._rank = len(dataset), num_replicas, rank
        if self._count < num_replicas:
            raise UsageError(f"{self._count} entries cannot be shared among {num_replicas} ranks")
        self._seed, self._shuffle = seed, shuffle
        self._start = (0, 0)
        self._current: Draws | None = None

    def __len__(self) -> int:
        return self._count // self._ranks

    def __iter__(self) -> Draws:
        return Draws(self)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Give the entries of this rank in an epoch."""
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
        else:
            order = np.arange(self._count)
        return order[: len(self) * self._ranks][self._rank :: self._ranks]

    def state_dict(self, consumed: int | None = None) -> dict[str, int]:
        """Give where the order has come to.

        Parameters
        ----------
        consumed : int, optional
            Entries of this epoch that training has seen, on this rank. Needed behind PyTorch's own DataLoader with
            workers, which fetches ahead; `ThreadLoader` and torchdata's StatefulDataLoader count by themselves.
        """
        epoch, position = self._start if self._current is None else self._current.place
        return self.state_at(epoch, position if consumed is None else consumed)

    def state_at(self, epoch: int, position: int) -> dict[str, int]:
        """Give the state after so many entries of this rank in an epoch."""
        return {"epoch": epoch, "drawn": position * self._ranks, "entries": self._count, "seed": self._seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state with the next pass; the number of ranks may be another.

        Raises
        ------
        UsageError
            The state is of another data set or seed, or does not lie between two entries for so many ranks.
        """
        epoch, position = self.parse(state)
        self._current = None
        self._start = (epoch + 1, 0) if position >= len(self) else (epoch, position)

    def parse(self, state: dict[str, int]) -> tuple[int, int]:
        """Read epoch, and entries of this rank that are done, from a state; `UsageError` as `load_state_dict`."""
        if (state["entries"], state["seed"]) != (self._count, self._seed):
            raise UsageError(
                f"the state is of {state['entries']} entries and seed {state['seed']}; "
                f"here are {self._count} and {self._seed}"
            )
        position, rest = divmod(state["drawn"], self._ranks)
        if rest:
            raise UsageError(f"{state['drawn']} entries were drawn, which {self._ranks} ranks cannot share evenly")
        return state["epoch"], position

    def begin(self, draws: Draws, at: tuple[int, int] | None = None) -> tuple[int, int]:
        """Let a pass begin where the last one leaves off, or at a place; what comes next is the next epoch."""
        epoch, position = self._start if at is None else at
        self._start, self._current = (epoch + 1, 0), draws
        return epoch, position


class Draws(Iterator[Draw]):
    """One pass over a `CropSampler`; its epoch is fixed when the first entry is asked for."""

    def __init__(self, sampler: CropSampler) -> None:
        self._sampler = sampler
        self._place: tuple[int, int] | None = None
        self._order: NDArray[np.int64] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Epoch, and entries given."""
        return (0, 0) if self._place is None else self._place

    def __next__(self) -> Draw:
        if self._place is None:
            self._place = self._sampler.begin(self)
        epoch, position = self._place
        if self._order is None:
            self._order = self._sampler.order(epoch)
        if position >= len(self._order):
            raise StopIteration
        self._place = (epoch, position + 1)
        return Draw(epoch, int(self._order[position]))

    def state_dict(self) -> dict[str, Any]:
        """See `CropSampler.state_dict`."""
        return self._sampler.state_dict() if self._place is None else self._sampler.state_at(*self._place)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `CropSampler.load_state_dict`."""
        self._place = self._sampler.begin(self, self._sampler.parse(state))
        self._order = None


def _distributed() -> tuple[int, int]:
    """Give the number of ranks and the own rank, as PyTorch knows them; 1 and 0 where nothing is distributed."""
    distributed = load_torch().distributed
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size()), int(distributed.get_rank())
    return 1, 0
