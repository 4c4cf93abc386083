"""The voxels of a mask to pixels on planes, by their own affine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.codes import LabelCode
from etl.labels.mask_file import MaskVoxels
from etl.labels.source_mask import LabelError, MaskSegment, PixelMask
from etl.store.label_encoding import MAX_VALUE, Segment
from etl.volume.plane_masks import MaskPlanes


def pixel_mask(mask: MaskVoxels) -> PixelMask:
    """Cut a mask into planes across its coarsest axis.

    Whole numbers are segments, fractions of 0 to 1 are one segment.

    Parameters
    ----------
    mask : MaskVoxels

    Raises
    ------
    LabelError
        ``unreadable-mask``: it has other values.
    """
    values, affine_lps, names = mask.values, mask.affine_lps, mask.names
    steps = affine_lps[:3, :3].T
    is_fractional = _is_fractional(values)
    # Of equal steps the last one: slices, as most programs write them.
    lengths = np.round(np.linalg.norm(steps, axis=1), 6)
    across = 2 - int(np.argmax(lengths[::-1]))
    along, down = (axis for axis in range(3) if axis != across)
    if np.cross(steps[along], steps[down]) @ steps[across] < 0:
        along, down = down, along
    planes_values = values.transpose(across, down, along)
    origins = affine_lps[:3, 3] + np.arange(values.shape[across])[:, None] * steps[across]
    planes = MaskPlanes(origins, steps[down], steps[along], float(lengths[across]))
    if is_fractional:
        pixels: dict[int, NDArray[Any]] = {n: plane.astype(np.float32) for n, plane in enumerate(planes_values)}
        return PixelMask(planes, (MaskSegment(Segment(1, names.get(1, "")), pixels),), is_fractional=True)
    numbers = [int(number) for number in np.unique(values) if number != 0]
    if numbers and not 0 < numbers[0] <= numbers[-1] <= MAX_VALUE:
        raise LabelError(
            LabelCode.UNREADABLE_MASK,
            f"values run from {numbers[0]} to {numbers[-1]}; allowed is 0 to {MAX_VALUE}",
        )
    segments = tuple(
        MaskSegment(
            Segment(number, names.get(number, "")),
            {n: found for n, plane in enumerate(planes_values) if (found := plane == number).any()},
        )
        for number in numbers
    )
    return PixelMask(planes, segments)


def _is_fractional(values: NDArray[Any]) -> bool:
    """Tell fractions from whole numbers; anything else is no mask."""
    if values.dtype.kind in "biu":
        return False
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise LabelError(LabelCode.UNREADABLE_MASK, f"its values are {values.dtype}; allowed are finite numbers")
    if (values == np.rint(values)).all():
        return False
    if values.min() < 0 or values.max() > 1:
        raise LabelError(
            LabelCode.UNREADABLE_MASK,
            f"values run from {values.min()} to {values.max()}; allowed are whole numbers, or fractions of 0 to 1",
        )
    return True
