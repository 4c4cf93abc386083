"""Plain words for the codes of the ledger and of the quality warnings."""

from __future__ import annotations

from etl.errors import ExclusionCode, FailureCode

WARNINGS: dict[str, str] = {
    "gantry-tilt": "The gantry was tilted, so slices are sheared. A grid in mm straightens this.",
    "irregular-spacing": "The distance between slices varies. Values were taken at the true positions.",
    "missing-slice": "A slice is missing where the gap was small enough to be interpolated.",
    "duplicates-dropped": "The same slice was there more than once. One copy was used.",
    "mixed-padding": "Slices mark pixels outside the scan with different values. All became air.",
    "no-patient-id": "The files have no Patient ID. The name of their folder or zip stands in for it.",
    "lossy-compressed": "The images went through lossy compression before they came here. Values are approximate.",
}

FAILURES: dict[FailureCode, str] = {
    "missing-geometry": "Position, orientation or pixel spacing is missing or unusable.",
    "missing-slices": "Slices are missing, and the gap is too large to fill.",
    "duplicate-positions": "Different slices claim the same position.",
    "inconsistent-slices": "The slices do not fit together to one volume.",
    "missing-rescale": "The slope or intercept that gives Hounsfield units is missing.",
    "unsupported-transfer-syntax": "The pixels are encoded in a way that cannot be read here.",
    "truncated-pixel-data": "A file ends before its pixels do.",
    "undecodable": "The compressed pixels are damaged.",
    "too-large": "The volume needs more memory than is allowed.",
    "unreadable": "A file could not be read.",
    "worker-died": "The process working on it was killed, most often for lack of memory.",
    "internal-error": "A defect in the program (please report it), or the run was stopped before this series.",
}

EXCLUSIONS: dict[ExclusionCode, str] = {
    "not-ct": "Another modality than CT.",
    "localizer": "A scout view, not a volume.",
    "secondary-capture": "A derived picture, not an acquired slice.",
    "too-few-slices": "Fewer slices than the configuration asks for.",
    "slice-count": "Not the number of slices that the configuration asks for.",
    "not-selected": "Another series of the patient is the one to keep.",
    "no-pixels": "The files hold no image.",
}

_ALL = {str(code): words for group in (WARNINGS, FAILURES, EXCLUSIONS) for code, words in group.items()}


def explain(code: str) -> str:
    """Say in plain words what a code means; a code that is not known stays as it is.

    Examples
    --------
    >>> explain("localizer")
    'A scout view, not a volume.'
    >>> explain("some-new-code")
    'some new code'
    """
    return _ALL.get(code, code.replace("-", " "))
