"""How much each slice has in each plane of the output: linear between true positions, or scipy's zoom.

Of a long stack nearly all weights are zero. They are worked out in parts and kept without their zeros, since the
whole matrix of 20,000 slices would have 3 GB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from etl.volume.resample import DENSE_SAMPLES, GAUSSIAN_TRUNCATE, dense_zoom, zoom_operator

# Planes whose weights are worked out together.
WEIGHT_ROWS = 256


def linear_matrix(
    position_mm: NDArray[np.float64], target_mm: NDArray[np.float64], *, sigma_mm: float = 0.0
) -> NDArray[np.float64]:
    """Give the matrix that interpolates linearly between irregular positions.

    Parameters
    ----------
    position_mm : (n,) float64 array
        Where the slices are, strictly increasing.
    target_mm : (m,) float64 array
        Where planes are wanted; beyond the outer slices the outer slice is repeated.
    sigma_mm : float
        Standard deviation of the Gaussian against aliasing; the interpolant is averaged under it.

    Returns
    -------
    (m, n) float64 array
        Rows sum to 1.
    """
    offsets, density = np.zeros(1), np.ones(1)
    if sigma_mm > 0:
        offsets = np.linspace(-GAUSSIAN_TRUNCATE, GAUSSIAN_TRUNCATE, 65) * sigma_mm
        density = np.exp(-0.5 * (offsets / sigma_mm) ** 2)
        density /= density.sum()
    matrix = np.zeros((len(target_mm), len(position_mm)))
    rows = np.arange(len(target_mm))
    for offset, share in zip(offsets, density, strict=True):
        at = np.clip(target_mm + offset, position_mm[0], position_mm[-1])
        left = np.clip(np.searchsorted(position_mm, at, side="right") - 1, 0, len(position_mm) - 2)
        fraction = (at - position_mm[left]) / (position_mm[left + 1] - position_mm[left])
        np.add.at(matrix, (rows, left), share * (1 - fraction))
        np.add.at(matrix, (rows, left + 1), share * fraction)
    return matrix


def linear_weights(
    position_mm: NDArray[np.float64], target_mm: NDArray[np.float64], *, sigma_mm: float = 0.0
) -> sparse.csc_array:
    """Give `linear_matrix` without its zeros."""
    parts, n = [], len(position_mm)
    for start in range(0, len(target_mm), WEIGHT_ROWS):
        targets = target_mm[start : start + WEIGHT_ROWS]
        reach = GAUSSIAN_TRUNCATE * sigma_mm
        low = int(np.searchsorted(position_mm, targets.min() - reach, side="right")) - 2
        high = int(np.searchsorted(position_mm, targets.max() + reach)) + 2
        low, high = max(0, min(low, n - 2)), min(n, max(high, 2))
        part = sparse.coo_array(linear_matrix(position_mm[low:high], targets, sigma_mm=sigma_mm))
        parts.append((part.data, part.row + start, part.col + low))
    values, rows, columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sparse.csc_array((values, (rows, columns)), shape=(len(target_mm), n))


def zoom_weights(n: int, factor: float, *, flipped: bool = False) -> sparse.csc_array:
    """Give the weights of n slices in the planes of `scipy.ndimage.zoom`'s cubic spline, (planes, n)."""
    if factor == 1:
        rows = np.arange(n)[::-1] if flipped else np.arange(n)
        return sparse.csc_array((np.ones(n), (rows, np.arange(n))), shape=(n, n))
    if n <= DENSE_SAMPLES:
        matrix = dense_zoom(n, factor)
        return sparse.csc_array(matrix[::-1] if flipped else matrix)
    operator = zoom_operator(n, factor, flipped=flipped)
    parts = [sparse.coo_array(block.weights) for block in operator.blocks]
    rows = np.concatenate([part.row + block.start for part, block in zip(parts, operator.blocks, strict=True)])
    columns = np.concatenate([part.col + block.low for part, block in zip(parts, operator.blocks, strict=True)])
    values = np.concatenate([part.data for part in parts])
    return sparse.csc_array((values, (rows, columns)), shape=(operator.n_out, n))
