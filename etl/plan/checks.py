"""Whether a wanted stack can become a volume, told from its headers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode, WarningCode
from etl.dicom.rescale_types import HOUNSFIELD, UNSPECIFIED
from etl.digests import source_digest
from etl.errors import SeriesError
from etl.stack import Stack
from etl.transfer_syntaxes import DEFLATED
from etl.volume.geometry import Layout

# Far beyond any scanner, and within float32.
MAX_RESCALE = 1e6
# Protocols with gaps leave 10 or 20 mm, at most 30, between slices.
MAX_PLANNED_GAP_MM = 30.0
# Between any two slices; a corner of the image is then off by half a millimeter.
MAX_ORIENTATION_SPREAD = 4e-3

_PROGRAM_BYTES = 150 << 20


def check_rescale(stack: Stack, *, assume_hu: bool = False) -> None:
    """Refuse a stack whose values cannot become Hounsfield units.

    Raises
    ------
    SeriesError
        ``missing-rescale``: slope or intercept is absent in a slice, or Rescale Type is another unit, or says
        none and `assume_hu` is not asked for.
    """
    slices = stack.slices
    # NaN compares false: absent values lack too.
    usable = (np.abs(slices.slope) <= MAX_RESCALE) & (np.abs(slices.intercept) <= MAX_RESCALE)
    usable &= slices.slope != 0
    lacking = int((~usable).sum())
    if lacking:
        raise SeriesError(
            FailureCode.MISSING_RESCALE,
            f"Rescale Slope (0028,1053) or Rescale Intercept (0028,1052) is absent or beyond 1e6, or the slope 0, "
            f"in {lacking} of {len(stack.slices)} slices; both are needed",
        )
    found = stack.key.rescale_type
    if found == HOUNSFIELD or (assume_hu and found in UNSPECIFIED):
        return
    hint = "; --assume-hu takes it for Hounsfield units" if found in UNSPECIFIED else ""
    raise SeriesError(FailureCode.MISSING_RESCALE, f"Rescale Type (0028,1054) is {found!r}; 'HU' is allowed{hint}")


def check_planes(stack: Stack) -> None:
    """Refuse a stack whose planes turn from slice to slice, a little each, and a lot from end to end.

    Raises
    ------
    SeriesError
        ``inconsistent-slices``
    """
    used = [stack.planes[i].orientation for i in np.unique(stack.slices.plane)] if stack.planes else []
    if len(used) < 2:
        return
    spread = float(np.ptp(np.array(used), axis=0).max(initial=0.0))
    if spread > MAX_ORIENTATION_SPREAD:
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES,
            f"Image Orientation (0020,0037) drifts by {spread:.4f} over {len(stack.slices)} slices; at most "
            f"{MAX_ORIENTATION_SPREAD} is allowed",
        )


def is_cut_short(stack: Stack) -> NDArray[np.bool_]:
    """Tell which slices are in files that end before their pixels do, as far as headers tell."""
    slices = stack.slices
    # Encapsulated and deflated pixels have no length to compare with; their decoder finds out.
    deflated = np.array([fmt.transfer_syntax_uid == DEFLATED for fmt in stack.formats])[slices.format]
    known = (slices.pixel_offset >= 0) & ~deflated
    return np.asarray(known & (slices.pixel_offset + np.maximum(slices.pixel_length, 0) > slices.file_bytes))


def check_complete(stack: Stack) -> None:
    """Refuse a stack with files that hold less pixels than they say, or more than their header knows.

    Raises
    ------
    SeriesError
        ``truncated-pixel-data``; ``inconsistent-slices``: Pixel Data is longer than Rows, Columns, Bits Allocated
        and Number of Frames make it, by a row or more, so that one of them is wrong.
    """
    slices = stack.slices
    short = is_cut_short(stack)
    if short.any():
        raise SeriesError(
            FailureCode.TRUNCATED_PIXEL_DATA,
            f"Pixel Data (7FE0,0010) is longer than the file in {int(short.sum())} of {len(slices)} slices",
        )
    expected = np.array([fmt.frame_bytes * fmt.number_of_frames for fmt in stack.formats])[slices.format]
    row = np.array([fmt.frame_bytes // max(1, fmt.rows) for fmt in stack.formats])[slices.format]
    native = np.array([fmt.is_native for fmt in stack.formats])[slices.format]
    long = native & (slices.pixel_length >= expected + row)
    if long.any():
        first = int(np.flatnonzero(long)[0])
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES,
            f"Pixel Data (7FE0,0010) has {slices.pixel_length[first]} bytes where Rows, Columns, Bits Allocated "
            f"and Number of Frames make it {expected[first]}, in {int(long.sum())} of {len(slices)} slices",
        )


def check_gaps(layout: Layout, max_gap_mm: float) -> None:
    """Refuse a stack that lost slices over more than `max_gap_mm`, or whose slices are no volume.

    Thin slices far apart, all alike, are a protocol (1 mm every 10 mm in the lungs): they are written and told, up
    to the widest that is planned.

    Raises
    ------
    SeriesError
        ``missing-slices``: with the numbers.
    """
    lost = layout.gaps_mm[layout.missing]
    planned = layout.gaps_mm[layout.interpolated & ~layout.missing]
    if len(lost) and lost.max() > max_gap_mm:
        others = layout.gaps_mm[~layout.missing]
        usual = f"{np.median(others):.3f} mm is usual" if len(others) else "slices are too thin for any"
        raise SeriesError(
            FailureCode.MISSING_SLICES,
            f"{len(lost)} gaps of up to {lost.max():.3f} mm where {usual}; allowed is max-gap-mm {max_gap_mm}",
        )
    if len(planned) and planned.max() > max(MAX_PLANNED_GAP_MM, max_gap_mm):
        raise SeriesError(
            FailureCode.MISSING_SLICES,
            f"{len(planned)} gaps of up to {planned.max():.3f} mm between slices that do not reach across; "
            f"allowed are {MAX_PLANNED_GAP_MM} mm, or max-gap-mm {max_gap_mm}",
        )


def layout_warnings(stack: Stack, layout: Layout, *, lost_parts: str | None = None) -> tuple[str, ...]:
    """Give the codes of what is unusual about a stack and still comes out right."""
    padding = stack.slices.padding[:, 0]
    found = {
        WarningCode.INCOMPLETE_CONCATENATION: lost_parts is not None,
        WarningCode.ASSUMED_HU: stack.key.rescale_type != HOUNSFIELD,
        WarningCode.GANTRY_TILT: layout.gantry_tilt_deg != 0,
        WarningCode.MISSING_SLICE: bool(layout.interpolated.any()),
        WarningCode.IRREGULAR_SPACING: not layout.is_regular,
        WarningCode.SHIFTED_SLICES: not layout.is_even,
        WarningCode.MIXED_PADDING: len(np.unique(padding[np.isfinite(padding)])) + bool(np.isnan(padding).any())
        > 1,
        WarningCode.DUPLICATES_DROPPED: stack.copies is not None,
        WarningCode.LOSSY_COMPRESSED: stack.lossy,
    }
    return tuple(code for code, applies in found.items() if applies)


def stack_digest(stack: Stack) -> str:
    """Give the digest of what identifies a stack's source: identities, geometry, lengths, what values mean.

    Not times or places.
    """
    slices, key = stack.slices, stack.key
    bits = ("bits_allocated", "bits_stored", "high_bit", "pixel_representation")
    columns = {
        "sop_instance_uid": slices.sop_instance_uid,
        "frame": slices.frame,
        "file_bytes": slices.file_bytes,
        "crc32": slices.crc32,
        "pixel_length": slices.pixel_length,
        **{f"position_{i}": slices.position_lps_mm[:, i] for i in range(3)},
        "slope": slices.slope,
        "intercept": slices.intercept,
        "thickness": slices.thickness_mm,
        "instance_number": slices.instance_number,
        **{f"padding_{i}": slices.padding[:, i] for i in range(2)},
        **{name: np.array([getattr(fmt, name) for fmt in stack.formats])[slices.format] for name in bits},
    }
    return source_digest(
        columns,
        orientation=list(key.orientation),
        pixel_spacing_mm=list(key.pixel_spacing_mm),
        rows=key.rows,
        columns_count=key.columns,
        patient_id=key.patient_id,
    )


def check_size(stack: Stack, count: tuple[int, int, int], *, limit_mb: int) -> None:
    """Refuse a stack that would not fit into memory.

    Parameters
    ----------
    stack : Stack
    count : tuple of int
        Voxels of the output along each axis.
    limit_mb : int
        For the output as float32, and for one slice.

    Raises
    ------
    SeriesError
        ``too-large``
    """
    volume_mb = 4 * math.prod(count) / (1 << 20)
    slice_mb = max(fmt.frame_bytes for fmt in stack.formats) / (1 << 20)
    if max(volume_mb, slice_mb) > limit_mb:
        raise SeriesError(
            FailureCode.TOO_LARGE,
            f"the volume would have {volume_mb:.0f} MB, a slice has {slice_mb:.0f} MB; allowed is max-volume-mb "
            f"{limit_mb}",
        )


def check_worker(need_bytes: int, largest_bytes: int | None) -> None:
    """Refuse a task that no worker has the memory for, before one dies of it.

    Parameters
    ----------
    need_bytes : int
        `estimated_memory_bytes` of the task.
    largest_bytes : int or None
        What the largest worker has; None: nobody says.

    Raises
    ------
    SeriesError
        ``too-large``
    """
    if largest_bytes is not None and need_bytes > largest_bytes:
        raise SeriesError(
            FailureCode.TOO_LARGE,
            f"needs {need_bytes / (1 << 20):.0f} MB, the largest worker has {largest_bytes / (1 << 20):.0f} MB",
        )


def estimated_memory_bytes(stack: Stack, count: tuple[int, int, int]) -> int:
    """Estimate the memory that a worker needs for a stack, from above.

    Measured: 150 MB for 200 slices of 512x512 at 100x256x256 voxels, 115 MB for 20,000 of 16x16.

    Parameters
    ----------
    stack : Stack
    count : tuple of int
        Voxels of the output along each axis.
    """
    volume = 4 * math.prod(count)
    pixels = max(fmt.rows * fmt.columns for fmt in stack.formats)
    # Volume, validity and what is packed of them; one slice in several types; where the grid lies in each slice.
    index = 24 * len(stack.slices) * (count[1] + count[2])
    return _PROGRAM_BYTES + 2 * volume + 64 * pixels + index + _held_bytes(stack)


def _held_bytes(stack: Stack) -> int:
    """Give what is held of one file at a time: inflated, or as it is and once more in pieces."""
    slices = stack.slices
    is_deflated = np.array([fmt.transfer_syntax_uid == DEFLATED for fmt in stack.formats])[slices.format]
    is_native = np.array([fmt.is_native for fmt in stack.formats])[slices.format]
    # A buffer that grows has an eighth more than it holds.
    inflated = 9 * (slices.pixel_offset + np.maximum(slices.pixel_length, 0)) // 8
    in_zip = slices.crc32 >= 0
    packed = np.where(~is_native | in_zip, 2 * slices.file_bytes, 0)
    return int(np.maximum(np.where(is_deflated, inflated, 0), packed).max())
