"""Which stacks are wanted: rules on headers, no pixels."""

from __future__ import annotations

from dataclasses import dataclass

from etl.codes import ExclusionCode
from etl.stack import Stack

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PALETTE = "PALETTE COLOR"


@dataclass(frozen=True)
class Exclusion:
    """Why a stack is not wanted."""

    reason: ExclusionCode
    detail: str


def exclusion_of(  # noqa: PLR0911 - one return a rule, in the order of the rules
    stack: Stack, *, min_slices: int, slice_count: int | None, allow_burned_in: bool = True
) -> Exclusion | None:
    """Decide whether a stack is a CT volume that the run wants.

    Modality decides, not the SOP Class: anonymizers rewrite the class, and multi-frame secondary captures carry
    converted CT volumes with complete geometry.

    Parameters
    ----------
    stack : Stack
    min_slices : int
    slice_count : int or None
        Only stacks of exactly this many slices.
    allow_burned_in : bool
        Take stacks with Burned In Annotation (0028,0301) YES, whose pixels may show a name.

    Returns
    -------
    Exclusion or None
        None: it is wanted.
    """
    key, count = stack.key, len(stack.slices)
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
    if slice_count is not None and count != slice_count:
        return Exclusion(ExclusionCode.SLICE_COUNT, f"{count} slices; exactly {slice_count} are wanted")
    if count < min_slices:
        return Exclusion(ExclusionCode.TOO_FEW_SLICES, f"{count} slices; at least {min_slices} are wanted")
    return None
