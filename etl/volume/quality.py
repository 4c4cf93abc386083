"""Look at the content of a series and say what is odd. Nothing is ever "fixed" here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etl.codes import WarningCode

# Every fourth pixel of every fourth row tells as much about a distribution as all of them.
STRIDE = 4
MASK_VALUES = 2
AIR_HU = (-1060.0, -940.0)
AIR_SHARE = 0.005
PLAUSIBLE_HU = (-1150.0, 4000.0)
IMPLAUSIBLE_SHARE = 0.001
# Stored values that pass 4095 start again at 0: black pixels amid the brightest ones.
WRAP_SPAN_HU = 3800.0
WRAP_PIXELS = 5
# Plateaus below air that no file declares as padding: -2000 and -3024 HU were seen.
PLATEAU_HU = -1100.0
PLATEAU_SHARE = 0.005


def find_plateau(stored: NDArray[np.integer], *, slope: float, intercept: float) -> int | None:
    """Find the value that fills the outside of the field though no attribute says so.

    Parameters
    ----------
    stored : (rows, columns) integer array
    slope, intercept : float
        To Hounsfield units.

    Returns
    -------
    int or None
        The stored value: the lowest there is, below any air, in a corner and on at least 0.5 % of the pixels.
    """
    lowest = int(stored.min() if slope > 0 else stored.max())
    if lowest * slope + intercept > PLATEAU_HU:
        return None
    corners = stored[[0, 0, -1, -1], [0, -1, 0, -1]]
    if not (corners == lowest).any() or (stored == lowest).mean() < PLATEAU_SHARE:
        return None
    return lowest


class Quality:
    """Tallies the slices of one series."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        self._sampled = self._air = self._implausible = self._wrapped = self._constant = 0
        self._implicit = self._doubtful = 0
        self._values: set[float] | None = set()
        self._mask: NDArray[np.bool_] | None = None
        self._sampled_at: NDArray[np.intp] = np.empty(0, np.intp)

    def add(
        self,
        hu: NDArray[np.float32],
        padded: NDArray[np.bool_] | None,
        *,
        implicit: bool = False,
        doubtful: bool = False,
    ) -> None:
        """Take one slice into account.

        Parameters
        ----------
        hu : (rows, columns) float32 array
        padded : (rows, columns) bool array or None
            Pixels that hold padding; they do not count. The same array for slices of one mask saves time.
        implicit : bool
            The padding was found, not declared.
        doubtful : bool
            Pixels have the declared padding value, and it is one that tissue can have.
        """
        self._doubtful += doubtful
        self._implicit += implicit
        self._values = None if self._values is None else add_few_values(hu, self._values)
        sample = hu[::STRIDE, ::STRIDE] if padded is None else hu.reshape(-1).take(self._sample_beside(padded))
        if sample.size == 0:
            self._constant += 1
            return
        low, high = float(sample.min()), float(sample.max())
        self._constant += low == high
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._sampled += sample.size
        self._air += int(((sample >= AIR_HU[0]) & (sample <= AIR_HU[1])).sum())
        if low < PLAUSIBLE_HU[0] or high > PLAUSIBLE_HU[1]:
            self._implausible += int(((sample < PLAUSIBLE_HU[0]) | (sample > PLAUSIBLE_HU[1])).sum())
        if high - low > WRAP_SPAN_HU:
            self._wrapped += _wrapped_pixels(hu, low, high)

    def _sample_beside(self, padded: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Give the flat positions of the sampled pixels that hold no padding."""
        if self._mask is not padded:
            rows, columns = (STRIDE * at for at in np.nonzero(~padded[::STRIDE, ::STRIDE]))
            self._mask, self._sampled_at = padded, rows * padded.shape[1] + columns
        return self._sampled_at

    @property
    def is_mask(self) -> bool:
        """Whether all pixels of all slices have one of two values, as in a mask of an organ."""
        return self._values is not None and len(self._values) == MASK_VALUES

    def warnings(self) -> tuple[str, ...]:
        """Give the codes of what is odd."""
        sampled = max(1, self._sampled)
        found = {
            WarningCode.MIXED_PADDING: self._doubtful > 0,
            WarningCode.IMPLICIT_PADDING: self._implicit > 0,
            WarningCode.NO_AIR_PEAK: self._air / sampled < AIR_SHARE,
            WarningCode.WRAP_AROUND: self._wrapped >= WRAP_PIXELS,
            WarningCode.CONSTANT_SLICE: self._constant > 0,
            WarningCode.IMPLAUSIBLE_HU: self._implausible / sampled > IMPLAUSIBLE_SHARE,
        }
        return tuple(code for code, applies in found.items() if applies)

    def to_attributes(self) -> dict[str, object]:
        """Give the figures behind the codes, for the store's ``qc`` attribute."""
        seen = bool(self._sampled)
        return {
            "lowest_hu": self._low if seen else None,
            "highest_hu": self._high if seen else None,
            "air_share": round(self._air / max(1, self._sampled), 6),
            "constant_slices": self._constant,
        }


def add_few_values(hu: NDArray[np.float32], known: set[float]) -> set[float] | None:
    """Add the values of a slice to those known; None where they are more than a mask has.

    Examples
    --------
    >>> add_few_values(np.array([[0, 255]], np.float32), {0.0})
    {0.0, 255.0}
    """
    low, high = hu.min(), hu.max()
    values = known | {float(low), float(high)}
    is_mask = len(values) <= MASK_VALUES and bool(((hu == low) | (hu == high)).all())
    return values if is_mask else None


def _wrapped_pixels(hu: NDArray[np.float32], low: float, high: float) -> int:
    """Count pixels at the bottom of the range between two at its top, along rows."""
    span = high - low
    bottom, top = hu < low + 0.1 * span, hu > high - 0.15 * span
    return int((bottom[:, 1:-1] & top[:, :-2] & top[:, 2:]).sum())
