"""How much each slice has in each plane of the output: linear between true positions, or scipy's zoom.

Of a long stack nearly all weights are zero. They are worked out in parts and kept without their zeros, since the
whole matrix of 20,000 slices would have 3 GB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.volume.spline import DENSE_SAMPLES, GAUSSIAN_TRUNCATE, dense_zoom, zoom_operator

# Planes whose weights are worked out together.
WEIGHT_ROWS = 256


@dataclass(frozen=True, eq=False)
class SliceWeights:
    """A sparse matrix (planes, slices), by slice: compressed columns, read one after the other.

    Item k is the planes that slice k has a share in, (m,) intp, and the shares, (m,) float64.
    """

    starts: NDArray[np.intp]
    planes: NDArray[np.intp]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, parts: Iterable[tuple[int, int, NDArray[Any]]], slices: int) -> SliceWeights:
        """Join dense parts, (first plane, first slice, (planes, slices) float64 array), in the planes' order."""
        rows, columns, values = [], [], []
        for plane, first, part in parts:
            row, column = np.nonzero(part)
            rows.append(row + plane)
            columns.append(column + first)
            values.append(part[row, column])
        at = np.concatenate(columns)
        order = np.argsort(at, kind="stable")
        starts = np.concatenate([[0], np.bincount(at, minlength=slices).cumsum()])
        return cls(starts, np.concatenate(rows)[order], np.concatenate(values)[order])

    def __len__(self) -> int:
        """Count the slices."""
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Give the planes and shares of one slice after the other."""
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Give the planes and shares of slice k."""
        part = slice(self.starts[k], self.starts[k + 1])
        return self.planes[part], self.weights[part]


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
) -> SliceWeights:
    """Give `linear_matrix` without its zeros."""
    parts, n = [], len(position_mm)
    for start in range(0, len(target_mm), WEIGHT_ROWS):
        targets = target_mm[start : start + WEIGHT_ROWS]
        reach = GAUSSIAN_TRUNCATE * sigma_mm
        low = int(np.searchsorted(position_mm, targets.min() - reach, side="right")) - 2
        high = int(np.searchsorted(position_mm, targets.max() + reach)) + 2
        low, high = max(0, min(low, n - 2)), min(n, max(high, 2))
        parts.append((start, low, linear_matrix(position_mm[low:high], targets, sigma_mm=sigma_mm)))
    return SliceWeights.of(parts, n)


def zoom_weights(n: int, factor: float, *, flipped: bool = False) -> SliceWeights:
    """Give the weights of n slices in the planes of `scipy.ndimage.zoom`'s cubic spline, (planes, n)."""
    if factor == 1:
        planes = np.arange(n)[::-1] if flipped else np.arange(n)
        return SliceWeights(np.arange(n + 1), planes, np.ones(n))
    if n <= DENSE_SAMPLES:
        matrix = dense_zoom(n, factor)
        return SliceWeights.of([(0, 0, matrix[::-1] if flipped else matrix)], n)
    operator = zoom_operator(n, factor, flipped=flipped, dtype=np.float64)
    return SliceWeights.of([(block.start, block.low, block.weights) for block in operator.blocks], n)
