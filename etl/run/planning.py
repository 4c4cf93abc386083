"""The plan of a run, part by part, by its workers: see `etl.run.spooled_scan` for why it has parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from etl.config import Config
from etl.entry import Entry
from etl.plan.plan import make_plan, refuse_shared_keys
from etl.run.spool import Spool
from etl.run.spooled_scan import SpooledScan
from etl.run.tickets import PlannedTask, Ticket, planned
from etl.scan.deidentify import Pseudonyms, deidentify_scan
from etl.scan.packed_scan import unpacked
from etl.workers.pool import Pool

MESSAGE_BYTES = 1 << 18
"""Of a message to a worker: so much that its own cost is small, so little that no worker waits for the last."""
# What is larger is planned here: to pack it again and send it would take as long.
LARGEST_MESSAGE_BYTES = 8 << 20


@dataclass(eq=False)
class RunPlan:
    """What a run will do: see `etl.plan.plan.Plan`."""

    tickets: list[Ticket] = field(default_factory=list)
    settled: list[Entry] = field(default_factory=list)
    default_series: dict[str, str] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    """Attributes that were dropped since they did not parse, and in how many stacks."""


@dataclass(frozen=True)
class PlannedPart:
    """The plan of one part of the stacks, as the worker that made it sends it."""

    tasks: tuple[PlannedTask, ...]
    settled: tuple[Entry, ...]
    default_series: dict[str, str]
    dropped: Counter[str]


def plan_run(
    scan: SpooledScan,
    config: Config,
    pool: Pool,
    spool: Spool,
    *,
    key_digest: str | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> RunPlan:
    """Decide what becomes of every stack that was found.

    Parameters
    ----------
    scan : SpooledScan
    config : Config
    pool : Pool
    spool : Spool
        Where the stacks lie, and the tasks go.
    key_digest : str, optional
        Of the key by which identifiers are replaced.
    pseudonyms : Pseudonyms, optional
        Those of that key; knows all patients afterwards.

    Raises
    ------
    UsageError
        Two patients would share one group of the store.
    """
    sizes = [sum(place.size for place in part) for part in scan.parts]
    plan = RunPlan(settled=list(make_plan(scan.rest, config, key_digest=key_digest).settled))
    tickets: dict[int, list[Ticket]] = {}

    def contents(number: int) -> tuple[bytes, ...]:
        return tuple(map(spool.get, scan.parts[number]))

    def keep(number: int, part: PlannedPart) -> None:
        tickets[number] = [task.kept(spool) for task in part.tasks]
        plan.settled += part.settled
        plan.default_series.update(part.default_series)
        plan.dropped += part.dropped

    outcomes = pool.map(
        plan_part,
        # The key of pseudonyms never leaves the driver.
        [n for n, size in enumerate(sizes) if pseudonyms is None and size <= LARGEST_MESSAGE_BYTES],
        config,
        key_digest,
        None,
        share=lambda number: sizes[number] / MESSAGE_BYTES,
        memory_bytes=lambda _: 0,
        load=contents,
    )
    for number, part in outcomes:
        if part is not None:
            keep(number, part)
    for number in range(len(sizes)):
        if number not in tickets:
            keep(number, plan_part(contents(number), config, key_digest, pseudonyms))
    # In the order of the input, not of completion.
    plan.tickets = [ticket for number in range(len(sizes)) for ticket in tickets[number]]
    refuse_shared_keys((ticket.entry.patient_id, ticket.unnamed_in) for ticket in plan.tickets)
    return plan


def plan_part(
    contents: Sequence[bytes], config: Config, key_digest: str | None, pseudonyms: Pseudonyms | None
) -> PlannedPart:
    """Plan stacks that belong together.

    Parameters
    ----------
    contents : sequence of bytes
        The packed stacks.
    config, key_digest, pseudonyms
        See `plan_run`.

    Raises
    ------
    UsageError
        Two of their patients would share one group of the store.
    """
    scan = unpacked(contents)
    if pseudonyms is not None:
        scan = deidentify_scan(scan, pseudonyms)
    dropped = Counter(keyword for stack in scan.stacks for keyword in stack.header.dropped)
    plan = make_plan(scan, config, key_digest=key_digest)
    return PlannedPart(tuple(map(planned, plan.tasks)), plan.settled, plan.default_series, dropped)
