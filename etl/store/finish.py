"""The end of a run: patients, the cohort's fingerprint, consolidated metadata. Only the driver writes these."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from etl.buckets.urls import is_bucket_url
from etl.errors import StoreError
from etl.store.fingerprint import fingerprint
from etl.store.keys import Keys
from etl.store.layout import METADATA
from etl.store.metadata import (
    as_text,
    consolidated_frame,
    ct_etl_attributes,
    group,
    members,
    parsed,
    root_attributes,
    sealed,
)
from etl.store.patient_labels import kept_labels
from etl.store.root import put_if_changed, put_root_parts
from etl.store.series_nodes import SeriesNodes, stored_nodes

# Most of the time of a patient is an answer of the disk or the bucket. Of a disk 16 threads get no more than 4,
# and take half as much CPU again, waiting for each other.
DISK_THREADS, BUCKET_THREADS = 4, 16
PATIENTS_AT_ONCE = 512
# Of the consolidated metadata: those of a hundred thousand series are 0.8 GB.
_IN_MEMORY_BYTES = 4 << 20
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class _Patient:
    series: Sequence[SeriesNodes]
    members: str
    damaged: Sequence[str]


def finish_store(
    keys: Keys,
    recipe: Mapping[str, Any],
    default_series: Mapping[str, str],
    known: Callable[[str], SeriesNodes | None] = lambda _: None,
) -> tuple[dict[str, Any], list[str]]:
    """Write patients, the cohort's fingerprint and consolidated metadata; touch nothing that is right.

    Parameters
    ----------
    keys : Keys
    recipe : mapping
        What decides the bytes of the store's volumes.
    default_series : mapping
        Series key a run prefers, by Patient ID. It is the default unless a series of an earlier run has more
        points; a patient keeps the one it has where the run names none.
    known : callable, optional
        Gives, by ``<patient key>/<series key>``, what the worker that published a series said of it; None for one
        that is to be read back. Called from several threads.

    Returns
    -------
    dict
        The fingerprint.
    list of str
        Damaged or foreign groups, as ``<patient key>/<series key>``: they are left out.
    """
    damaged: list[str] = []
    # On the disk of the store, where there is one: that of temporary files may be small.
    beside = None if is_bucket_url(keys.path) else os.path.dirname(keys.path)
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, dir=beside) as spool:

        def histograms() -> Iterator[NDArray[np.uint32]]:
            separator = b""
            for patient in _patients(keys, default_series, known):
                damaged.extend(patient.damaged)
                if patient.members:
                    spool.write(separator + patient.members.encode())
                    separator = b","
                    yield from (series.unpacked_histogram() for series in patient.series)

        summary = fingerprint(histograms(), tuple(recipe["window"]))
        before, after = consolidated_frame(group(sealed({**root_attributes(recipe), "fingerprint": summary})))
        put_root_parts(keys, lambda: _parts(before, spool, after))
    return summary, damaged


def _parts(before: str, spool: IO[bytes], after: str) -> Iterator[bytes]:
    yield before.encode()
    spool.seek(0)
    while part := spool.read(_COPY_BYTES):
        yield part
    yield after.encode()


def _patients(
    keys: Keys, default_series: Mapping[str, str], known: Callable[[str], SeriesNodes | None]
) -> Iterator[_Patient]:
    """Write the patients' metadata, many at once, and give them in order."""
    names = keys.groups("")
    with ThreadPoolExecutor(BUCKET_THREADS if is_bucket_url(keys.path) else DISK_THREADS) as threads:
        # By parts: what is done waits in memory.
        for start in range(0, len(names), PATIENTS_AT_ONCE):
            yield from threads.map(
                lambda patient: _finish_patient(keys, patient, default_series, known),
                names[start : start + PATIENTS_AT_ONCE],
            )


def _finish_patient(
    keys: Keys, patient: str, default_series: Mapping[str, str], known: Callable[[str], SeriesNodes | None]
) -> _Patient:
    published: dict[str, SeriesNodes] = {}
    damaged: list[str] = []
    for series in keys.groups(patient):
        node = f"{patient}/{series}"
        try:
            found = known(node) or stored_nodes(keys, node)
        except (StoreError, RuntimeError, ValueError):
            damaged.append(node)
        else:
            if found is not None:
                published[series] = found
    if not published:
        return _Patient((), "", [*damaged, patient] if _is_foreign(keys, patient) else damaged)
    try:
        text = _write_patient(keys, patient, published, default_series)
    except StoreError:
        return _Patient((), "", [*damaged, patient])
    own = members({patient: text})
    return _Patient(
        tuple(published.values()), ",".join([own, *(found.members for found in published.values())]), damaged
    )


def _is_foreign(keys: Keys, patient: str) -> bool:
    """Whether a group at the place of a patient is another program's."""
    content = keys.get(f"{patient}/{METADATA}")
    if content is None:
        return False
    return not ct_etl_attributes(parsed(content))


def _write_patient(
    keys: Keys, patient: str, published: Mapping[str, SeriesNodes], default_series: Mapping[str, str]
) -> str:
    """Write the metadata of a patient where they are not there yet, and give their text."""
    most = max(found.points for found in published.values())
    best = [series for series, found in published.items() if found.points == most]
    patient_id = published[best[0]].patient_id
    key = f"{patient}/{METADATA}"
    known = ct_etl_attributes(parsed(keys.get(key)) or {})
    wanted = [default_series.get(patient_id), known.get("default_series"), best[0]]
    default = next(series for series in wanted if series in best)
    text = as_text(group({"ct_etl": {"patient_id": patient_id, "default_series": default, **kept_labels(known)}}))
    if put_if_changed(keys, key, text):
        keys.settle([key], patient)
    return text
