"""The reason and warning codes of ledger and store, each with its words.

A code is stable: programs outside read it. Its words are what report, documents and terminal show.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class _Code(StrEnum):
    """A code that equals its text, with a sentence or two for a person."""

    words: str

    def __new__(cls, code: str, words: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member


class WarningCode(_Code):
    """What is unusual about a volume that is right all the same."""

    NO_PATIENT_ID = (
        "no-patient-id",
        "The files have no Patient ID. The name of their folder or zip stands in for it.",
    )
    UNDECODABLE_PATIENT_ID = (
        "undecodable-patient-id",
        "Bytes of the Patient ID are no text in the character set that the file names. They stand as \\xNN.",
    )
    PATIENT_ID_CONFLICT = (
        "patient-id-conflict",
        "Files with this Patient ID have several birth dates, sexes or issuers. They may be of several people.",
    )
    INCOMPLETE_CONCATENATION = (
        "incomplete-concatenation",
        "A part of the multi-frame image is not there. The volumes that the others hold are whole.",
    )
    ASSUMED_HU = (
        "assumed-hu",
        "The files do not say what unit their values have. They were taken for Hounsfield units, as asked.",
    )
    GANTRY_TILT = "gantry-tilt", "The gantry was tilted, so slices are sheared. A grid in mm straightens this."
    MISSING_SLICE = (
        "missing-slice",
        "A slice is missing, or slices are thinner than their distance. What lies in the gaps was interpolated.",
    )
    SLICES_LEFT_OUT = (
        "slices-left-out",
        "More slices name the same series, and could not become part of this volume or of another one.",
    )
    IRREGULAR_SPACING = (
        "irregular-spacing",
        "The distance between slices varies. Values were taken at the true positions.",
    )
    SHIFTED_SLICES = (
        "shifted-slices",
        "The field of view moved sideways between slices. Values were taken at the true positions.",
    )
    MIXED_PADDING = (
        "mixed-padding",
        "Slices mark pixels outside the scan with different values, or with one that tissue can have too. What "
        "lies outside became air.",
    )
    DUPLICATES_DROPPED = (
        "duplicates-dropped",
        "The same slice occurs more than once. One copy was used.",
    )
    SHARED_SERIES_UID = (
        "shared-series-uid",
        "The same series is in the store at other places too, or under several patients: a Series Number or a "
        "Patient ID was corrected, or two scans share one UID.",
    )
    LOSSY_COMPRESSED = (
        "lossy-compressed",
        "The images went through lossy compression before they came here. Values are approximate.",
    )
    IMPLICIT_PADDING = (
        "implicit-padding",
        "Pixels outside the scan hold one value that no attribute declares as padding. They became air.",
    )
    NO_AIR_PEAK = (
        "no-air-peak",
        "Hardly any pixel has the value of air. The field of view may lie inside the body, or the values may "
        "not be Hounsfield units.",
    )
    WRAP_AROUND = (
        "wrap-around",
        "Very bright pixels enclose very dark ones. Stored values may have passed their largest number and begun "
        "again at the lowest.",
    )
    CONSTANT_SLICE = "constant-slice", "All pixels of a slice have the same value."
    IMPLAUSIBLE_HU = (
        "implausible-hu",
        "Some values lie outside the range that CT scanners give (-1150 to 4000 HU).",
    )


class FailureCode(_Code):
    """Why a wanted series cannot become a volume."""

    MISSING_GEOMETRY = "missing-geometry", "Position, orientation or pixel spacing is missing or unusable."
    MISSING_SLICES = "missing-slices", "Slices are missing, and the gap is too large to fill."
    FEWER_SLICES = (
        "fewer-slices",
        "The store has slices of this series that the input lacks. The volume that is there stays; --replace lets "
        "it lose slices.",
    )
    DUPLICATE_POSITIONS = "duplicate-positions", "Different slices claim the same position."
    INCONSISTENT_SLICES = "inconsistent-slices", "The slices do not fit together to one volume."
    MISSING_RESCALE = "missing-rescale", "The slope or intercept that gives Hounsfield units is missing."
    UNSUPPORTED_TRANSFER_SYNTAX = (
        "unsupported-transfer-syntax",
        "The pixels are encoded in a way that cannot be read here.",
    )
    TRUNCATED_PIXEL_DATA = "truncated-pixel-data", "A file ends before its pixels do."
    UNDECODABLE = "undecodable", "The compressed pixels are damaged."
    TOO_LARGE = "too-large", "The volume needs more memory than is allowed."
    UNREADABLE = "unreadable", "A file could not be read."
    WORKER_DIED = "worker-died", "The process working on it was killed, most often for lack of memory."
    INTERNAL_ERROR = (
        "internal-error",
        "A defect in the program (please report it), or the run was stopped before this series.",
    )


class ExclusionCode(_Code):
    """Why a series is not wanted."""

    NOT_CT = "not-ct", "Another modality than CT."
    LOCALIZER = "localizer", "A scout view, not a volume."
    SECONDARY_CAPTURE = "secondary-capture", "A derived picture, not an acquired slice."
    TOO_FEW_SLICES = "too-few-slices", "Fewer slices than the configuration asks for."
    SINGLE_POSITION = "single-position", "All slices lie at one position, as when a contrast agent is awaited."
    MASK = "mask", "The pixels have two values only: a mask, not a scan."
    SLICE_COUNT = "slice-count", "Not the number of slices that the configuration asks for."
    NOT_SELECTED = "not-selected", "Another series of the patient is the one to keep."
    NO_PIXELS = "no-pixels", "The files hold no image."


class LabelCode(_Code):
    """Why a mask did not become a label, or what is unusual about one that did."""

    NO_SUCH_SERIES = "no-such-series", "The store has no volume of the series that the mask was drawn on."
    AMBIGUOUS_SERIES = (
        "ambiguous-series",
        "The file's name stands for several volumes. Name it after one series, or give a mapping table.",
    )
    OUTSIDE_VOLUME = "outside-volume", "Nothing of the mask lies in the volume."
    OTHER_FRAME_OF_REFERENCE = (
        "other-frame-of-reference",
        "The mask's coordinates are of another Frame of Reference than the series that it names.",
    )
    UNREADABLE_MASK = "unreadable-mask", "The file could not be read as a mask, or its geometry cannot be used."
    OUT_OF_PLANE = "out-of-plane", "The points of a contour do not lie in one plane, or not in parallel ones."
    LABEL_VOLUME_CHANGED = (
        "label-volume-changed",
        "A structure lost more than 5 % of its volume on the grid: it is thin, or a part of it lies outside.",
    )
    CONTOURS_IGNORED = "contours-ignored", "Points or open lines, which enclose no volume, were left out."


class VerdictCode(_Code):
    """What a person decided about a volume after looking at it."""

    KEEP = "keep", "Good to use."
    REJECT = "reject", "Not to be used."
    LOOK_AGAIN = "look-again", "Undecided: somebody has to look once more."


_WORDS = {
    str(code): code.words
    for codes in (WarningCode, FailureCode, ExclusionCode, LabelCode, VerdictCode)
    for code in codes
}


def words_of(code: str) -> str:
    """Say in plain words what a code means; a code of another version stays as it is.

    Examples
    --------
    >>> words_of("localizer")
    'A scout view, not a volume.'
    >>> words_of("some-new-code")
    'some new code'
    """
    return _WORDS.get(code, code.replace("-", " "))
