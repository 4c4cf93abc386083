"""What the header of one slice says of its stack, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Plane(NamedTuple):
    """How the image plane of a slice lies, and how its pixels are spaced."""

    orientation: tuple[float, ...]
    pixel_spacing_mm: tuple[float, ...]


@dataclass(frozen=True)
class Header:
    """What the header of one slice says of its stack.

    Parameters
    ----------
    kind : tuple
        Equal for headers that differ in nothing that tells stacks apart.
    sop_instance_uid : bytes
        The slice.
    dicom : dict
        Technical attributes on the allow-list, by DICOM keyword.
    dropped : tuple of str
        Keywords of attributes on the allow-list whose value was not kept.
    convolution_kernel : str
        Convolution Kernel (0018,1210).
    description : str
        Series Description (0008,103E), lower case; for the choice of a default series only, it is free text.
    image_type : str
        Image Type (0008,0008), joined by a backslash.
    has_contrast : bool
        Contrast/Bolus Agent (0018,0010) is filled in.
    is_lossy : bool
        The pixels have been through a lossy compression.
    has_burned_in_annotation : bool
        Burned In Annotation (0028,0301) is YES.
    frame_groups : int
        Items of the Per-Frame Functional Groups Sequence (5200,9230); 0 where absent.
    images_in_acquisition : int
        Images in Acquisition (0020,1002); 0 where absent.
    concatenation : tuple of (str, int, int)
        Concatenation UID (0020,9161), In-concatenation Number (0020,9162) and Total Number (0020,9163); empty
        and 0 where absent.
    person : tuple of str
        Birth date, sex and issuer of the Patient ID, to compare; never shown.
    """

    kind: tuple[object, ...] = ()
    sop_instance_uid: bytes = b""
    dicom: dict[str, object] = field(default_factory=dict, hash=False)
    dropped: tuple[str, ...] = ()
    convolution_kernel: str = ""
    description: str = ""
    image_type: str = ""
    has_contrast: bool = False
    is_lossy: bool = False
    has_burned_in_annotation: bool = False
    frame_groups: int = 0
    images_in_acquisition: int = 0
    concatenation: tuple[str, int, int] = ("", 0, 0)
    person: tuple[str, ...] = ()
