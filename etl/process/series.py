"""One series, files to store, in one process. No Dask here: serial and distributed runs call the same function."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.config import Config
from etl.dicom.pixels import read_slices
from etl.digests import software_versions, volume_digest
from etl.errors import DiskFullError, SeriesError
from etl.plan.plan import SeriesTask
from etl.plan.repeats import copy_keys
from etl.report.montage import Montage, candidate_planes, draw_montage
from etl.run.ledger import Entry
from etl.stack import PixelFormat, Stack
from etl.store.encoding import encode_series, ome_attributes, uid_array
from etl.store.writer import StoreWriter
from etl.volume.convert import Converted, convert
from etl.volume.hounsfield import padding_mask, stored_values, to_hounsfield
from etl.volume.quality import Quality, find_plateau
from etl.workers.time_limit import GivenUp, TimeLimit


@dataclass(frozen=True)
class Receipt:
    """What a worker sends back: a ledger line, and the traceback of an error that should not have happened."""

    entry: Entry
    traceback: str | None = None
    disk_is_full: bool = False


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
        with TimeLimit[Entry](config.time_limit_s) as caller:
            receipt = Receipt(caller.call(partial(_write, task, config, store_path, lock_token)))
    except SeriesError as error:
        receipt = Receipt(task.entry.failed(error.code, str(error)))
    except MemoryError:
        receipt = Receipt(task.entry.failed("too-large", "MemoryError: the worker's memory did not suffice"))
    except DiskFullError as error:
        receipt = Receipt(task.entry.failed("internal-error", str(error)), disk_is_full=True)
    except TimeoutError as error:
        receipt = Receipt(task.entry.failed("unreadable", f"given up after time-limit-s: {error}"))
    except Exception as error:  # noqa: BLE001 - the one place: a run must outlive any series
        receipt = Receipt(
            # The message may quote paths, which belong into the run directory only.
            task.entry.failed("internal-error", _kind(error)),
            traceback.format_exc(),
        )
    return replace(receipt, entry=replace(receipt.entry, seconds=round(time.perf_counter() - start, 3)))


def _kind(error: Exception) -> str:
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"{type(error).__name__}{reason}; see tracebacks.txt in the run directory"


def read_hounsfield(
    stack: Stack, quality: Quality, *, limit_bytes: int = 4 << 30
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_] | None]]:
    """Read the slices of a stack as Hounsfield units.

    Parameters
    ----------
    stack : Stack
    quality : Quality
        Every slice is added to it.
    limit_bytes : int
        Largest size of a deflated file, inflated.

    Yields
    ------
    hu : (rows, columns) float32 array, HU
    padded : (rows, columns) bool array or None
        Where padding is; what `hu` holds there is no Hounsfield unit.

    Raises
    ------
    SeriesError
        From reading and decoding.
    """
    slices = stack.slices
    last: NDArray[np.bool_] | None = None
    for i, raw in enumerate(read_slices(stack, limit_bytes=limit_bytes)):
        fmt = stack.formats[slices.format[i]]
        slope, intercept = float(slices.slope[i]), float(slices.intercept[i])
        stored = _stored(raw, fmt)
        hu = to_hounsfield(stored, slope=slope, intercept=intercept)
        padded = _declared_padding(raw, stored, slices.padding[i], fmt)
        plateau = find_plateau(stored, slope=slope, intercept=intercept) if padded is None else None
        if plateau is not None:
            padded = stored == plateau
        if padded is not None:
            # Mostly it is the same mask, and then the same object: what is worked out for it is worked out once.
            last = padded = last if last is not None and np.array_equal(last, padded) else padded
        quality.add(hu, padded, implicit=plateau is not None)
        yield hu, padded


def check_copies(stack: Stack, *, limit_bytes: int = 4 << 30) -> None:
    """Refuse a stack of which two files claim to be the same instance and show something else.

    Parameters
    ----------
    stack : Stack
        With the `copies` that were dropped.
    limit_bytes : int
        As for `read_hounsfield`.

    Raises
    ------
    SeriesError
        ``duplicate-positions``: the pixels of a copy differ from those of the slice that was kept.
    """
    if stack.copies is None:
        return
    kept = {identity: i for i, identity in enumerate(copy_keys(stack.slices))}
    pairs = [(kept[identity], i) for i, identity in enumerate(copy_keys(stack.copies)) if identity in kept]
    others = stack.copies.take([i for _, i in pairs])
    originals = read_slices(
        replace(stack, slices=stack.slices.take([i for i, _ in pairs])), limit_bytes=limit_bytes
    )
    for n, original in enumerate(originals):
        try:
            copy = next(read_slices(replace(stack, slices=others.take([n])), limit_bytes=limit_bytes))
        except SeriesError:
            # What cannot be read contradicts nothing.
            continue
        fmt, other = (stack.formats[slices.format[i]] for slices, i in ((stack.slices, pairs[n][0]), (others, n)))
        if not np.array_equal(_stored(original, fmt), _stored(copy, other)):
            uid = others.sop_instance_uid[n].decode("ascii", "replace")
            raise SeriesError(
                "duplicate-positions", f"SOP Instance UID (0008,0018) {uid} is there twice with different pixels"
            )


def _stored(raw: NDArray[np.integer], fmt: PixelFormat) -> NDArray[np.integer]:
    return stored_values(raw, bits_stored=fmt.bits_stored, high_bit=fmt.high_bit)


def convert_task(task: SeriesTask, config: Config) -> tuple[Converted, Quality]:
    """Read and convert the stack of a task; nothing is written.

    Raises
    ------
    SeriesError
        The stack cannot become a volume.
    """
    quality = Quality()
    limit_bytes = config.max_file_mb << 20
    check_copies(task.stack, limit_bytes=limit_bytes)
    converted = convert(
        read_hounsfield(task.stack, quality, limit_bytes=limit_bytes),
        task.layout,
        spacing_mm=config.spacing_mm,
        zoom=config.zoom,
        window=config.window,
        center=config.center,
        precision_bits=config.precision_bits,
    )
    return converted, quality


def _declared_padding(
    raw: NDArray[np.integer], stored: NDArray[np.integer], padding: NDArray[np.float64], fmt: PixelFormat
) -> NDArray[np.bool_] | None:
    value, limit = (float(v) for v in padding)
    found = padding_mask(stored, padding_value=value, range_limit=limit)
    # Padding may lie above the stored bits: -2000, or 63536 for it, in 12 of 16. Then the allocated word tells.
    least = -(1 << fmt.bits_stored) if fmt.pixel_representation else -1
    lies_above = np.isfinite(value) and not least < value < (1 << fmt.bits_stored)
    if stored is raw or not lies_above or fmt.high_bit + 1 != fmt.bits_stored:
        return found
    above = padding_mask(raw, padding_value=value, range_limit=limit)
    return above if found is None else found if above is None else found | above


def _write(task: SeriesTask, config: Config, store_path: str, lock_token: str, abandoned: GivenUp) -> Entry:
    converted, quality = convert_task(task, config)
    entry = replace(task.entry, warnings=(*task.entry.warnings, *quality.warnings()))
    slices = task.stack.slices
    # The volume's axes grow to Superior, Posterior and Left; the source map follows its slice axis.
    forward = np.argsort(converted.position_mm, kind="stable")
    source: dict[str, NDArray[Any]] = {
        "sop_instance_uid": uid_array(slices.sop_instance_uid[forward]),
        "position_mm": converted.position_mm[forward],
        "instance_number": slices.instance_number[forward],
    }
    if slices.frame.any():
        source["frame_number"] = slices.frame[forward] + 1
    keys = encode_series(
        volume=converted.volume,
        histogram=converted.histogram,
        validity=converted.validity,
        source=source,
        attributes=_attributes(task, entry, converted, quality, config),
        chunk=config.chunk,
    )
    # A worker on another host may outlive the run that sent the task.
    if abandoned.is_set() or not os.path.exists(lock_token):
        raise SeriesError("unreadable", "the run gave up before this was written")
    written = StoreWriter(store_path).publish(entry.patient_key, entry.series_key, keys)
    if task.picture is not None:
        # Another host may not see the folder; the driver then draws from the store.
        with suppress(OSError):
            _draw(converted).save(Path(task.picture))
    return replace(entry, bytes_out=written)


def _draw(converted: Converted) -> Montage:
    planes = candidate_planes(len(converted.volume))
    origin_mm, step_mm = converted.geometry.affine_lps[2, 3], converted.geometry.affine_lps[2, 0]
    return draw_montage(
        converted.normalization.to_hu(converted.volume[planes]),
        window_hu=converted.normalization.window_hu,
        z_mm=[origin_mm + k * step_mm for k in planes],
        spacing_mm=converted.geometry.spacing_mm[1:],
    )


def _attributes(
    task: SeriesTask, entry: Entry, converted: Converted, quality: Quality, config: Config
) -> dict[str, object]:
    key, normalization = task.stack.key, converted.normalization
    names = ("spacing_mm", "zoom", "native", "max_gap_mm")
    recipe = config.recipe()
    return {
        "ct_etl": {
            "patient_id": key.patient_id,
            "study_instance_uid": key.study_instance_uid,
            "series_instance_uid": key.series_instance_uid,
            "stack": task.stack.number,
            "geometry": converted.geometry.to_attributes(),
            "normalization": {
                "window_hu": list(normalization.window_hu),
                "center": normalization.center,
                "precision_bits": normalization.precision_bits,
            },
            "resampling": {name: recipe[name] for name in names},
            "qc": {
                "warnings": list(entry.warnings),
                "default_series_points": task.points,
                **quality.to_attributes(),
            },
            "provenance": {
                "config_digest": task.config_digest,
                "source_digest": task.source_digest,
                "volume_digest": volume_digest(converted.volume),
                "software": software_versions(),
            },
        },
        "dicom": task.stack.dicom,
        "ome": ome_attributes(converted.geometry),
    }
