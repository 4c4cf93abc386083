"""Resampling as three small matrices, one per axis.

Interpolation on a grid is linear and separable: along each axis it is one matrix (`etl.volume.spline`,
`etl.volume.slice_weights`). The Gaussian against aliasing and the shift of a tilted gantry fold into the same
matrices.

In plane comes first, slice by slice; each result is then added to the output planes it contributes to, so the
full-size stack never exists in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from etl.volume.slice_weights import SliceWeights
from etl.volume.spline import AxisOperator


def resample_stack(
    planes: Iterable[NDArray[np.floating]],
    *,
    in_plane: Iterable[tuple[AxisOperator, AxisOperator]],
    across: SliceWeights,
    outside: float,
    shape: tuple[int, int, int],
) -> NDArray[np.float32]:
    """Resample a stack, one slice in memory at a time.

    Parameters
    ----------
    planes : iterable of (rows, columns) float arrays
        In slice order.
    in_plane : iterable of (row operator, column operator)
        One pair per slice.
    across : SliceWeights
        Weight of each slice in each output plane.
    outside : float
        The value of samples that lie outside a slice's field.
    shape : tuple of int
        (planes, rows, columns) out.

    Returns
    -------
    (planes, rows, columns) float32 array
    """
    volume = np.empty(shape, np.float32)
    untouched = set(range(shape[0]))
    scratch = _Scratch()
    for plane, (rows, columns), (into, weights) in zip(planes, in_plane, across, strict=True):
        small = _in_plane(plane, rows, columns, scratch)
        small[rows.outside] = outside
        small[:, columns.outside] = outside
        for k, weight in zip(into.tolist(), weights, strict=True):
            # Where slices are taken as they are, the weight is 1.
            part = small if weight == 1 else np.multiply(small, weight, out=scratch.like("scaled", small))
            if k in untouched:
                untouched.remove(k)
                volume[k] = part
            else:
                volume[k] += part
    volume[sorted(untouched)] = 0
    return volume


class _Scratch:
    """Arrays used again for every slice: fresh ones of a megabyte cost page faults worth a tenth of the time."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, tuple[int, int], np.dtype[np.floating]], NDArray[np.floating]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
        """Give the array of a name, uninitialized."""
        key = (name, (shape[0], shape[1]), dtype)
        if key not in self._arrays:
            self._arrays[key] = np.empty(shape, dtype)
        return self._arrays[key]

    def like(self, name: str, other: NDArray[np.floating]) -> NDArray[np.floating]:
        """Give the array of a name in the shape and type of another."""
        return self.array(name, other.shape, other.dtype)


def _in_plane(
    plane: NDArray[np.floating], rows: AxisOperator, columns: AxisOperator, scratch: _Scratch
) -> NDArray[np.floating]:
    dtype = rows.blocks[0].weights.dtype
    if plane.dtype != dtype:
        widened = scratch.array("plane", plane.shape, dtype)
        widened[...] = plane
        plane = widened
    half = rows.along_rows(plane, scratch.array("half", (rows.n_out, columns.n_in), dtype))
    return columns.along_columns(half, scratch.array("small", (rows.n_out, columns.n_out), dtype))
