"""What the store holds already of the series of a plan, and what a run may do to it.

A run never makes a store poorer. A volume that is there keeps its key: a stack is matched with the published
volume that it has slices in common with, whatever else this run happens to see of the series. A stack that lacks
slices of its volume is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from etl.codes import FailureCode, WarningCode
from etl.entry import Entry
from etl.errors import StoreError, UsageError
from etl.plan.series_keys import first_key, further_key, last_resort_key
from etl.plan.task import SeriesTask
from etl.store.keys import Keys
from etl.store.node_names import series_digits
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


def match_store(
    tasks: Sequence[SeriesTask], keys: Keys, *, may_lose_slices: bool
) -> tuple[list[SeriesTask], list[Entry]]:
    """Give every task the key of the volume that it continues.

    Parameters
    ----------
    tasks : sequence of SeriesTask
    keys : Keys
        Of the store.
    may_lose_slices : bool
        A volume may be replaced by one of fewer slices.

    Returns
    -------
    list of SeriesTask
        Those that may be processed, under their keys, with the other places of their series in
        `Entry.related`.
    list of Entry
        The refused: ``fewer-slices``.

    Raises
    ------
    UsageError
        Another series, or another patient, has the group that a task needs.
    """
    index = _nodes_by_series(keys)
    series: defaultdict[tuple[str, str], list[SeriesTask]] = defaultdict(list)
    for task in tasks:
        series[task.entry.patient_key, task.entry.series_instance_uid].append(task)
    matched: list[SeriesTask] = []
    refused: list[Entry] = []
    for members in series.values():
        nodes = index.get(series_digits(members[0].entry.series_key), ())
        own = {node for node in nodes for task in members if node.startswith(_stem(task))}
        volumes = [volume for node in sorted(own) if (volume := _volume(keys, node)) is not None]
        _refuse_collisions(members, volumes)
        related = tuple(sorted(set(nodes) - own))
        for task, volume in _matches(members, volumes):
            placed = _related(task, related)
            if not may_lose_slices and (why := _loss(task, volume, volumes)):
                refused.append(placed.entry.failed(FailureCode.FEWER_SLICES, why))
            else:
                matched.append(placed)
    return matched, refused


def check_patient_groups(tasks: Iterable[SeriesTask], keys: Keys) -> None:
    """Refuse a patient whose group in the store belongs to another one.

    Raises
    ------
    UsageError
        Another Patient ID has the group, or its name differs in case alone: file systems of Windows and macOS
        hold "a" and "A" in one folder.
    """
    there = {name.lower(): name for name in keys.groups("")}
    for key, patient_id in sorted({(task.entry.patient_key, task.entry.patient_id) for task in tasks}):
        other = there.get(key.lower(), key)
        if other != key:
            raise UsageError(
                f"group {key!r} of a patient differs in case alone from {other!r}, which the store has; give them "
                "to separate stores"
            )
        stored = _stored_patient_id(keys, key) if other in there.values() else None
        if stored is not None and stored != patient_id:
            raise UsageError(
                f"Patient IDs {stored!r} and {patient_id!r} would share group {key!r} of the store, which has the "
                "first; give them to separate stores"
            )


def _stored_patient_id(keys: Keys, patient_key: str) -> str | None:
    """Patient ID of a group as its series have it: the patient's own metadata are written when a run ends."""
    for series in keys.groups(patient_key):
        found = (published(keys, f"{patient_key}/{series}") or {}).get("ct_etl")
        if isinstance(found, Mapping) and isinstance(found.get("patient_id"), str):
            return str(found["patient_id"])
    return None


def _nodes_by_series(keys: Keys) -> dict[str, list[str]]:
    """List every series of the store by the digits that stand for its UID; nothing is opened."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for patient in keys.groups(""):
        for series in keys.groups(patient):
            if digits := series_digits(series):
                found[digits].append(f"{patient}/{series}")
    return found


def _stem(task: SeriesTask) -> str:
    """Give what the nodes of all stacks of a task's series begin with."""
    return f"{task.entry.patient_key}/{first_key(task.stack)}"


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


def _matches(members: Sequence[SeriesTask], volumes: Sequence[_Volume]) -> list[tuple[SeriesTask, _Volume | None]]:
    """Pair the stacks of a series with its volumes, and give the others keys that are free."""
    waiting, free = list(members), list(volumes)
    pairs: list[tuple[SeriesTask, _Volume | None]] = []

    def pair(task: SeriesTask, volume: _Volume) -> None:
        waiting.remove(task)
        free.remove(volume)
        pairs.append((_under(task, volume.series_key), volume))

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
        pairs.append((_under(task, key), None))
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


def _under(task: SeriesTask, series_key: str) -> SeriesTask:
    return replace(task, entry=replace(task.entry, series_key=series_key))


def _related(task: SeriesTask, nodes: tuple[str, ...]) -> SeriesTask:
    """Name the other places where the store has the same series: a corrected number or Patient ID leaves two."""
    if not nodes:
        return task
    warnings = (*task.entry.warnings, WarningCode.SHARED_SERIES_UID)
    return replace(task, entry=replace(task.entry, warnings=tuple(dict.fromkeys(warnings)), related=nodes))
