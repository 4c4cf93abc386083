"""What the driver keeps of a task: who it is, and where the rest lies.

A task of 8 slices takes 25 kB of Python objects, and one of 500 slices 200 kB; a run of a hundred thousand series
has all of them waiting. So they wait packed in a spool, and are unpacked by the worker that does the work.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from etl.entry import Entry
from etl.plan.task import SeriesTask
from etl.run.input_files import FilesSeen, files_seen
from etl.run.spool import Place, Spool

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PackedTask:
    """A task on its way: to the driver as it was planned, to a worker as the driver has settled it."""

    content: bytes
    entry: Entry
    picture: str | None = None

    def unpacked(self) -> SeriesTask:
        """Give the task."""
        # Packed by `planned`, in this process or in a worker of the run.
        task: SeriesTask = pickle.loads(zlib.decompress(self.content))  # noqa: S301
        return replace(task, entry=self.entry, picture=self.picture)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the driver knows of a task.

    Parameters
    ----------
    entry : Entry
        The ledger's line as far as it is known.
    place : Place
        Where the `PackedTask.content` lies.
    source_digest, config_digest : str
        What the published volume is compared with.
    bytes_in, memory_bytes : int
    files : FilesSeen
        What its files looked like when they were scanned.
    unnamed_in : tuple of str
        See `etl.plan.task.SeriesTask` for this one and the two above.
    picture : str, optional
        File for the report's picture.
    """

    entry: Entry
    place: Place
    source_digest: str
    config_digest: str
    bytes_in: int
    memory_bytes: int
    files: FilesSeen
    unnamed_in: tuple[str, ...] = ()
    picture: str | None = None

    def load(self, spool: Spool) -> PackedTask:
        """Give the task as it travels."""
        return PackedTask(spool.get(self.place), self.entry, self.picture)


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task as the worker that planned it sends it: a ticket that has no place yet, and what goes there."""

    ticket: Ticket
    content: bytes

    def kept(self, spool: Spool) -> Ticket:
        """Put the task into a spool, and give the ticket for it."""
        return replace(self.ticket, place=spool.put(self.content))


def planned(task: SeriesTask) -> PlannedTask:
    """Pack a task."""
    ticket = Ticket(
        entry=task.entry,
        place=Place(0, 0),
        source_digest=task.source_digest,
        config_digest=task.config_digest,
        bytes_in=task.bytes_in,
        memory_bytes=task.memory_bytes,
        files=files_seen(task),
        unnamed_in=task.unnamed_in,
    )
    return PlannedTask(ticket, zlib.compress(pickle.dumps(task, pickle.HIGHEST_PROTOCOL), 1))


def with_task(packed: PackedTask, function: Callable[..., Result], *shared: Any) -> Result:
    """Unpack a task where the work is done, and call a function with it."""
    return function(packed.unpacked(), *shared)
