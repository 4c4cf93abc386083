"""From stored values to Hounsfield units, one slice at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.errors import SeriesError

AIR_HU = -1024.0
"""What padding and everything outside the scanned field becomes."""
BRAIN_WIDTH_HU, BRAIN_LEVEL_HU = 80, 40
"""The window in which brain is looked at."""


def to_hounsfield(stored: NDArray[np.integer], *, slope: float, intercept: float) -> NDArray[np.float32]:
    """Convert the stored values of one slice to Hounsfield units.

    Slope and intercept belong to a slice: they may differ within a series.

    Parameters
    ----------
    stored : (rows, columns) integer array
        Pixel Data (7FE0,0010) as decoded.
    slope : float, HU per stored value
        Rescale Slope (0028,1053).
    intercept : float, HU
        Rescale Intercept (0028,1052).

    Returns
    -------
    (rows, columns) float32 array, HU
        A new array; `stored` is unchanged.

    Raises
    ------
    SeriesError
        ``missing-rescale``: the slope is zero, or either value is not finite.

    References
    ----------
    DICOM PS3.3 C.11.1.1.2, Modality LUT and Rescale Type.

    Examples
    --------
    >>> to_hounsfield(np.array([[0, 1024]], np.int16), slope=1.0, intercept=-1024.0)
    array([[-1024.,     0.]], dtype=float32)
    """
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise SeriesError(
            FailureCode.MISSING_RESCALE,
            f"Rescale Slope (0028,1053) is {slope}, Rescale Intercept (0028,1052) is {intercept}; "
            "two finite numbers and a slope other than 0 are needed",
        )
    hu = stored.astype(np.float32)
    if slope != 1:
        hu *= np.float32(slope)
    hu += np.float32(intercept)
    return hu


def stored_values(raw: NDArray[np.integer], *, bits_stored: int, high_bit: int) -> NDArray[np.integer]:
    """Take the stored bits out of the allocated ones.

    Bits above High Bit may hold anything, overlays for one; signed values get their sign back.

    Parameters
    ----------
    raw : (rows, columns) integer array
        Its signedness is Pixel Representation (0028,0103).
    bits_stored, high_bit : int
        (0028,0101) and (0028,0102).

    References
    ----------
    DICOM PS3.5 8.1.1, Pixel Data Encoding of Related Data Elements.

    Examples
    --------
    >>> stored_values(np.array([[0xF800]], np.uint16), bits_stored=12, high_bit=11)
    array([[2048]], dtype=uint16)
    >>> stored_values(np.array([[0x0FFF]], np.int16), bits_stored=12, high_bit=11)
    array([[-1]], dtype=int16)
    """
    allocated = 8 * raw.dtype.itemsize
    if bits_stored == allocated:
        return raw
    # Shifting up drops the bits above, shifting down brings the sign along where the type has one.
    shifted: NDArray[np.integer] = np.right_shift(
        np.left_shift(raw, allocated - 1 - high_bit), allocated - bits_stored
    )
    return shifted


def padding_mask(
    stored: NDArray[np.integer], *, padding_value: float, range_limit: float = float("nan")
) -> NDArray[np.bool_] | None:
    """Find the pixels that the scanner padded.

    Files state the value with the wrong signedness (63536 for -2000 in LIDC-IDRI), so it is taken modulo the
    width of the stored type.

    Parameters
    ----------
    stored : (rows, columns) integer array
        Pixel Data as decoded, before any rescale.
    padding_value : float
        Pixel Padding Value (0028,0120); NaN where absent.
    range_limit : float
        Pixel Padding Range Limit (0028,0121); NaN where absent.

    Returns
    -------
    (rows, columns) bool array, or None where no pixel is padded

    References
    ----------
    DICOM PS3.3 C.7.5.1.1.2, Pixel Padding Value and Pixel Padding Range Limit.

    Examples
    --------
    >>> padding_mask(np.array([[-2000, 7]], np.int16), padding_value=63536.0)
    array([[ True, False]])
    """
    if not np.isfinite(padding_value):
        return None
    first = _wrapped(int(padding_value), stored.dtype)
    if np.isfinite(range_limit):
        limit = _wrapped(int(range_limit), stored.dtype)
        low, high = sorted((first, limit))
        if stored.dtype.kind == "u" and _is_negative(first, stored.dtype) != _is_negative(limit, stored.dtype):
            # -2000 to 0 in unsigned words: the range runs over the end.
            mask = (stored >= high) | (stored <= low)
        else:
            mask = (stored >= low) & (stored <= high)
    else:
        mask = stored == first
    return mask if mask.any() else None


def padding_hu(
    padding: NDArray[np.float64], dtype: np.dtype[np.integer], *, slope: float, intercept: float
) -> tuple[float, ...]:
    """Give Pixel Padding Value, and Range Limit where there is one, in Hounsfield units.

    Parameters
    ----------
    padding : (2,) float64 array
        As the file states them, stored domain; NaN where absent.
    dtype : dtype
        Of the stored values.
    slope, intercept : float
    """
    stated = padding[np.isfinite(padding)]
    return tuple(_wrapped(int(value), dtype) * slope + intercept for value in stated)


def _is_negative(value: int, dtype: np.dtype[np.integer]) -> bool:
    """Whether an unsigned word would be negative if it were signed."""
    return value > np.iinfo(dtype).max // 2


def _wrapped(value: int, dtype: np.dtype[np.integer]) -> int:
    """Read a number as the stored type would hold its bits."""
    info = np.iinfo(dtype)
    width = 1 << info.bits
    value %= width
    return value - width if value > info.max else value
