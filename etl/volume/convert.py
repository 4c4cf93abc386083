"""The science on one screen: slices in, a normalized volume and its geometry out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etl.volume.geometry import Layout
from etl.volume.grid import Triple, make_grid
from etl.volume.hounsfield import AIR_HU
from etl.volume.normalize import Normalization, normalize
from etl.volume.patient_space import Geometry
from etl.volume.resample import resample_stack
from etl.volume.validity import OUTSIDE, ValidityMap


@dataclass(frozen=True, eq=False)
class Converted:
    """A normalized volume and what it takes to read it.

    Parameters
    ----------
    volume : (z, y, x) float32 array
        Normalized values.
    geometry : Geometry
    normalization : Normalization
    histogram : uint32 array
        Voxels per HU, as `normalize` counts them.
    validity : (z, y, x) uint8 array or None
        0 outside the scanned field or padding, 1 measured, 2 interpolated across a lost slice; None: all measured.
    position_mm : (n,) float64 array
        Position of each ordered slice along the volume's slice axis; plane ``k`` lies at
        ``origin + k * spacing``, both along that axis.
    """

    volume: NDArray[np.float32]
    geometry: Geometry
    normalization: Normalization
    histogram: NDArray[np.uint32]
    validity: NDArray[np.uint8] | None
    position_mm: NDArray[np.float64]


def convert(
    slices_hu: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_] | None]],
    layout: Layout,
    *,
    spacing_mm: Triple | None,
    zoom: Triple | None,
    window: tuple[int, int],
    center: float | Literal["volume", "none"],
    precision_bits: int | Literal["full"],
) -> Converted:
    """Resample a stack of slices to its grid and normalize it.

    Parameters
    ----------
    slices_hu : iterable of (hu, padded)
        (rows, columns) float32, HU; and a bool array or None that says where padding is, which becomes air. In
        the order of `layout`; read once, one at a time, and overwritten.
    layout : Layout
        Where the slices are.
    spacing_mm, zoom : (z, y, x) floats, optional
        The grid, see `make_grid`.
    window, center, precision_bits
        See `normalize`.

    Raises
    ------
    SeriesError
        From `make_grid`, or from the iterable.
    """
    grid = make_grid(layout, spacing_mm=spacing_mm, zoom=zoom)
    across = grid.across()
    validity_map = ValidityMap(grid, across)
    by_spacing = spacing_mm is not None
    own = resample_stack(
        validity_map.watch(slices_hu, fill=by_spacing),
        in_plane=grid.in_plane(),
        across=across,
        outside=AIR_HU,
        shape=grid.count,
    )
    validity = validity_map.result()
    if validity is not None and by_spacing:
        own[validity == OUTSIDE] = AIR_HU
    volume = own.transpose(grid.permutation)
    normalization, histogram = normalize(volume, window=window, center=center, precision_bits=precision_bits)
    return Converted(
        volume=volume,
        geometry=grid.geometry,
        normalization=normalization,
        histogram=histogram,
        validity=None if validity is None else validity.transpose(grid.permutation),
        position_mm=_position_mm(grid.geometry, grid.plane_of_slice),
    )


def _position_mm(geometry: Geometry, plane_of_slice: NDArray[np.float64]) -> NDArray[np.float64]:
    axis = geometry.slice_axis
    direction = geometry.affine_lps[:3, axis] / geometry.spacing_mm[axis]
    origin = float(direction @ geometry.affine_lps[:3, 3])
    return origin + plane_of_slice * geometry.spacing_mm[axis]
