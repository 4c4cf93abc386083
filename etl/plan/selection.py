"""Which stacks are wanted: rules on headers, no pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etl.codes import ExclusionCode
from etl.errors import SeriesError
from etl.plan.evidence import with_evidence
from etl.plan.split_stacks import along_mm
from etl.stack import Stack
from etl.volume.geometry import SAME_POSITION_MM

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PALETTE = "PALETTE COLOR"
ONE_POSITION_SHARE = 0.05


@dataclass(frozen=True)
class Exclusion:
    """Why a stack is not wanted."""

    reason: ExclusionCode
    detail: str


def exclusion_of(stack: Stack, *, allow_burned_in: bool = True) -> Exclusion | None:
    """Decide whether a stack is of the kind that a run wants: CT images.

    Modality decides, not the SOP Class: anonymizers rewrite the class, and multi-frame secondary captures carry
    converted CT volumes with complete geometry.

    Parameters
    ----------
    stack : Stack
    allow_burned_in : bool
        Take stacks with Burned In Annotation (0028,0301) YES, whose pixels may show a name.

    Returns
    -------
    Exclusion or None
        None: it is wanted.
    """
    key = stack.key
    if key.modality != "CT" and not (key.modality == "" and not key.has_pixels):
        return Exclusion(ExclusionCode.NOT_CT, f"Modality (0008,0060) is {key.modality!r}; 'CT' is wanted")
    if not key.has_pixels:
        return Exclusion(ExclusionCode.NO_PIXELS, "no Pixel Data (7FE0,0010)")
    if key.is_localizer:
        return Exclusion(ExclusionCode.LOCALIZER, "Image Type (0008,0008) names a localizer")
    has_palette = any(fmt.photometric_interpretation == PALETTE for fmt in stack.formats)
    if key.sop_class_uid == SECONDARY_CAPTURE or key.samples_per_pixel != 1 or has_palette:
        return Exclusion(
            ExclusionCode.SECONDARY_CAPTURE,
            f"SOP Class UID (0008,0016) is {key.sop_class_uid}, Samples per Pixel (0028,0002) is "
            f"{key.samples_per_pixel}{', with a palette' if has_palette else ''}; a CT image with 1 gray sample "
            "is wanted",
        )
    if stack.burned_in_annotation and not allow_burned_in:
        return Exclusion(ExclusionCode.SECONDARY_CAPTURE, "Burned In Annotation (0028,0301) is YES")
    return None


def too_few(stack: Stack, *, min_slices: int, slice_count: int | None) -> Exclusion | None:
    """Decide whether a stack has the places that make a volume.

    Parameters
    ----------
    stack : Stack
    min_slices : int
    slice_count : int or None
        Only stacks of exactly this many slices.
    """
    count = len(stack.slices)
    if is_at_one_position(stack):
        return Exclusion(
            ExclusionCode.SINGLE_POSITION,
            f"all {count} slices lie at one position (0020,0032), as in a monitoring scan",
        )
    if slice_count is not None and count != slice_count:
        return Exclusion(ExclusionCode.SLICE_COUNT, f"{count} slices; exactly {slice_count} are wanted")
    if count < min_slices:
        detail = with_evidence(f"{count} slices; at least {min_slices} are wanted", stack)
        return Exclusion(ExclusionCode.TOO_FEW_SLICES, detail)
    return None


def is_at_one_position(stack: Stack) -> bool:
    """Whether several slices lie at one place along their normal; a table may stop a little off."""
    if len(stack.slices) < 2:
        return False
    try:
        extent = float(np.ptp(along_mm(stack)))
    except SeriesError:
        return False
    thickness = stack.slices.thickness_mm
    known = thickness[np.isfinite(thickness)]
    return extent <= max(SAME_POSITION_MM, ONE_POSITION_SHARE * float(np.median(known)) if len(known) else 0.0)
