"""Put a mask on a volume's grid back onto the DICOM slices, as a DICOM Segmentation."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DS

from etl.errors import UsageError
from etl.labels.mask_file import INSTALL, read_mask_file
from etl.labels.native_slices import NativeSlices, find_slices, mask_on_slices
from etl.labels.source_mask import LabelError
from etl.read.optional_library import optional_library
from etl.read.patients import Store, Volume, open_store
from etl.scan.deidentify import Pseudonyms, read_key
from etl.software import software_versions
from etl.store.durable import write_durably

Segment = str | Mapping[str, Any]
# SNOMED CT, DICOM PS3.16 CID 7150 and 7166: what is said of a structure of which only the name is known.
CATEGORY = ("123037004", "SCT", "Anatomical Structure")
TYPE = ("85756007", "SCT", "Tissue")
# Type 2 attributes of the modules that a SEG copies from its source (DICOM PS3.3 C.7.1.1, C.7.2.1); highdicom
# asks for them, and files that lack them are common.
COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@dataclass(frozen=True)
class WrittenPrediction:
    """A DICOM SEG that was written.

    Parameters
    ----------
    path : Path
    segment_numbers : dict
        Segment Number (0062,0004) by value of the mask: from 1 without a gap (DICOM PS3.3 C.8.20.2).
    pixels : dict
        Pixels of the slices by value of the mask.
    """

    path: Path
    segment_numbers: dict[int, int]
    pixels: dict[int, int]


def write_prediction(
    store: str | os.PathLike[str] | Store,
    node: str,
    mask: NDArray[Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dicom: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    segments: Mapping[int, Segment] | None = None,
    algorithm: str = "ct-etl prediction",
    algorithm_version: str = "1",
    series_number: int = 900,
    deidentify: str | os.PathLike[str] | None = None,
) -> WrittenPrediction:
    """Write a mask as DICOM SEG (binary) over the slices that its volume was made from.

    Each pixel of each slice gets the nearest voxel of the mask, by the slice's own position and orientation:
    tilted, irregular and oblique slices too. On a volume that was stored with ``--native`` this loses nothing.

    Parameters
    ----------
    store : path, URL or Store
    node : str
        ``<patient key>/<series key>``: `Volume.node`.
    mask : (z, y, x) array of whole numbers, or path
        On the volume's grid, 0 for background; or a NIfTI or NRRD file, wherever it lies in patient space.
    out : path
        The file to write; what is there is replaced.
    dicom : path, or several
        Folders, zips or files of DICOM that hold the volume's slices: patient, study and geometry are taken from
        them.
    segments : mapping, optional
        By value of the mask a name, or what `Volume.label_table` gives: ``name`` and ``code`` (``scheme``,
        ``value``, ``meaning``). Values of the mask that are missing are called "segment N", and without a code
        a structure is "Tissue".
    algorithm, algorithm_version : str
        Name and version of what made the mask.
    series_number : int
        Series Number (0020,0011) of the SEG.
    deidentify : path, optional
        Key file that a de-identified store was written with.

    Returns
    -------
    WrittenPrediction

    Raises
    ------
    UsageError
        highdicom is not installed, there is no such volume, the mask has another shape or is empty on the slices,
        or slices are missing in `dicom`.
    StoreError
        The store cannot be read.

    Notes
    -----
    UIDs are made of what is written, so that the same prediction is the same instance; Content Date and Time are
    those of the call.
    """
    highdicom = optional_library("highdicom", wanted_for="write_prediction", install=INSTALL)
    volume = _volume_of(store if isinstance(store, Store) else open_store(store), node)
    values, affine = _mask_of(mask, volume)
    several = [dicom] if isinstance(dicom, str | os.PathLike) else dicom
    pseudonyms = None if deidentify is None else Pseudonyms(read_key(os.fspath(deidentify)))
    slices = find_slices(volume, [Path(one).expanduser() for one in several], pseudonyms)
    planes = mask_on_slices(values, affine, slices)
    there = [int(value) for value in np.unique(values) if value]
    pixels = {value: int(np.count_nonzero(planes == value)) for value in there}
    if not any(pixels.values()):
        raise UsageError(f"{node}: the mask is empty on the slices, and a DICOM SEG has at least one frame")
    numbers = {value: number for number, value in enumerate(there, start=1)}
    lookup = np.zeros(max(there) + 1, np.uint16)
    lookup[there] = list(numbers.values())
    names = {numbers[value]: _segment_of((segments or {}).get(value), value) for value in there}
    descriptions = [
        _description(highdicom, number, about, (algorithm, algorithm_version)) for number, about in names.items()
    ]
    digest = hashlib.sha256(planes.tobytes() + repr((names, algorithm, algorithm_version, series_number)).encode())
    uids = [
        generate_uid(entropy_srcs=[digest.hexdigest(), slices.datasets[0].SOPInstanceUID, kind])
        for kind in ("series", "instance")
    ]
    seg = highdicom.seg.Segmentation(
        source_images=_complete(slices),
        pixel_array=lookup[planes],
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=uids[0],
        series_number=series_number,
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer="ct-etl",
        manufacturer_model_name=algorithm,
        software_versions=software_versions()["ct-etl"],
        device_serial_number="0",
        content_creator_name="",  # Type 2 (DICOM PS3.3 Table 10-12)
    )
    _say_spacing(seg, slices.spacing_mm)
    content = io.BytesIO()
    seg.save_as(content)
    path = Path(out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, content.getvalue())
    return WrittenPrediction(path, numbers, pixels)


def _volume_of(store: Store, node: str) -> Volume:
    patient_key, _, series_key = node.partition("/")
    for patient in store.values():
        if patient.key == patient_key and series_key in patient:
            return patient[series_key]
    raise UsageError(f"{store.path} has no volume {node!r}; allowed is <patient key>/<series key>")


def _mask_of(
    mask: NDArray[Any] | str | os.PathLike[str], volume: Volume
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    if isinstance(mask, str | os.PathLike):
        path = Path(mask).expanduser()
        try:
            voxels = read_mask_file(path)
        except LabelError as error:
            raise UsageError(f"mask {str(path)!r}: {error}") from error
        # Axes last first: (k, j, i), as arrays of the store have them.
        return _whole_values(voxels.values.transpose(2, 1, 0), path.name), voxels.affine_lps[:, [2, 1, 0, 3]]
    values = np.asarray(mask)
    if values.shape != volume.shape:
        raise UsageError(f"mask has shape {values.shape}; {volume.shape} is needed, the grid of {volume.node}")
    return _whole_values(values, "mask"), volume.affine_lps


def _whole_values(values: NDArray[Any], name: str) -> NDArray[np.uint16]:
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 65535):
        raise UsageError(f"{name}: values run from {values.min()} to {values.max()}; allowed is 0 to 65535")
    whole = values.astype(np.uint16)
    if not np.array_equal(whole, values):
        raise UsageError(f"{name}: values are not whole; a mask has 0 for background and a number a structure")
    return whole


def _segment_of(given: Segment | None, value: int) -> tuple[str, tuple[str, str, str]]:
    """Give name and code (value, scheme, meaning) of a segment."""
    if given is None or isinstance(given, str):
        return given or f"segment {value}", TYPE
    code = given.get("code")
    named = str(given.get("name") or f"segment {value}")
    if not isinstance(code, Mapping):
        return named, TYPE
    try:
        return named, (str(code["value"]), str(code["scheme"]), str(code["meaning"]))
    except KeyError as error:
        raise UsageError(
            f"segment {value}: its code lacks {error}; scheme, value and meaning are needed"
        ) from error


def _description(
    highdicom: Any, number: int, about: tuple[str, tuple[str, str, str]], algorithm: tuple[str, str]
) -> Any:
    name, code = about
    family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=highdicom.sr.CodedConcept(*CATEGORY),
        segmented_property_type=highdicom.sr.CodedConcept(*code),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(algorithm[0], family, algorithm[1]),
    )


def _say_spacing(seg: Dataset, spacing_mm: float | None) -> None:
    """Add Spacing Between Slices (0018,0088), along the normal (DICOM PS3.3 C.7.6.16.2.1), where it is missing."""
    # highdicom leaves it out of tilted series. dcmqi and pydicom-seg then count slices by their thickness: of 36
    # slices that lie 4.74 mm apart and are 5 mm thick, both lost two.
    [measures] = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    if spacing_mm is not None and "SpacingBetweenSlices" not in measures:
        measures.SpacingBetweenSlices = DS(spacing_mm, auto_format=True)


def _complete(slices: NativeSlices) -> Sequence[Dataset]:
    for dataset in slices.datasets:
        for keyword in COPIED:
            if keyword not in dataset:
                setattr(dataset, keyword, "")
    return slices.datasets
