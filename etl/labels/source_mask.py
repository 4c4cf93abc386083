"""What every kind of mask becomes before it is placed, and the error that refuses one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etl.codes import LabelCode
from etl.errors import EtlError
from etl.store.label_encoding import Segment
from etl.volume.plane_masks import MaskPlanes

SourceKind = Literal["seg", "rtstruct", "nifti", "nrrd", "dicom"]


class LabelError(EtlError):
    """One source cannot become a label of one series.

    Parameters
    ----------
    code : LabelCode
    message : str
        Attribute, value found, value allowed. Never a name or a birth date.
    """

    def __init__(self, code: LabelCode, message: str) -> None:
        super().__init__(message)
        self.code: LabelCode = code

    def __reduce__(self) -> tuple[type[LabelError], tuple[LabelCode, str]]:
        return type(self), (self.code, str(self))


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn whatever a library raises within, where a file is damaged, into a `LabelError`.

    No list of exceptions would do: pydicom, nibabel and pynrrd hand on struct.error, zlib.error and their own.

    Parameters
    ----------
    what : str
        That cannot be read.

    Raises
    ------
    LabelError
        ``unreadable-mask``
    MemoryError
        As it came: the file may be whole.
    """
    try:
        yield
    except (EtlError, MemoryError):
        raise
    except Exception as error:
        raise LabelError(LabelCode.UNREADABLE_MASK, f"{what} cannot be read ({type(error).__name__})") from error


@dataclass(frozen=True)
class References:
    """What a source says of itself and of the images that it was drawn on.

    Parameters
    ----------
    source_id : str
        SOP Instance UID (0008,0018), or for other files a digest of the file's name: two versions of one source
        have the same.
    series_instance_uids, sop_instance_uids : tuple of str
        Of the images, sorted; empty where it does not say.
    frame_of_reference_uid : str
        (0020,0052); empty where it does not say.
    """

    source_id: str
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()
    frame_of_reference_uid: str = ""


@dataclass(frozen=True, eq=False)
class MaskSegment:
    """One segment of a source as pixels on planes.

    Parameters
    ----------
    about : Segment
    pixels : mapping of (rows, columns) arrays
        By plane of `SourceMask.planes`: bool, or for fractions float32 of 0 to 1. Planes without any may lack.
    """

    about: Segment
    pixels: Mapping[int, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class PixelMask:
    """A source that holds pixels: SEG, NIfTI, NRRD.

    Parameters
    ----------
    planes : MaskPlanes
    segments : tuple of MaskSegment
    is_fractional : bool
    """

    planes: MaskPlanes
    segments: tuple[MaskSegment, ...]
    is_fractional: bool = False


@dataclass(frozen=True, eq=False)
class Contour:
    """Closed contours of one segment.

    Parameters
    ----------
    about : Segment
    points_lps_mm : tuple of (n, 3) float64 arrays
    """

    about: Segment
    points_lps_mm: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, eq=False)
class ContourMask:
    """A source that holds contours: RTSTRUCT.

    Parameters
    ----------
    segments : tuple of Contour
    ignored : int
        Points and open lines, which enclose nothing.
    """

    segments: tuple[Contour, ...]
    ignored: int = 0


SourceMask = PixelMask | ContourMask
