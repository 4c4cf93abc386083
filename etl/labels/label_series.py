"""One mask onto one series, file to store, in one process."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from etl.codes import FailureCode
from etl.digests import json_digest
from etl.errors import DiskFullError, SeriesError, StoreError, UsageError
from etl.labels.label_entry import LabelEntry
from etl.labels.placing import Placed, place_mask
from etl.labels.source_mask import LabelError
from etl.labels.survey import Source, read_mask
from etl.software import software_versions
from etl.store.keys import Keys, open_keys
from etl.store.label_encoding import Segment, encode_label
from etl.store.labels import inner_chunk, publish_label, published_labels
from etl.store.layout import LABEL_ARRAY, LABELS
from etl.store.lock import is_held
from etl.store.publish import published
from etl.store.source_map import read_source_map
from etl.volume.patient_space import Geometry
from etl.workers.time_limit import GivenUp, TimeLimit

PLACING = 2
"""Counts up where the same source on the same grid gives other voxels than before."""
HIDDEN_NAME = "segment {}"


@dataclass(frozen=True)
class LabelTask:
    """One unit of work.

    Parameters
    ----------
    source : Source
    source_digest, source_id : str
        SHA-256 of the file, and what two versions of one source have in common.
    patient_id, node : str
        Of the series.
    name : str
        Of the first array; further ones have ``-2``, ``-3`` … behind it.
    hidden_words : tuple of str, optional
        Lower-case words that no name of a segment may hold; None where the store is not de-identified.
    """

    source: Source
    source_digest: str
    source_id: str
    patient_id: str
    node: str
    name: str
    hidden_words: tuple[str, ...] | None = None

    @property
    def entry(self) -> LabelEntry:
        """The ledger's line as far as it is known."""
        return LabelEntry(self.source.path, self.source.kind, self.patient_id, self.node, (self.name,))


@dataclass(frozen=True)
class LabelReceipt:
    """What a worker sends back."""

    entry: LabelEntry
    traceback: str | None = None
    disk_is_full: bool = False


def config_digest() -> str:
    """Give the digest of what decides a label beside its source and its grid."""
    return json_digest({"placing": PLACING})


def is_done(keys: Keys, task: LabelTask, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the names of the label's arrays where all are there as they would be written; empty where not."""
    geometry = Geometry.from_attributes(attributes["ct_etl"]["geometry"])
    wanted = (task.source_digest, config_digest(), geometry.grid_digest)
    there = published_labels(keys, task.node)
    first = there.get(task.name, {})
    names = layer_names(task.name, int(first.get("layers", 1)))
    for name in names:
        found = there.get(name, {})
        if tuple(found.get(key) for key in ("source_digest", "config_digest", "grid_digest")) != wanted:
            return ()
        wanted_keys = LABEL_ARRAY.metadata_key, LABEL_ARRAY.chunk_key
        sizes = keys.sizes(f"{task.node}/{LABELS}/{name}", wanted_keys)
        if not all(sizes.get(key) for key in wanted_keys):
            return ()
    return names


def layer_names(name: str, count: int) -> tuple[str, ...]:
    """Give the names of the arrays of one source.

    Examples
    --------
    >>> layer_names("organs", 3)
    ('organs', 'organs-2', 'organs-3')
    """
    return (name, *(f"{name}-{n}" for n in range(2, count + 1)))


def label_series(task: LabelTask, store_path: str, lock_token: str, limit_s: float) -> LabelReceipt:
    """Put one mask onto one series; never raises for what a mask can do.

    Parameters
    ----------
    task : LabelTask
    store_path : str
    lock_token : str
        `StoreLock.token` of the run.
    limit_s : float
        Longest time for it.

    Raises
    ------
    UsageError
        A library for its kind is not installed.
    """
    start = time.perf_counter()
    try:
        with TimeLimit[LabelEntry](limit_s) as caller:
            receipt = LabelReceipt(caller.call(partial(_write, task, store_path, lock_token)))
    except LabelError as error:
        receipt = LabelReceipt(task.entry.failed(error.code, str(error)))
    except MemoryError:
        receipt = LabelReceipt(task.entry.failed(FailureCode.TOO_LARGE, "the worker's memory did not suffice"))
    except DiskFullError as error:
        receipt = LabelReceipt(task.entry.failed(FailureCode.INTERNAL_ERROR, str(error)), disk_is_full=True)
    except (StoreError, SeriesError) as error:
        receipt = LabelReceipt(task.entry.failed(FailureCode.INTERNAL_ERROR, str(error)))
    except TimeoutError as error:
        receipt = LabelReceipt(task.entry.failed(FailureCode.UNREADABLE, f"given up after time-limit-s: {error}"))
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - a run must outlive any mask
        detail = f"{type(error).__name__}; see tracebacks.txt in the run directory"
        receipt = LabelReceipt(task.entry.failed(FailureCode.INTERNAL_ERROR, detail), traceback.format_exc())
    return replace(receipt, entry=replace(receipt.entry, seconds=round(time.perf_counter() - start, 3)))


def encoded_layers(task: LabelTask, keys: Keys) -> tuple[Placed, dict[str, dict[str, Any]]]:
    """Read a mask, place it and encode its arrays: by name, the buffers of `encode_label`.

    Raises
    ------
    LabelError, StoreError
    """
    attributes = published(keys, task.node)
    if attributes is None:
        raise StoreError(f"{task.node} is not in the store any more")
    geometry = Geometry.from_attributes(attributes["ct_etl"]["geometry"])
    placed = place_mask(read_mask(task.source), geometry, read_source_map(keys, task.node).position_mm)
    names = layer_names(task.name, len(placed.layers))
    provenance = {
        "source_digest": task.source_digest,
        "source_id": task.source_id,
        "config_digest": config_digest(),
        "grid_digest": geometry.grid_digest,
        "layers": len(names),
        "software": software_versions(),
        "written_by": "ct-etl label",
    }
    chunk = inner_chunk(keys, task.node)
    layers = {
        name: encode_label(
            layer.values,
            [_told(one, task) for one in sorted(layer.segments, key=lambda one: one.value)],
            name=name,
            volume=attributes,
            chunk=chunk,
            provenance={**provenance, "layer": number},
        )
        for number, (name, layer) in enumerate(zip(names, placed.layers, strict=True), start=1)
    }
    return placed, layers


def _write(task: LabelTask, store_path: str, lock_token: str, abandoned: GivenUp) -> LabelEntry:
    keys = open_keys(store_path)
    placed, layers = encoded_layers(task, keys)

    def check() -> None:
        if abandoned.is_set() or not is_held(lock_token):
            raise SeriesError(FailureCode.UNREADABLE, "the run gave up before this was written")

    # Arrays of an earlier version of the source, in which more of it overlapped.
    dropped = [
        name
        for name, provenance in published_labels(keys, task.node).items()
        if name == f"{task.name}-{provenance.get('layer')}"
        and provenance.get("source_id") == task.source_id
        and name not in layers
    ]
    written = publish_label(keys, task.node, layers, dropped=dropped, check=check)
    segments = tuple(replace(one, name=_told(Segment(one.value, one.name), task).name) for one in placed.volumes)
    return replace(
        task.entry, labels=tuple(layers), warnings=placed.warnings, segments=segments, bytes_out=written
    )


def _told(segment: Segment, task: LabelTask) -> Segment:
    """Give a segment without a name that holds a part of the patient's."""
    name = segment.name.lower()
    if task.hidden_words and any(word in name for word in task.hidden_words):
        return replace(segment, name=HIDDEN_NAME.format(segment.value))
    return segment
