"""Whether the pixels of a series are still those that its volume was made of: bytes and checksums, no decoding."""

from __future__ import annotations

from etl.dicom.frames import read_checksums
from etl.errors import SeriesError, StoreError
from etl.plan.task import SeriesTask
from etl.store.keys import open_keys
from etl.store.source_map import read_source_map
from etl.workers.time_limit import TimeLimit


def has_published_pixels(task: SeriesTask, store_path: str, limit_bytes: int, limit_s: float) -> bool:
    """Compare the pixels of a task with the checksums of its published volume.

    Parameters
    ----------
    task : SeriesTask
    store_path : str
    limit_bytes : int
        Largest size of a deflated file, inflated.
    limit_s : float
        Longest time for it.

    Returns
    -------
    bool
        False where they differ, and where it cannot be told: processing then says why.
    """
    try:
        with TimeLimit[bool](limit_s) as caller:
            return caller.call(lambda _: _are_equal(task, store_path, limit_bytes))
    except (SeriesError, StoreError, OSError, TimeoutError):
        return False


def _are_equal(task: SeriesTask, store_path: str, limit_bytes: int) -> bool:
    stored = read_source_map(open_keys(store_path), task.entry.node)
    by_slice = dict(zip(stored.identities, stored.pixel_crc32.tolist(), strict=True))
    slices = task.stack.slices
    found = read_checksums(task.stack, limit_bytes=limit_bytes).tolist()
    identities = zip(slices.sop_instance_uid.tolist(), (slices.frame + 1).tolist(), strict=True)
    return dict(zip(identities, found, strict=True)) == by_slice
