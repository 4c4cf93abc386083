"""Find the masks among what was given, and read what each says of the images that it was drawn on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from etl.codes import LabelCode
from etl.errors import UsageError
from etl.labels.mask_file import NIFTI, NRRD, read_mask_file
from etl.labels.read_rtstruct import read_rtstruct
from etl.labels.read_seg import read_seg
from etl.labels.read_voxels import pixel_mask
from etl.labels.source_mask import LabelError, References, SourceKind, SourceMask, refusing

SOP_CLASSES: dict[str, SourceKind] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "seg",
    "1.2.840.10008.5.1.4.1.1.66.7": "seg",
    "1.2.840.10008.5.1.4.1.1.481.3": "rtstruct",
}
"""Segmentation, Label Map Segmentation and RT Structure Set Storage (DICOM PS3.4 B.5)."""
_NO_CLASS = "SOP Class UID (0008,0016) is missing; a Segmentation's or an RT Structure Set's is needed"
_PREAMBLE, _MARK = 128, b"DICM"
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One file that holds a mask, or may hold one.

    Parameters
    ----------
    path : str
    kind : {"seg", "rtstruct", "nifti", "nrrd", "dicom"}
        "dicom": its header does not say which.
    problem : str
        Why it does not; empty for the other kinds.
    """

    path: str
    kind: SourceKind
    problem: str = ""

    @property
    def stem(self) -> str:
        """Name of the file without what says its kind."""
        name = Path(self.path).name
        endings = sorted((*NIFTI, *NRRD, ".dcm"), key=len, reverse=True)
        ending = next((one for one in endings if name.lower().endswith(one)), "")
        return name[: len(name) - len(ending)]


@dataclass(frozen=True)
class Survey:
    """What a source says of itself.

    Parameters
    ----------
    digest : str
        SHA-256 of the file.
    references : References
    words : tuple of str
        Lower-case parts of the patient's name and identifiers, which no name of a segment may hold where a store
        is de-identified.
    """

    digest: str
    references: References
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Masks:
    """What was found among files and in folders.

    Parameters
    ----------
    sources : tuple of Source
        By path.
    ignored_files : int
        Files in folders that hold no mask: what is not DICOM, and DICOM of other classes.
    """

    sources: tuple[Source, ...]
    ignored_files: int


def find_masks(given: Sequence[str], *, only_masks: bool = True) -> Masks:
    """List the masks among files and in folders; whatever else lies in a folder is left alone and counted.

    A DICOM file whose header cannot be read may be a mask, and is listed.

    Parameters
    ----------
    given : sequence of str
    only_masks : bool
        Refuse a file that is given by itself and is no mask.

    Raises
    ------
    UsageError
        A file does not exist, or is given by itself and is no mask.
    """
    found: dict[str, Source] = {}
    ignored: set[str] = set()
    for name in given:
        path = Path(os.path.abspath(os.path.expanduser(name)))
        if not path.exists():
            raise UsageError(f"source {name!r} does not exist")
        if path.is_dir():
            inside = {str(file): _source(file) for file in _files(path)}
            found.update({file: source for file, source in inside.items() if source is not None})
            ignored |= {file for file, source in inside.items() if source is None}
            continue
        source = _source(path)
        if source is None and not only_masks:
            continue
        if source is None:
            raise UsageError(
                f"source {name!r} is no mask; allowed are DICOM SEG and RTSTRUCT, {', '.join((*NIFTI, *NRRD))}"
            )
        found[source.path] = source
    return Masks(tuple(found[path] for path in sorted(found)), len(ignored))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        paths = (Path(parent, name) for name in sorted(files))
        # A pipe would be waited for; a link to nothing is told.
        yield from (path for path in paths if path.is_file() or not path.exists())


def _source(path: Path) -> Source | None:
    name = path.name.lower()
    if name.endswith(NIFTI):
        return Source(str(path), "nifti")
    if name.endswith(NRRD):
        return Source(str(path), "nrrd")
    try:
        with refusing("its header"):
            with path.open("rb") as stream:
                if stream.read(_PREAMBLE + len(_MARK))[_PREAMBLE:] != _MARK:
                    return None
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            # A DICOMDIR has it in the file's meta information only.
            sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    except LabelError as error:
        return Source(str(path), "dicom", str(error))
    if not sop_class:
        return Source(str(path), "dicom", _NO_CLASS)
    kind = SOP_CLASSES.get(str(sop_class))
    return None if kind is None else Source(str(path), kind)


def survey(source: Source) -> Survey | LabelError:
    """Read what a source says of itself and of its images; an error is given back, as workers answer for many.

    Parameters
    ----------
    source : Source
    """
    if source.problem:
        return LabelError(LabelCode.UNREADABLE_MASK, source.problem)
    try:
        with refusing("its header"):
            return _survey(source)
    except LabelError as error:
        return error


def _survey(source: Source) -> Survey:
    digest = hashlib.sha256()
    with open(source.path, "rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    if source.kind in ("nifti", "nrrd"):
        identity = hashlib.sha256(Path(source.path).name.encode("utf-8", "surrogateescape")).hexdigest()
        return Survey(digest.hexdigest(), References(identity))
    dataset = dcmread(source.path, stop_before_pixels=True)
    return Survey(digest.hexdigest(), _references(dataset), tuple(sorted(set(_words(dataset)))))


def read_mask(source: Source) -> SourceMask:
    """Read a source whole.

    Raises
    ------
    LabelError
        It cannot be read, or its geometry cannot be used.
    UsageError
        A library for its kind is not installed.
    """
    if source.kind in ("nifti", "nrrd"):
        return pixel_mask(read_mask_file(Path(source.path)))
    with refusing("it"):
        dataset = dcmread(source.path)
        return read_seg(dataset) if source.kind == "seg" else read_rtstruct(dataset)


def _references(dataset: Dataset) -> References:
    series = {str(row.SeriesInstanceUID) for row in dataset.get("ReferencedSeriesSequence") or ()}
    instances = {
        *(uid for row in dataset.get("ReferencedSeriesSequence") or () for uid in _instances(row)),
        *(uid for frame in dataset.get("PerFrameFunctionalGroupsSequence") or () for uid in _derived_from(frame)),
    }
    frame = str(dataset.get("FrameOfReferenceUID") or "")
    for space in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        frame = frame or str(space.get("FrameOfReferenceUID") or "")
        for study in space.get("RTReferencedStudySequence") or ():
            for row in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(row.SeriesInstanceUID))
                instances |= set(_instances(row, "ContourImageSequence"))
    for roi in dataset.get("ROIContourSequence") or ():
        for contour in roi.get("ContourSequence") or ():
            instances |= set(_instances(contour, "ContourImageSequence"))
    return References(str(dataset.SOPInstanceUID), tuple(sorted(series)), tuple(sorted(instances)), frame)


def _instances(row: Any, name: str = "ReferencedInstanceSequence") -> Iterable[str]:
    return (str(one.ReferencedSOPInstanceUID) for one in row.get(name) or ())


def _derived_from(frame: Any) -> Iterator[str]:
    for derivation in frame.get("DerivationImageSequence") or ():
        yield from _instances(derivation, "SourceImageSequence")


def _words(dataset: Dataset) -> Iterator[str]:
    for keyword in ("PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber"):
        text = str(dataset.get(keyword) or "").lower()
        yield from (word for word in text.replace("^", " ").replace(",", " ").split() if len(word) > 2)
