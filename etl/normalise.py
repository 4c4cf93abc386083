"""Window, centre and round a volume; count its Hounsfield units on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Normalisation:
    """How stored values map back: ``hu = (value + center) * (high - low) + low``."""

    window_hu: tuple[int, int]
    center: float
    precision_bits: int | Literal["full"]


def normalise(
    hu: NDArray[np.float32],
    *,
    window: tuple[int, int],
    center: float | Literal["volume", "none"],
    precision_bits: int | Literal["full"],
) -> tuple[Normalisation, NDArray[np.uint32]]:
    """Turn Hounsfield units into what is stored, in place.

    Values become ``(clip(hu, low, high) - low) / (high - low) - center``, rounded to a multiple of
    2^-precision_bits: the low mantissa bits are then zero, which packs to about 40 % of the size.

    Parameters
    ----------
    hu : (z, y, x) float32 array, HU
        Overwritten with the normalised values. One plane at a time is widened to float64.
    window : (low, high), whole HU
    center : float, "volume" or "none"
        What is subtracted; "volume" is the mean of the windowed volume.
    precision_bits : int or "full"

    Returns
    -------
    Normalisation
        With the centre that was subtracted.
    (high - low + 1,) uint32 array
        Bin b counts the voxels whose stored value rounds to ``low + b`` HU; clipped voxels are in the end bins.
    """
    low, high = window
    width = float(high - low)
    if center == "volume":
        total = sum(float(np.clip(plane, low, high).sum(dtype=np.float64)) for plane in hu)
        subtracted = (total / hu.size - low) / width
    else:
        subtracted = 0.0 if center == "none" else float(center)
    histogram = np.zeros(high - low + 1, np.int64)
    for plane in hu:
        value = np.clip(plane, low, high).astype(np.float64)
        value -= low
        value /= width
        value -= subtracted
        if precision_bits != "full":
            np.rint(value * 2.0**precision_bits, out=value)
            value *= 2.0**-precision_bits
        plane[...] = value
        bins = np.rint((value + subtracted) * width).astype(np.intp)
        # Rounding may step half a unit over the window's edge.
        np.clip(bins, 0, high - low, out=bins)
        histogram += np.bincount(bins.ravel(), minlength=len(histogram))
    return Normalisation((low, high), subtracted, precision_bits), histogram.astype(np.uint32)
