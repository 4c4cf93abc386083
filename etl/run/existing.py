"""What the store holds already of the series of a plan, and what a run may do to it.

A run never makes a store poorer. A volume that is there keeps its key: a stack is matched with the published
volume that it has slices in common with, whatever else this run happens to see of the series. A stack that lacks
slices of its volume is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from etl.codes import FailureCode, WarningCode
from etl.entry import Entry
from etl.errors import StoreError, UsageError
from etl.plan.series_keys import first_key, further_key, last_resort_key
from etl.plan.task import SeriesTask
from etl.store.keys import Keys
from etl.store.node_names import series_digits, series_key
from etl.store.publish import describes_volume, published
from etl.store.source_map import SliceIdentity, SourceMap, read_source_map

_LOSES_SLICES = "--replace lets a series lose slices; the volume that is there stays"


@dataclass(frozen=True, eq=False)
class _Volume:
    """A published volume of a series that the plan has too."""

    keys: Keys
    node: str
    attributes: Mapping[str, Any]

    @property
    def series_key(self) -> str:
        return self.node.rpartition("/")[2]

    @cached_property
    def source(self) -> SourceMap | None:
        """The slices it was made of; None where that cannot be read any more."""
        try:
            return read_source_map(self.keys, self.node)
        except StoreError:
            return None

    @property
    def identities(self) -> frozenset[SliceIdentity]:
        return frozenset(self.source.identities if self.source else ())

    @property
    def slice_count(self) -> int:
        """Slices that it was made of, also where their map is lost."""
        if self.source is not None:
            return len(self.source.identities)
        geometry = self.attributes["ct_etl"]["geometry"]
        return int(geometry["source_shape"][geometry["slice_axis"]])

    def has_digest(self, task: SeriesTask) -> bool:
        provenance = self.attributes["ct_etl"].get("provenance")
        return isinstance(provenance, Mapping) and provenance.get("source_digest") == task.source_digest


class HasEntry(Protocol):
    """A task, or what stands for one."""

    @property
    def entry(self) -> Entry:
        """The ledger's line as far as it is known."""


Item = TypeVar("Item", bound=HasEntry)


@dataclass(frozen=True)
class Matched(Generic[Item]):
    """Tasks by what the store has of them.

    Parameters
    ----------
    fresh : list
        The store has nothing of their series at their patient.
    there : list
        Under their keys, with the other places of their series in `Entry.related`; volumes of their series are
        there.
    refused : list of Entry
        ``fewer-slices``
    """

    fresh: list[Item]
    there: list[Item]
    refused: list[Entry]


def match_store(
    items: Iterable[Item], keys: Keys, load: Callable[[Item], SeriesTask], *, may_lose_slices: bool
) -> Matched[Item]:
    """Give every task the key of the volume that it continues.

    Parameters
    ----------
    items : iterable
        Tasks, or what stands for them.
    keys : Keys
        Of the store.
    load : callable
        Gives the task for what stands for it; asked only where the store has its series.
    may_lose_slices : bool
        A volume may be replaced by one of fewer slices.

    Raises
    ------
    UsageError
        Another series, or another patient, has the group that a task needs.
    """
    index = _nodes_by_series(keys)
    found = Matched[Item]([], [], [])
    series: defaultdict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        series[item.entry.patient_key, item.entry.series_instance_uid].append(item)
    for members in series.values():
        nodes = index.get(series_digits(members[0].entry.series_key), ())
        own = {node for node in nodes for item in members if node.startswith(_stem(item.entry))}
        related = tuple(sorted(set(nodes) - own))
        if not own:
            found.fresh.extend(_with_entry(item, _related(item.entry, related)) for item in members)
            continue
        volumes = [volume for node in sorted(own) if (volume := _volume(keys, node)) is not None]
        tasks = [load(item) for item in members]
        items_of = {id(task): item for task, item in zip(tasks, members, strict=True)}
        _refuse_collisions(tasks, volumes)
        for task, key, volume in _matches(tasks, volumes):
            entry = _related(replace(task.entry, series_key=key), related)
            if not may_lose_slices and (why := _loss(task, volume, volumes)):
                found.refused.append(entry.failed(FailureCode.FEWER_SLICES, why))
            else:
                found.there.append(_with_entry(items_of[id(task)], entry))
    return found


def _nodes_by_series(keys: Keys) -> dict[str, list[str]]:
    """List every series of the store by the digits that stand for its UID; nothing is opened."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for patient in keys.groups(""):
        for series in keys.groups(patient):
            if digits := series_digits(series):
                found[digits].append(f"{patient}/{series}")
    return found


def _stem(entry: Entry) -> str:
    """Give what the nodes of all stacks of a series begin with."""
    return f"{entry.patient_key}/{series_key(entry.series_number, entry.series_instance_uid)}"


def _volume(keys: Keys, node: str) -> _Volume | None:
    """Give what is published at a node; None where nothing usable is: a task may take its place."""
    attributes = published(keys, node)
    return _Volume(keys, node, attributes) if attributes is not None and describes_volume(attributes) else None


def _refuse_collisions(members: Sequence[SeriesTask], volumes: Sequence[_Volume]) -> None:
    uid = members[0].entry.series_instance_uid
    for volume in volumes:
        stored = volume.attributes["ct_etl"].get("series_instance_uid")
        if stored != uid:
            raise UsageError(
                f"Series Instance UIDs {stored} and {uid} share the key {volume.series_key!r}; give them to "
                "separate stores"
            )


def _matches(
    members: Sequence[SeriesTask], volumes: Sequence[_Volume]
) -> list[tuple[SeriesTask, str, _Volume | None]]:
    """Pair the stacks of a series with its volumes and their keys, and give the others keys that are free."""
    waiting, free = list(members), list(volumes)
    pairs: list[tuple[SeriesTask, str, _Volume | None]] = []

    def pair(task: SeriesTask, volume: _Volume) -> None:
        waiting.remove(task)
        free.remove(volume)
        pairs.append((task, volume.series_key, volume))

    for task in members:
        same = next((volume for volume in free if volume.has_digest(task)), None)
        if same is not None:
            pair(task, same)
    # The most slices in common first: a time point that grew keeps its volume.
    shared = [(len(_identities(task) & volume.identities), task, volume) for task in waiting for volume in free]
    for count, task, volume in sorted(shared, key=lambda found: -found[0]):
        if count and task in waiting and volume in free:
            pair(task, volume)
    for task in list(waiting):
        continued = next((volume for volume in free if _continues(task, volume)), None)
        if continued is not None:
            pair(task, continued)
    taken = {volume.series_key for volume in volumes}
    for task in waiting:
        key = next(key for key in _possible_keys(task) if key not in taken)
        taken.add(key)
        pairs.append((task, key, None))
    return pairs


def _possible_keys(task: SeriesTask) -> tuple[str, ...]:
    return task.entry.series_key, first_key(task.stack), further_key(task.stack), last_resort_key(task.stack)


def _continues(task: SeriesTask, volume: _Volume) -> bool:
    """Whether a stack without a slice in common with a volume is its lost map's, or the rest of it.

    Slices over the volume's own are another pass over the region, and a volume of their own.
    """
    if volume.source is None:
        return volume.series_key == task.entry.series_key
    geometry = volume.attributes["ct_etl"]["geometry"]
    step = np.array(geometry["affine_lps"], np.float64)[:3, int(geometry["slice_axis"])]
    along_mm = task.stack.slices.position_lps_mm @ (step / np.linalg.norm(step))
    there_mm = volume.source.position_mm
    return bool(along_mm.max() < there_mm.min() or along_mm.min() > there_mm.max())


def _loss(task: SeriesTask, own: _Volume | None, volumes: Sequence[_Volume]) -> str:
    """Say what the volumes of a series would lose; nothing where they lose nothing.

    A stack may hold what is left of two time points: it then has slices of a volume beside its own.
    """
    if own is not None and own.has_digest(task):
        return ""
    if own is not None and own.source is None and len(task.stack.slices) < own.slice_count:
        return f"the store has {own.slice_count} slices of it, the input {len(task.stack.slices)}; {_LOSES_SLICES}"
    found = _identities(task)
    for volume in volumes:
        there = volume.identities
        lacking = len(there - found)
        if lacking and (volume is own or there & found):
            return (
                f"the store has {len(there)} slices of {volume.series_key}, of which the input lacks {lacking}, "
                f"missing or unreadable; {_LOSES_SLICES}"
            )
    return ""


def _identities(task: SeriesTask) -> frozenset[SliceIdentity]:
    parts = [task.stack.slices, *([task.stack.copies] if task.stack.copies is not None else [])]
    return frozenset(
        (uid, frame + 1)
        for part in parts
        for uid, frame in zip(part.sop_instance_uid.tolist(), part.frame.tolist(), strict=True)
    )


def _related(entry: Entry, nodes: tuple[str, ...]) -> Entry:
    """Name the other places where the store has the same series: a corrected number or Patient ID leaves two."""
    if not nodes:
        return entry
    warnings = (*entry.warnings, WarningCode.SHARED_SERIES_UID)
    return replace(entry, warnings=tuple(dict.fromkeys(warnings)), related=nodes)


def _with_entry(item: Item, entry: Entry) -> Item:
    # Tasks and what stands for them are dataclasses, which no protocol can say.
    return item if item.entry is entry else replace(item, entry=entry)  # type: ignore[type-var]
