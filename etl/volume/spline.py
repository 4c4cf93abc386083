"""Interpolation along one axis as a banded matrix: ``out = W @ in``.

The cubic spline is scipy's (`scipy.ndimage.zoom`, `map_coordinates`, ``mode="nearest"``) and the Gaussian its
`gaussian_filter1d`: they stay the definition, and the tests hold this to them. The few lines stand here because
`scipy.ndimage` takes 0.3 s of CPU to load in every worker, half of what a small run needs to start.

A row of W has about 25 entries that matter, so W is cut into blocks of rows with the columns they need.

References
----------
M. Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Process. Mag. 16(6), 1999: the
recursive inverse filter of the cubic B-spline and its mirrored ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# 16 measured best, for float32 and float64: wider blocks multiply more zeros, narrower ones call BLAS too often.
BLOCK_ROWS = 16
# scipy pads by 12 samples before it filters for mode="nearest"; the same number gives the same spline.
SPLINE_PAD = 12
# The cubic B-spline's inverse filter decays by 0.268 a sample: 1e-8 after 14.
SPLINE_REACH = 14
GAUSSIAN_TRUNCATE = 4.0
# A square matrix of 16,000 samples has 2 GB. Longer axes than this are worked on in windows, so far beyond what a
# row reads that what is left of their ends is below the last bit.
DENSE_SAMPLES = 1024
WINDOW_MARGIN = 64


@dataclass(frozen=True, eq=False)
class Block:
    """Rows ``start:stop`` of an operator; they read the input's ``low:high``."""

    start: int
    stop: int
    low: int
    high: int
    weights: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class AxisOperator:
    """A banded matrix (n_out, n_in) that resamples one axis."""

    n_in: int
    n_out: int
    blocks: tuple[Block, ...]
    outside: NDArray[np.intp]
    """Output samples that lie outside the source's field; their weights are zero."""

    def along_rows(self, plane: NDArray[np.floating], out: NDArray[np.floating]) -> NDArray[np.floating]:
        """Resample axis 0 of `plane` (n_in, columns) into `out` (n_out, columns)."""
        for block in self.blocks:
            np.matmul(block.weights, plane[block.low : block.high], out=out[block.start : block.stop])
        return out

    def along_columns(self, plane: NDArray[np.floating], out: NDArray[np.floating]) -> NDArray[np.floating]:
        """Resample axis 1 of `plane` (rows, n_in) into `out` (rows, n_out)."""
        for block in self.blocks:
            np.matmul(plane[:, block.low : block.high], block.weights.T, out=out[:, block.start : block.stop])
        return out


def anti_alias_sigma(step: float) -> float:
    """Give the Gaussian's standard deviation, in source samples, for output samples `step` source samples apart.

    Zero where the grid does not shrink. ``(step - 1) / 2`` is the rule of `skimage.transform.resize`: it takes
    less contrast from tissue than the width-matching rule (Cardoso et al., MICCAI 2015) and aliases little.
    """
    return max(0.0, (abs(step) - 1.0) / 2.0)


def dense_zoom(n: int, factor: float) -> NDArray[np.float64]:
    """Give the matrix of `scipy.ndimage.zoom` by `factor` with a cubic spline and ``mode="nearest"``."""
    return dense_spline(n, np.linspace(0, n - 1, round(n * factor)))


def dense_spline(n: int, index: NDArray[np.float64], *, sigma: float = 0.0) -> NDArray[np.float64]:
    """Give the matrix that samples a cubic spline through n samples at fractional positions.

    Equal to `scipy.ndimage.map_coordinates(..., order=3, mode="nearest")` after
    `scipy.ndimage.gaussian_filter1d(..., sigma, mode="nearest")`.

    Parameters
    ----------
    n : int
        Samples of the source axis, at positions 0 … n-1.
    index : (m,) float64 array
        Where to sample, in source samples. Rows for positions outside the field, which reaches half a sample
        beyond the outer ones, are zero.
    sigma : float
        Standard deviation of the Gaussian against aliasing, in source samples.

    Returns
    -------
    (m, n) float64 array
        Rows inside the field sum to 1.
    """
    coefficients = _spline_coefficients(n, sigma)
    clipped = np.clip(index, -0.5, n - 0.5) + SPLINE_PAD
    base = np.floor(clipped).astype(np.intp)
    basis = _cubic_basis(clipped - base)
    matrix = sum(basis[:, t, None] * coefficients[base + t - 1] for t in range(4))
    return np.asarray(matrix) * _inside(n, index)[:, None]


def spline_operator(
    n: int, index: NDArray[np.float64], *, sigma: float = 0.0, dtype: type[np.floating] = np.float32
) -> AxisOperator:
    """Give `dense_spline` as a banded operator; rows keep their sum of 1 when the far tails are cut."""
    reach = SPLINE_REACH + int(np.ceil(GAUSSIAN_TRUNCATE * sigma))
    margin = n if n <= DENSE_SAMPLES else WINDOW_MARGIN + 2 * reach
    inside = _inside(n, index)
    clipped = np.clip(index, -0.5, n - 0.5) + SPLINE_PAD
    base = np.floor(clipped).astype(np.intp)
    basis = _cubic_basis(clipped - base) * inside[:, None]
    blocks = []
    for start in range(0, len(index), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(index)))
        low = max(0, int(base[rows].min()) - SPLINE_PAD - reach)
        high = min(n, int(base[rows].max()) - SPLINE_PAD + reach + 2)
        first, last = max(0, low - margin), min(n, high + margin)
        coefficients = _spline_coefficients(last - first, sigma)[:, low - first : high - first]
        at = base[rows] - first
        weights = np.asarray(sum(basis[rows, t, None] * coefficients[at + t - 1] for t in range(4)))
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total == 0, 1.0, total)
        blocks.append(Block(rows.start, rows.stop, low, high, np.ascontiguousarray(weights, dtype)))
    return AxisOperator(n, len(index), tuple(blocks), np.flatnonzero(inside == 0))


def zoom_operator(
    n: int, factor: float, *, flipped: bool = False, dtype: type[np.floating] = np.float32
) -> AxisOperator:
    """Give `scipy.ndimage.zoom`'s cubic spline along one axis, mode="nearest", as a banded operator."""
    if n <= DENSE_SAMPLES:
        matrix = np.eye(n) if factor == 1 else dense_zoom(n, factor)
        return banded_operator(np.ascontiguousarray(matrix[::-1]) if flipped else matrix, dtype=dtype)
    index = np.linspace(0, n - 1, round(n * factor))
    return spline_operator(n, index[::-1] if flipped else index, dtype=dtype)


def banded_operator(matrix: NDArray[np.float64], *, dtype: type[np.floating] = np.float32) -> AxisOperator:
    """Cut a dense matrix (n_out, n_in) into blocks without the entries below 1e-9."""
    n_out, n_in = matrix.shape
    blocks = []
    for start in range(0, n_out, BLOCK_ROWS):
        rows = matrix[start : start + BLOCK_ROWS]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > 1e-9)
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        weights = np.ascontiguousarray(rows[:, low:high], dtype)
        blocks.append(Block(start, start + len(rows), low, high, weights))
    return AxisOperator(n_in, n_out, tuple(blocks), np.empty(0, np.intp))


def _inside(n: int, index: NDArray[np.float64]) -> NDArray[np.float64]:
    # A thousandth of a sample forgives rounding at the very edge of the field.
    return ((index >= -0.501) & (index <= n - 0.499)).astype(np.float64)


def _cubic_basis(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (m, 4) of the cubic B-spline's coefficients at floor-1 … floor+2."""
    s = 1.0 - t
    return np.stack([s**3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (4 - 6 * s**2 + 3 * s**3) / 6, t**3 / 6], axis=1)


@lru_cache(maxsize=8)
def _spline_coefficients(n: int, sigma: float) -> NDArray[np.float64]:
    """Matrix (n + 2 * pad, n) from samples to B-spline coefficients of the smoothed, padded samples."""
    samples = np.eye(n)
    if sigma > 0:
        samples = _gaussian(samples, sigma)
    coefficients = np.pad(samples, ((SPLINE_PAD, SPLINE_PAD), (0, 0)), mode="edge")
    _inverse_filter(coefficients)
    coefficients.flags.writeable = False
    return coefficients


def _gaussian(samples: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Smooth axis 0 as `scipy.ndimage.gaussian_filter1d` does, the outer samples repeated beyond the ends."""
    radius = int(GAUSSIAN_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(samples, ((radius, radius), (0, 0)), mode="edge")
    smooth = np.zeros_like(samples)
    for k, weight in enumerate(weights):
        smooth += weight * padded[k : k + len(samples)]
    return smooth


def _inverse_filter(samples: NDArray[np.float64]) -> None:
    """Turn samples along axis 0 into coefficients of the cubic B-spline, in place; mirrored at the ends."""
    n, pole = len(samples), math.sqrt(3.0) - 2.0
    samples *= (1 - pole) * (1 - 1 / pole)
    powers = pole ** np.arange(1, n - 1)
    last = pole ** (n - 1)
    mirrored = samples[1:-1] + last * samples[-2:0:-1]
    samples[0] = (samples[0] + last * samples[-1] + powers @ mirrored) / (1 - last * last)
    for k in range(1, n):
        samples[k] += pole * samples[k - 1]
    samples[-1] = (pole * samples[-2] + samples[-1]) * pole / (pole * pole - 1)
    for k in range(n - 2, -1, -1):
        np.subtract(samples[k + 1], samples[k], out=samples[k])
        samples[k] *= pole
