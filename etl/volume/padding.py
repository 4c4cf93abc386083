"""Padding that has the value of tissue: what lies outside the scanned field, and never what lies in a patient.

Files declare 0 as Pixel Padding Value where 0 HU is water. So a value that tissue can have marks padding only
where it fills an area that reaches the edge of the image; elsewhere it is a measured pixel of that value.

References
----------
DICOM PS3.3 C.7.5.1.1.2, Pixel Padding Value and Pixel Padding Range Limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Between air and what no scanner measures. Thinner than air is no tissue, whatever lies around it.
TISSUE_HU = (-1000.0, 4000.0)
# Single pixels at the edge happen to have any value; a corner beside a round field is 5 % of the image.
MIN_AREA_SHARE = 0.001


def may_be_tissue(values_hu: tuple[float, ...]) -> bool:
    """Tell whether a padding value, or a range of them, reaches into what tissue can have.

    Parameters
    ----------
    values_hu : tuple of float
        Pixel Padding Value, and Range Limit if there is one, after rescale.

    Examples
    --------
    >>> may_be_tissue((0.0,)), may_be_tissue((-2000.0,)), may_be_tissue((-2000.0, 50.0)), may_be_tissue((31743.0,))
    (True, False, True, False)
    """
    return max(values_hu) >= TISSUE_HU[0] and min(values_hu) <= TISSUE_HU[1]


def outside_field(
    mask: NDArray[np.bool_], hu: NDArray[np.float32], *, padding_hu: float
) -> NDArray[np.bool_] | None:
    """Keep of the marked pixels those that are no tissue.

    Parameters
    ----------
    mask : (rows, columns) bool array
        Pixels that have a padding value.
    hu : (rows, columns) float32 array, HU
        What they would be as Hounsfield units.
    padding_hu : float
        Pixel Padding Value itself; of a range, nothing else that tissue can have is padding.

    Returns
    -------
    (rows, columns) bool array, or None where nothing is left
    """
    impossible = mask & ((hu < TISSUE_HU[0]) | (hu > TISSUE_HU[1]))
    kept = impossible | _areas_at_the_edge(mask & (hu == np.float32(padding_hu)))
    return kept if kept.any() else None


def _areas_at_the_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the areas of a mask that touch the edge of the image and are more than specks."""
    if not mask.any():
        return mask
    # It takes 0.3 s to load, and few series have padding that tissue could be.
    from scipy import ndimage  # noqa: PLC0415

    labels, count = ndimage.label(mask)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    keep = np.zeros(count + 1, bool)
    keep[edge] = True
    keep &= np.bincount(labels.ravel(), minlength=count + 1) >= MIN_AREA_SHARE * mask.size
    keep[0] = False
    return np.asarray(keep[labels])
