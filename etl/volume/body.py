"""Where in a volume the body is, coarsely: so that crops can be drawn without reading voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELL_VOXELS = 16


def body_shares(volume: NDArray[np.floating], *, above: float, cell: int = CELL_VOXELS) -> NDArray[np.uint8]:
    """Give the share of body in each cube of `cell` voxels.

    Parameters
    ----------
    volume : (z, y, x) array
    above : float
        Values above it are body.
    cell : int
        Side of a cube; those at the end of an axis are cut off.

    Returns
    -------
    (z, y, x) uint8 array, 0 to 255
        255 times the share, rounded up: 0 only where there is none.

    Examples
    --------
    >>> volume = np.zeros((3, 4, 2))
    >>> volume[0, :2] = volume[2, 2, 0] = 1
    >>> body_shares(volume, above=0.5, cell=2).tolist()
    [[[128], [0]], [[0], [64]]]
    """
    starts = [np.arange(0, n, cell) for n in volume.shape]
    counts = np.empty([len(one) for one in starts], np.int64)
    for k, first in enumerate(starts[0]):
        is_body = volume[first : first + cell] > above
        planes = is_body.sum(axis=0, dtype=np.int64)
        counts[k] = np.add.reduceat(np.add.reduceat(planes, starts[1], axis=0), starts[2], axis=1)
    sides = [np.minimum(cell, n - one) for n, one in zip(volume.shape, starts, strict=True)]
    voxels = sides[0][:, None, None] * sides[1][:, None] * sides[2]
    shares: NDArray[np.uint8] = np.ceil(255 * counts / voxels).astype(np.uint8)
    return shares
