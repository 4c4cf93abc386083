"""Write a `HeadPhantom` as the DICOM files a CT scanner would write, with every name and date invented.

Uncompressed, deflated and RLE transfer syntaxes can be written. Equal arguments give equal bytes.
"""

from __future__ import annotations

import copy
import hashlib
import io
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from etl.phantom.acquisition import PLANES, Acquisition
from etl.phantom.attributes import (
    ct_attributes,
    enhanced_attributes,
    new_dataset,
    set_attributes,
    slice_attributes,
)
from etl.phantom.head import HeadPhantom

__all__ = [
    "PLANES",
    "Acquisition",
    "WrittenSlice",
    "synthetic_uid",
    "write_enhanced",
    "write_localizer",
    "write_series",
]

Sink = Callable[[str, bytes], object]
"""Takes a file's name and its bytes."""
FileNames = Literal["shuffled", "spatial"] | Callable[[int], str]
Edit = Callable[[int, Dataset], object]
"""Changes the dataset of a slice, given its index, just before it is written."""


class WrittenSlice(NamedTuple):
    """One file: its name under the target, its SOP Instance UID, its Image Position (Patient) in mm."""

    path: str
    sop_instance_uid: str
    position_lps_mm: tuple[float, float, float]


def synthetic_uid(*parts: object) -> str:
    """Derive a unique identifier from what it names (DICOM PS3.5 B.2: 2.25 and a UUID as a decimal)."""
    return f"2.25.{uuid.UUID(bytes=_digest(parts)[:16], version=5).int}"


def write_series(
    target: Path | Sink,
    phantom: HeadPhantom,
    acquisition: Acquisition,
    *,
    patient_id: str = "PHANTOM-0001",
    study_uid: str | None = None,
    series_uid: str | None = None,
    seed: int = 0,
    file_names: FileNames = "shuffled",
    edit: Edit | None = None,
) -> list[WrittenSlice]:
    """Write one single-frame CT Image Storage file a slice (DICOM PS3.3 A.3).

    Parameters
    ----------
    target : Path or callable
        A folder, made if missing, or a function that takes each file's name and bytes.
    phantom : HeadPhantom
        What lies in the scanner.
    acquisition : Acquisition
        The slices.
    patient_id : str
        Patient ID (0010,0020); may be empty.
    study_uid, series_uid : str, optional
        Give the same to calls whose slices belong together; None: derived from the other arguments.
    seed : int
        Of the identifiers, the noise and the shuffle.
    file_names : "shuffled", "spatial" or callable
        ``I1``, ``I2`` … in random order, ``slice-0001.dcm`` … in spatial order, or a function of the index.
    edit : callable, optional
        Called with each index and dataset just before it is written, to make a file as odd as wanted.

    Returns
    -------
    list of WrittenSlice
        In the order of the acquisition's positions.
    """
    sink = _folder_sink(target) if isinstance(target, Path) else target
    ids = _identifiers(acquisition, patient_id, study_uid, series_uid, seed)
    template = new_dataset(acquisition, patient_id, ids)
    set_attributes(template, ct_attributes(acquisition))
    name_of = _name_of(file_names, len(acquisition.positions_lps_mm), ids["SeriesInstanceUID"])
    written = []
    for index, position in enumerate(acquisition.positions_lps_mm):
        uid, rng = _instance(acquisition, ids, index)
        set_attributes(template, slice_attributes(acquisition, index, uid))
        one = copy.deepcopy(template) if edit else template
        _set_pixels(one, acquisition, acquisition.stored(phantom, index, rng))
        if edit:
            edit(index, one)
        sink(name_of(index), _encode(one, acquisition))
        x, y, z = position.tolist()
        written.append(WrittenSlice(name_of(index), uid, (x, y, z)))
    return written


def write_localizer(
    target: Path | Sink, phantom: HeadPhantom, *, rows: int = 512, series_number: int = 1, **options: Any
) -> list[WrittenSlice]:
    """Write the scout view that comes before a scan: one coronal image of Image Type LOCALIZER.

    Parameters
    ----------
    target, phantom
        As for `write_series`.
    rows : int
        Rows and columns.
    series_number : int
        Series Number (0020,0011).
    **options
        Of `write_series`.
    """
    acquisition = Acquisition.regular(
        count=1,
        orientation="coronal",
        rows=rows,
        columns=rows,
        pixel_spacing_mm=(300 / rows, 300 / rows),
        series_number=series_number,
        series_description="SCOUT",
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
    )
    return write_series(target, phantom, acquisition, **options)


def write_enhanced(
    target: Path | Sink,
    phantom: HeadPhantom,
    acquisition: Acquisition,
    *,
    patient_id: str = "PHANTOM-0001",
    study_uid: str | None = None,
    series_uid: str | None = None,
    seed: int = 0,
    file_name: str = "enhanced.dcm",
) -> WrittenSlice:
    """Write the acquisition as one Enhanced CT Image Storage file (DICOM PS3.3 A.38), a frame a slice.

    The functional groups are those that geometry and values need; the ones on dose, exposure and detector
    are left out. Pixel Value Transformation is shared, or per frame where the intercept changes.

    Parameters
    ----------
    target, phantom, acquisition, patient_id, study_uid, series_uid, seed
        As for `write_series`.
    file_name : str
        Name under the target.

    Returns
    -------
    WrittenSlice
        The file, with the position of its first frame.
    """
    sink = _folder_sink(target) if isinstance(target, Path) else target
    ids = _identifiers(acquisition, patient_id, study_uid, series_uid, seed)
    frames = range(len(acquisition.positions_lps_mm))
    stored = [acquisition.stored(phantom, index, _instance(acquisition, ids, index)[1]) for index in frames]
    uid = synthetic_uid(ids["SeriesInstanceUID"], "enhanced")
    ds = new_dataset(acquisition, patient_id, ids)
    set_attributes(ds, enhanced_attributes(acquisition, uid))
    _set_pixels(ds, acquisition, np.stack(stored))
    sink(file_name, _encode(ds, acquisition))
    x, y, z = acquisition.positions_lps_mm[0].tolist()
    return WrittenSlice(file_name, uid, (x, y, z))


def _folder_sink(folder: Path) -> Sink:
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name, content: (folder / name).write_bytes(content)


def _identifiers(
    acquisition: Acquisition, patient_id: str, study_uid: str | None, series_uid: str | None, seed: int
) -> dict[str, str]:
    study = study_uid or synthetic_uid(patient_id, seed, "study")
    return {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series_uid or synthetic_uid(study, acquisition.series_number, seed, "series"),
        "FrameOfReferenceUID": synthetic_uid(study, "frame of reference"),
    }


def _instance(acquisition: Acquisition, ids: Mapping[str, str], index: int) -> tuple[str, np.random.Generator]:
    """Give a slice's SOP Instance UID and its own source of noise, which need no other slice."""
    # Stacks of one series differ in one of these; two slices at one place differ in the index.
    number, moment = acquisition.acquisition_number, acquisition.temporal_position
    position = acquisition.positions_lps_mm[index].tolist()
    parts = (ids["SeriesInstanceUID"], number, moment, acquisition.orientation, position, index)
    return synthetic_uid(*parts), np.random.default_rng(list(_digest((*parts, "noise"))))


def _digest(parts: tuple[object, ...]) -> bytes:
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()


def _name_of(file_names: FileNames, count: int, series_uid: str) -> Callable[[int], str]:
    if callable(file_names):
        return file_names
    if file_names == "spatial":
        return lambda index: f"slice-{index + 1:04d}.dcm"
    order = np.random.default_rng(list(_digest((series_uid, "names")))).permutation(count)
    return lambda index: f"I{order[index] + 1}"


def _set_pixels(ds: Dataset, acquisition: Acquisition, stored: NDArray[np.integer]) -> None:
    big = acquisition.transfer_syntax_uid == ExplicitVRBigEndian
    dtype = stored.dtype.newbyteorder(">" if big else "<")
    ds.add_new("PixelData", "OW", stored.astype(dtype, copy=False).tobytes())


def _encode(ds: Dataset, acquisition: Acquisition) -> bytes:
    """Give the bytes of a file (DICOM PS3.10 7)."""
    syntax = UID(acquisition.transfer_syntax_uid)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    meta.ImplementationClassUID = UID(synthetic_uid("head phantom"))
    meta.ImplementationVersionName = "HEAD_PHANTOM"
    ds.file_meta = meta
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
