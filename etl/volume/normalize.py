"""Window, center and round a volume; count its Hounsfield units on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Up to as many steps, what float32 rounds off a product is below a thousandth of a step.
FLOAT32_STEPS = 2**14


@dataclass(frozen=True)
class Normalization:
    """How stored values map back: ``hu = (value + center) * (high - low) + low``."""

    window_hu: tuple[int, int]
    center: float
    precision_bits: int | Literal["full"]

    def to_hu(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert stored values back (float32, a new array)."""
        low, high = self.window_hu
        hu = values + np.float32(self.center)
        hu *= np.float32(high - low)
        hu += np.float32(low)
        return hu

    def value_of(self, hu: float) -> float:
        """Give what stands for one value in Hounsfield units, clipping included, before rounding."""
        low, high = self.window_hu
        return min(max((hu - low) / (high - low), 0.0), 1.0) - self.center

    @property
    def step(self) -> float | None:
        """Distance between neighboring stored values; None where nothing was rounded."""
        return None if self.precision_bits == "full" else 2.0**-self.precision_bits

    def to_attributes(self) -> dict[str, object]:
        """Give the store's ``normalization`` attribute (plain JSON values)."""
        return {
            "window_hu": list(self.window_hu),
            "center": self.center,
            "precision_bits": self.precision_bits,
        }

    @staticmethod
    def from_attributes(attributes: Mapping[str, Any]) -> Normalization:
        """Read back what `to_attributes` gave.

        Raises
        ------
        KeyError, ValueError, TypeError
            Something is missing, or is not of its kind.
        """
        low, high = attributes["window_hu"]
        bits = attributes["precision_bits"]
        return Normalization(
            (int(low), int(high)), float(attributes["center"]), "full" if bits == "full" else int(bits)
        )


def normalize(
    hu: NDArray[np.float32],
    *,
    window: tuple[int, int],
    center: float | Literal["volume", "none"],
    precision_bits: int | Literal["full"],
) -> tuple[Normalization, NDArray[np.uint32]]:
    """Turn Hounsfield units into what is stored, in place.

    Values become ``(clip(hu, low, high) - low) / (high - low) - center``, rounded to a multiple of
    2^-precision_bits: the low mantissa bits are then zero, which packs to about 40 % of the size.

    Parameters
    ----------
    hu : (z, y, x) float32 array, HU
        Overwritten with the normalized values. A step may be chosen as if a value were up to 3e-4 HU off where
        sums of float32 decide; from 15 bits on one plane at a time is widened to float64.
    window : (low, high), whole HU
    center : float, "volume" or "none"
        What is subtracted; "volume" is the mean of the windowed volume.
    precision_bits : int or "full"

    Returns
    -------
    Normalization
        With the center that was subtracted.
    (high - low + 1,) uint32 array
        Bin b counts the voxels whose stored value rounds to ``low + b`` HU; clipped voxels are in the end bins.
    """
    low, high = window
    width = float(high - low)
    if center == "volume":
        subtracted = (_windowed_mean(hu, low, high) - low) / width
    else:
        subtracted = 0.0 if center == "none" else float(center)
    normalization = Normalization((low, high), subtracted, precision_bits)
    if precision_bits == "full":
        return normalization, _keep_every_bit(hu, low, width, subtracted)
    return normalization, _round(hu, low, width, subtracted, 2.0**precision_bits)


def _windowed_mean(hu: NDArray[np.float32], low: int, high: int) -> float:
    """Average what the window leaves, one plane at a time."""
    clipped, total = np.empty(hu.shape[1:], np.float32), 0.0
    for plane in hu:
        np.clip(plane, low, high, out=clipped)
        total += float(clipped.sum(dtype=np.float64))
    return total / hu.size


def _round(hu: NDArray[np.float32], low: int, width: float, subtracted: float, steps: float) -> NDArray[np.uint32]:
    """Normalize to whole steps in place; the steps are counted, and only the counts turned into HU."""
    # One step more at either end: a rounding error may not leave the counts.
    first = int(np.floor(-subtracted * steps)) - 1
    codes = np.arange(first, int(np.ceil((1 - subtracted) * steps)) + 2)
    counts = np.zeros(len(codes), np.int64)
    number = np.float32 if steps <= FLOAT32_STEPS else np.float64
    value, code = np.empty(hu.shape[1:], number), np.empty(hu.shape[1:], np.int32)
    factor, offset = number(steps / width), number((low / width + subtracted) * steps)
    for plane in hu:
        np.clip(plane, low, low + width, out=value)
        value *= factor
        value -= offset
        np.rint(value, out=value)
        # -0.0 becomes 0.0: whole numbers have one zero, and int16 steps give the same bytes.
        value += number(0)
        np.multiply(value, number(1 / steps), out=plane, casting="same_kind")
        value -= number(first)
        np.copyto(code, value, casting="unsafe")
        counts += np.bincount(code.ravel(), minlength=len(counts))
    bins = np.clip(np.rint((codes / steps + subtracted) * width), 0, width).astype(np.intp)
    return np.bincount(bins, weights=counts, minlength=int(width) + 1).astype(np.uint32)


def _keep_every_bit(hu: NDArray[np.float32], low: int, width: float, subtracted: float) -> NDArray[np.uint32]:
    counts = np.zeros(int(width) + 1, np.int64)
    for plane in hu:
        value = (np.clip(plane, low, low + width).astype(np.float64) - low) / width - subtracted
        plane[...] = value
        bins = np.clip(np.rint((value + subtracted) * width), 0, width).astype(np.intp)
        counts += np.bincount(bins.ravel(), minlength=len(counts))
    return counts.astype(np.uint32)
