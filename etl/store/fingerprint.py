"""What the cohort looks like, from merged histograms: exact, and the same after a resumed run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.volume.normalize import Normalization

BODY_HU = -500
"""Voxels above this are body: it separates tissue from air and most of the lung.

Where the window begins above it, so does the body: the first bin holds all the air that was clipped.
"""


def body_threshold(normalization: Normalization) -> float:
    """Give the stored value above which a voxel is body."""
    return normalization.value_of(max(BODY_HU, normalization.window_hu[0]))


def fingerprint(histograms: Iterable[NDArray[np.uint32]], window: tuple[int, int]) -> dict[str, Any]:
    """Describe the intensities of a cohort.

    Parameters
    ----------
    histograms : iterable of (high - low + 1,) uint32 arrays
        Voxels per HU; one a volume.
    window : (low, high), whole HU
        The first and the last bin.

    Returns
    -------
    dict
        ``volumes``, ``voxels``, ``body_voxels`` and over the body voxels ``mean_hu``, ``std_hu``,
        ``percentile_00_5_hu``, ``percentile_50_0_hu``, ``percentile_99_5_hu``; None where there is no body.

    Examples
    --------
    >>> counts = np.zeros(3001, np.uint32)
    >>> counts[[0, 1000, 1040]] = 50, 1, 1
    >>> found = fingerprint([counts], (-1000, 2000))
    >>> found["voxels"], found["body_voxels"], found["mean_hu"], found["std_hu"]
    (52, 2, 20.0, 20.0)
    """
    total = np.zeros(window[1] - window[0] + 1, np.int64)
    volumes = 0
    for histogram in histograms:
        total += histogram
        volumes += 1
    hu = np.arange(window[0], window[1] + 1)
    is_body = hu > max(BODY_HU, window[0])
    body, body_hu = total[is_body], hu[is_body].astype(np.float64)
    count = int(body.sum())
    found: dict[str, Any] = {"volumes": volumes, "voxels": int(total.sum()), "body_voxels": count}
    names = ("mean_hu", "std_hu", "percentile_00_5_hu", "percentile_50_0_hu", "percentile_99_5_hu")
    if count == 0:
        return {**found, **dict.fromkeys(names)}
    mean = float(body @ body_hu) / count
    std = float(np.sqrt(body @ (body_hu - mean) ** 2 / count))
    cumulative = np.cumsum(body)
    percentiles = [float(body_hu[np.searchsorted(cumulative, share * count)]) for share in (0.005, 0.5, 0.995)]
    return {**found, **dict(zip(names, (mean, std, *percentiles), strict=True))}
