"""Masks that pose as CT, told by their pixels before a default is chosen: the only look the plan takes at any."""

from __future__ import annotations

from etl.dicom.pixels import read_slices
from etl.errors import SeriesError
from etl.stack import Stack
from etl.volume.hounsfield import stored_values, to_hounsfield
from etl.volume.quality import MASK_VALUES, add_few_values

# CT needs more; what has fewer bits was drawn.
MAX_MASK_BITS = 8
MASK_DETAIL = "all pixels have one of two values: a mask, not a scan"


def holds_few_values(stack: Stack) -> bool:
    """Whether the pixels of a stack have too few bits for Hounsfield units."""
    return all(fmt.bits_stored <= MAX_MASK_BITS for fmt in stack.formats)


def is_mask(stack: Stack) -> bool:
    """Whether all pixels have one of two values; reading ends with the first slice that has a third."""
    values: set[float] = set()
    slices = stack.slices
    try:
        for i, raw in enumerate(read_slices(stack)):
            fmt = stack.formats[slices.format[i]]
            stored = stored_values(raw, bits_stored=fmt.bits_stored, high_bit=fmt.high_bit)
            hu = to_hounsfield(stored, slope=float(slices.slope[i]), intercept=float(slices.intercept[i]))
            found = add_few_values(hu, values)
            if found is None:
                return False
            values = found
    except SeriesError:
        # Who processes it says why it cannot be read.
        return False
    return len(values) == MASK_VALUES
