"""Find the DICOM slice behind a plane of a volume, and the plane nearest to a slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl.volume.slice_weights import linear_matrix
from etl.volume.spline import anti_alias_sigma, dense_zoom

# Far below any scanner's positioning, far above the rounding of float64 sums of millimeters.
_TIE_MM = 1e-6


@dataclass(frozen=True)
class SourceSlice:
    """One DICOM slice that a volume was made from."""

    sop_instance_uid: str
    """SOP Instance UID (0008,0018)."""
    instance_number: int
    """Instance Number (0020,0013); -1 where absent."""
    position_mm: float
    """Along the direction of the volume's slice axis, mm."""
    frame_number: int = 1
    """Frame of the instance, counted from 1 as DICOM does."""


def nearest_position(positions_mm: Sequence[float], position_mm: float) -> int:
    """Find the nearest of several positions; of two at the same distance, the first.

    Examples
    --------
    >>> nearest_position([0.0, 5.0, 10.0], 7.5)
    1
    """
    distance = np.abs(np.asarray(positions_mm, np.float64) - position_mm)
    return int(np.flatnonzero(distance <= distance.min() + _TIE_MM)[0])


def nearest_index(position_mm: float, *, origin_mm: float, step_mm: float, count: int) -> int:
    """Find the nearest of `count` points `step_mm` apart; of two at the same distance, the lower.

    Examples
    --------
    >>> nearest_index(7.5, origin_mm=0.0, step_mm=5.0, count=3)
    1
    >>> nearest_index(99.0, origin_mm=0.0, step_mm=5.0, count=3)
    2
    """
    index = int(np.ceil((position_mm - origin_mm - _TIE_MM) / step_mm - 0.5))
    return min(max(index, 0), count - 1)


def plane_weights(
    positions_mm: Sequence[float], plane: int, *, origin_mm: float, step_mm: float, zoom: float | None
) -> NDArray[np.float64]:
    """Give the share of each slice in one plane of the volume, as the volume was made.

    Parameters
    ----------
    positions_mm : sequence of float
        Of the slices, increasing.
    plane : int
    origin_mm, step_mm : float
        Position of plane 0 and distance between planes.
    zoom : float or None
        Factor along the slice axis of a volume made by `scipy.ndimage.zoom` (1: the scanner's own planes); None
        where planes were placed by spacing.

    Returns
    -------
    (slices,) float64 array
        Sums to 1; a cubic zoom has negative shares too.
    """
    positions = np.asarray(positions_mm, np.float64)
    if zoom is not None:
        matrix = np.eye(len(positions)) if zoom == 1 else dense_zoom(len(positions), zoom)
        return np.asarray(matrix[plane])
    middle = float(np.median(np.diff(positions)))
    at = np.array([origin_mm + plane * step_mm])
    shares = linear_matrix(positions, at, sigma_mm=middle * anti_alias_sigma(step_mm / middle))
    return np.asarray(shares[0])
