"""One series, files to store, in one process. No Dask here: serial and distributed runs call the same function."""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from etl.codes import ExclusionCode, FailureCode
from etl.config import Config
from etl.entry import Entry
from etl.errors import DiskFullError, SeriesError, StoreError
from etl.plan.masks import MASK_DETAIL
from etl.plan.task import SeriesTask
from etl.process.attributes import series_attributes
from etl.process.read_hu import convert_task
from etl.process.source_arrays import source_arrays
from etl.report.montage import Montage, candidate_planes, draw_montage
from etl.store.encoding import encode_series
from etl.store.fingerprint import body_threshold
from etl.store.keys import open_keys
from etl.store.lock import is_held
from etl.store.publish import publish
from etl.store.series_nodes import published_nodes
from etl.volume.body import body_shares
from etl.volume.convert import Converted
from etl.workers.time_limit import GivenUp, TimeLimit


@dataclass(frozen=True)
class Receipt:
    """What a worker sends back: a ledger line, and the traceback of an error that should not have happened.

    The end of a run needs no more, so that the driver reads nothing back.
    """

    entry: Entry
    traceback: str | None = None
    disk_is_full: bool = False
    nodes: bytes | None = None
    """Of what was written, for the end of the run: `SeriesNodes.packed`."""


def process(task: SeriesTask, config: Config, store_path: str, lock_token: str) -> Receipt:
    """Turn one stack into one published volume; never raises for what a series can do.

    Parameters
    ----------
    task : SeriesTask
    config : Config
    store_path : str
    lock_token : str
        `StoreLock.token` of the run.

    Returns
    -------
    Receipt
        ``written``, or ``failed`` with the reason.
    """
    start = time.perf_counter()
    try:
        with TimeLimit[Receipt](config.time_limit_s) as caller:
            receipt = caller.call(partial(_write, task, config, store_path, lock_token))
    except SeriesError as error:
        receipt = Receipt(task.entry.failed(error.code, str(error)))
    except MemoryError:
        receipt = Receipt(
            task.entry.failed(FailureCode.TOO_LARGE, "MemoryError: the worker's memory did not suffice")
        )
    except DiskFullError as error:
        receipt = Receipt(task.entry.failed(FailureCode.INTERNAL_ERROR, str(error)), disk_is_full=True)
    except StoreError as error:
        receipt = Receipt(task.entry.failed(FailureCode.INTERNAL_ERROR, str(error)))
    except TimeoutError as error:
        receipt = Receipt(task.entry.failed(FailureCode.UNREADABLE, f"given up after time-limit-s: {error}"))
    except Exception as error:  # noqa: BLE001 - the one place: a run must outlive any series
        receipt = Receipt(
            # The message may quote paths, which belong into the run directory only.
            task.entry.failed(FailureCode.INTERNAL_ERROR, _kind(error)),
            traceback.format_exc(),
        )
    return replace(receipt, entry=replace(receipt.entry, seconds=round(time.perf_counter() - start, 3)))


def _kind(error: Exception) -> str:
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"{type(error).__name__}{reason}; see tracebacks.txt in the run directory"


def _write(task: SeriesTask, config: Config, store_path: str, lock_token: str, abandoned: GivenUp) -> Receipt:
    converted, quality, pixel_crc32 = convert_task(task, config)
    if quality.is_mask:
        return Receipt(task.entry.excluded(ExclusionCode.MASK, MASK_DETAIL))
    entry = replace(task.entry, warnings=tuple(dict.fromkeys((*task.entry.warnings, *quality.warnings()))))
    geometry = converted.geometry
    content = encode_series(
        volume=converted.volume,
        histogram=converted.histogram,
        validity=converted.validity,
        source=source_arrays(task, converted, pixel_crc32),
        attributes=series_attributes(task, entry, converted, quality, config),
        body=body_shares(converted.volume, above=body_threshold(converted.normalization)),
        coordinates_mm=geometry.coordinates_mm() if geometry.is_axis_aligned else None,
        chunk=config.chunk,
        codec=config.codec,
        step=converted.normalization.step if config.dtype == "int16" else None,
    )

    def check() -> None:
        # A thread that was given up, or a worker on another host, may outlive the run that sent the task.
        if abandoned.is_set() or not is_held(lock_token):
            raise SeriesError(FailureCode.UNREADABLE, "the run gave up before this was written")

    keys = open_keys(store_path)
    written = publish(keys, entry.node, content, check=check)
    nodes = None
    with suppress(OSError, StoreError):
        # It is published; where this cannot be told, the driver reads it back.
        nodes = published_nodes(keys, entry.node, content)
    if task.picture is not None:
        # Another host may not see the folder; the driver then draws from the store.
        with suppress(OSError):
            _draw(converted).save(Path(task.picture))
    return Receipt(replace(entry, bytes_out=written), nodes=None if nodes is None else nodes.packed())


def _draw(converted: Converted) -> Montage:
    planes = candidate_planes(len(converted.volume))
    origin_mm, step_mm = converted.geometry.affine_lps[2, 3], converted.geometry.affine_lps[2, 0]
    return draw_montage(
        [converted.volume[k] for k in planes],
        converted.normalization,
        z_mm=[origin_mm + k * step_mm for k in planes],
        spacing_mm=converted.geometry.spacing_mm[1:],
    )
