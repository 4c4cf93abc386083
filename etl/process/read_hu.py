"""Read the slices of a task as Hounsfield units, and convert them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.config import Config
from etl.dicom.pixels import read_slices
from etl.errors import SeriesError
from etl.plan.repeats import copy_keys
from etl.plan.task import SeriesTask
from etl.stack import PixelFormat, Slices, Stack
from etl.volume.convert import Converted, convert
from etl.volume.hounsfield import padding_hu, padding_mask, stored_values, to_hounsfield
from etl.volume.padding import may_be_tissue, outside_field
from etl.volume.quality import Quality, find_plateau


def read_hounsfield(
    stack: Stack,
    quality: Quality,
    *,
    limit_bytes: int = 4 << 30,
    crc32: NDArray[np.uint32] | None = None,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_] | None]]:
    """Read the slices of a stack as Hounsfield units.

    Parameters
    ----------
    stack : Stack
    quality : Quality
        Every slice is added to it.
    limit_bytes : int
        Largest size of a deflated file, inflated.
    crc32 : (n,) uint32 array, optional
        Gets the checksum of each slice's pixels as they lie in the file.

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
    for i, raw in enumerate(read_slices(stack, limit_bytes=limit_bytes, crc32=crc32)):
        fmt = stack.formats[slices.format[i]]
        slope, intercept = float(slices.slope[i]), float(slices.intercept[i])
        stored = _stored(raw, fmt)
        hu = to_hounsfield(stored, slope=slope, intercept=intercept)
        padded = _declared_padding(raw, stored, slices.padding[i], fmt)
        values_hu = padding_hu(slices.padding[i], stored.dtype, slope=slope, intercept=intercept)
        is_doubtful = padded is not None and may_be_tissue(values_hu)
        if padded is not None and is_doubtful:
            padded = outside_field(padded, hu, padding_hu=values_hu[0])
        plateau = find_plateau(stored, slope=slope, intercept=intercept) if padded is None else None
        if plateau is not None:
            padded = stored == plateau
        if padded is not None:
            # Mostly it is the same mask, and then the same object: what is worked out for it is worked out once.
            last = padded = last if last is not None and np.array_equal(last, padded) else padded
        quality.add(hu, padded, implicit=plateau is not None, doubtful=is_doubtful)
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
    pairs = [(kept[identity], i) for i, identity in enumerate(stack.copied) if identity in kept]
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
            raise SeriesError(FailureCode.DUPLICATE_POSITIONS, _other_pixels(stack, pairs[n][0], others, n))


def _other_pixels(stack: Stack, kept: int, copies: Slices, copy: int) -> str:
    uids = [s.sop_instance_uid[i].decode("ascii", "replace") for s, i in ((stack.slices, kept), (copies, copy))]
    if uids[0] == uids[1]:
        return f"SOP Instance UID (0008,0018) {uids[0]} is there twice with different pixels"
    return (
        f"slices {uids[0]} and {uids[1]} lie at one position with different pixels; none of {stack.compared} "
        "tells them apart"
    )


def _stored(raw: NDArray[np.integer], fmt: PixelFormat) -> NDArray[np.integer]:
    return stored_values(raw, bits_stored=fmt.bits_stored, high_bit=fmt.high_bit)


def convert_task(task: SeriesTask, config: Config) -> tuple[Converted, Quality, NDArray[np.uint32]]:
    """Read and convert the stack of a task; nothing is written.

    Returns
    -------
    converted : Converted
    quality : Quality
    pixel_crc32 : (slices,) uint32 array
        Checksum of each slice's pixels as they lie in the file, in the order of the task.

    Raises
    ------
    SeriesError
        The stack cannot become a volume.
    """
    quality, pixel_crc32 = Quality(), np.zeros(len(task.stack.slices), np.uint32)
    limit_bytes = config.max_file_mb << 20
    check_copies(task.stack, limit_bytes=limit_bytes)
    converted = convert(
        read_hounsfield(task.stack, quality, limit_bytes=limit_bytes, crc32=pixel_crc32),
        task.layout,
        spacing_mm=config.spacing_mm,
        zoom=config.zoom,
        window=config.window,
        center=config.center,
        precision_bits=config.precision_bits,
    )
    return converted, quality, pixel_crc32


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
