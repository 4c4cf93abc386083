"""Masks and readings of a phantom cohort, as a radiologist's workstation would leave them beside the scans.

Written with pydicom and by hand, so that equal arguments give equal bytes: no library puts the time into them.
"""

from __future__ import annotations

import csv
import gzip
import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import UID, ExplicitVRLittleEndian

from etl.phantom.cohort import FIELD_OF_VIEW_MM, WrittenSeries
from etl.phantom.files import synthetic_uid

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
STRUCTURES = (
    ("bleed", ("SCT", "50960005", "Hemorrhage")),
    ("calcification", ("SCT", "54115007", "Calcified tissue")),
    ("left ventricle", ("SCT", "66720007", "Lateral ventricle")),
    ("right ventricle", ("SCT", "66720007", "Lateral ventricle")),
)
FINDINGS = ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "BleedLocation-Left", "BleedLocation-Right", "MassEffect")
"""Columns of CQ500's table that are written, one a reader."""
MASS_EFFECT_ML = (8.6, 9.2, 9.8)
"""From which volume of the bleed on each of three readers tells a mass effect: they disagree in between."""
CORNERS = 90


def write_labels(folder: Path, cohort: Sequence[WrittenSeries]) -> list[Path]:
    """Write a Segmentation of each thin series, a Structure Set and a NIfTI mask of each thick one, and a table.

    Parameters
    ----------
    folder : Path
        Made if missing; a folder a patient, and ``reads.csv`` with columns as CQ500's.
    cohort : sequence of WrittenSeries
        As `etl.phantom.cohort.write_cohort` gives it.

    Returns
    -------
    list of Path
        The masks, and last the table.
    """
    written = []
    for series in cohort:
        place = folder / series.patient_id
        if series.kind == "thin":
            written.append(_put(place / "thin-seg.dcm", _encoded(_segmentation(series))))
        elif series.kind == "thick":
            written.append(_put(place / "thick-rtstruct.dcm", _encoded(_structure_set(series))))
            written.append(_put(place / f"{series.series_instance_uid}.nii.gz", _nifti(series)))
    return [*written, _put(folder / "reads.csv", _reads(cohort).encode())]


def _put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _axes(series: WrittenSeries) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Directions along a row and down a column of the slices."""
    tilt = np.radians(series.gantry_tilt_deg)
    return np.array([1.0, 0.0, 0.0]), np.array([0.0, np.cos(tilt), np.sin(tilt)])


def _masks(series: WrittenSeries, rows: int) -> NDArray[np.uint8]:
    """(slices, rows, columns) number of the structure at the center of each pixel; 0 where there is none."""
    along, down = (axis * FIELD_OF_VIEW_MM / rows for axis in _axes(series))
    index = np.arange(rows)
    plane = index[:, None, None] * down + index[None, :, None] * along
    found = np.zeros((len(series.slices), rows, rows), np.uint8)
    names = [name for name, _ in STRUCTURES]
    for mask, one in zip(found, series.slices, strict=True):
        points = plane + np.array(one.position_lps_mm)
        for structure in series.phantom.structures:
            # A later structure covers an earlier one.
            mask[structure.radius(points) <= 1] = names.index(structure.name) + 1 if structure.name in names else 0
    return found


def _rows_of(series: WrittenSeries) -> int:
    """Rows of the slices, from where the first pixel's center is: half a field of view less half a pixel off."""
    x = -series.slices[0].position_lps_mm[0]
    return round(FIELD_OF_VIEW_MM / (FIELD_OF_VIEW_MM - 2 * x))


def _head(series: WrittenSeries, sop_class: str, modality: str) -> Dataset:
    found = Dataset()
    found.SOPClassUID = sop_class
    found.SOPInstanceUID = synthetic_uid(series.series_instance_uid, modality)
    found.Modality, found.Manufacturer = modality, "ct-etl phantom"
    found.PatientID, found.PatientName = series.patient_id, f"Phantom^{series.patient_id}"
    found.PatientBirthDate = found.PatientSex = ""
    found.StudyInstanceUID = series.study_instance_uid
    found.StudyDate = found.StudyTime = found.AccessionNumber = found.StudyID = found.ReferringPhysicianName = ""
    found.SeriesInstanceUID = synthetic_uid(series.series_instance_uid, modality, "series")
    found.SeriesNumber, found.InstanceNumber = series.series_number + 100, 1
    found.FrameOfReferenceUID = synthetic_uid(series.study_instance_uid, "frame of reference")
    return found


def _code(scheme: str, value: str, meaning: str) -> Dataset:
    found = Dataset()
    found.CodingSchemeDesignator, found.CodeValue, found.CodeMeaning = scheme, value, meaning
    return found


def _item(**values: object) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


def _segmentation(series: WrittenSeries) -> Dataset:
    """DICOM PS3.3 A.51: binary, a frame for each structure and slice that has some of it."""
    rows = _rows_of(series)
    masks = _masks(series, rows)
    found = _head(series, SEGMENTATION, "SEG")
    instances = [
        _item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=one.sop_instance_uid)
        for one in series.slices
    ]
    found.ReferencedSeriesSequence = [
        _item(SeriesInstanceUID=series.series_instance_uid, ReferencedInstanceSequence=instances)
    ]
    along, down = _axes(series)
    pixel_mm = FIELD_OF_VIEW_MM / rows
    first, second = (np.array(one.position_lps_mm) for one in series.slices[:2])
    gap_mm = float(np.linalg.norm(second - first))
    orientation = [*along.tolist(), *down.tolist()]
    found.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[_item(PixelSpacing=[pixel_mm, pixel_mm], SliceThickness=round(gap_mm, 6))],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=[round(v, 9) for v in orientation])],
        )
    ]
    found.SegmentSequence = [
        _item(
            SegmentNumber=number,
            SegmentLabel=name,
            SegmentAlgorithmType="MANUAL",
            SegmentedPropertyCategoryCodeSequence=[_code("SCT", "123037004", "Anatomical Structure")],
            SegmentedPropertyTypeCodeSequence=[_code(*code)],
        )
        for number, (name, code) in enumerate(STRUCTURES, start=1)
    ]
    frames, groups = [], []
    for number in range(1, len(STRUCTURES) + 1):
        for mask, one in zip(masks, series.slices, strict=True):
            if (mask == number).any():
                frames.append(mask == number)
                groups.append(
                    _item(
                        PlanePositionSequence=[
                            _item(ImagePositionPatient=[round(v, 6) for v in one.position_lps_mm])
                        ],
                        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
                    )
                )
    found.PerFrameFunctionalGroupsSequence = groups
    found.ImageType, found.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    found.ContentLabel, found.ContentDescription, found.ContentCreatorName = "PHANTOM", "", ""
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.Rows = found.Columns = rows
    found.NumberOfFrames = len(frames)
    found.BitsAllocated = found.BitsStored = 1
    found.HighBit = found.PixelRepresentation = 0
    found.LossyImageCompression = "00"
    found.PixelData = pack_bits(np.stack(frames).astype(np.uint8))
    return found


def _structure_set(series: WrittenSeries) -> Dataset:
    """DICOM PS3.3 A.19: the bleed as one closed contour a slice, exact to 0.001 mm."""
    (bleed,) = (structure for structure in series.phantom.structures if structure.name == "bleed")
    along, down = _axes(series)
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    contours = []
    for one in series.slices:
        # In the coordinates of the unit ball a plane cuts a circle.
        to_unit, origin = bleed.to_unit, np.array(one.position_lps_mm)
        plane = to_unit @ np.stack([along, down], axis=1)
        start = to_unit @ (origin - bleed.center_lps_mm)
        middle = -np.linalg.pinv(plane) @ start
        left = 1 - float(np.sum((start + plane @ middle) ** 2))
        if left <= 0:
            continue
        root = np.linalg.cholesky(np.linalg.inv(plane.T @ plane))
        corners = middle + np.sqrt(left) * np.stack([np.cos(angle), np.sin(angle)], axis=1) @ root.T
        points = origin + corners @ np.stack([along, down])
        image = _item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2",
                      ReferencedSOPInstanceUID=one.sop_instance_uid)  # fmt: skip
        contours.append(
            _item(
                ContourImageSequence=[image],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=CORNERS,
                ContourData=[f"{value:.3f}" for value in points.ravel()],
            )
        )
    found = _head(series, STRUCTURE_SET, "RTSTRUCT")
    space = found.FrameOfReferenceUID
    found.StructureSetLabel, found.StructureSetDate, found.StructureSetTime = "PHANTOM", "", ""
    reference = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=series.study_instance_uid,
        RTReferencedSeriesSequence=[_item(SeriesInstanceUID=series.series_instance_uid)],
    )
    found.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=space, RTReferencedStudySequence=[reference])
    ]
    found.StructureSetROISequence = [
        _item(ROINumber=1, ReferencedFrameOfReferenceUID=space, ROIName="bleed", ROIGenerationAlgorithm="MANUAL")
    ]
    found.ROIContourSequence = [
        _item(ReferencedROINumber=1, ROIDisplayColor=[255, 0, 0], ContourSequence=contours)
    ]
    observation = _item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="", ROIInterpreter="")
    found.RTROIObservationsSequence = [observation]
    return found


def _nifti(series: WrittenSeries) -> bytes:
    """NIfTI-1 (nifti.nimh.nih.gov/nifti-1) of all structures, on a grid of 2 mm of its own."""
    count, step_mm = (90, 105, 80), 2.0
    first_ras = -(np.array(count) - 1) / 2 * step_mm
    index = np.moveaxis(np.indices(count), 0, -1)
    points = (first_ras + index * step_mm) * [-1, -1, 1]
    values = np.zeros(count, np.uint8)
    names = [name for name, _ in STRUCTURES]
    for structure in series.phantom.structures:
        number = names.index(structure.name) + 1 if structure.name in names else 0
        values[structure.radius(points) <= 1] = number
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *count, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, *[step_mm] * 3, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<B", header, 123, 2)
    struct.pack_into("<h", header, 254, 1)
    rows = np.concatenate([np.diag([step_mm] * 3), first_ras[:, None]], axis=1)
    struct.pack_into("<12f", header, 280, *rows.ravel().tolist())
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + values.tobytes(order="F"), 6, mtime=0)


def _reads(cohort: Sequence[WrittenSeries]) -> str:
    """Three readers' findings, 0 or 1, in the columns of CQ500's table."""
    readers = range(1, len(MASS_EFFECT_ML) + 1)
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["name", *(f"R{reader}:{finding}" for reader in readers for finding in FINDINGS)])
    for patient_id in dict.fromkeys(series.patient_id for series in cohort):
        phantom = next(series.phantom for series in cohort if series.patient_id == patient_id)
        (bleed,) = (structure for structure in phantom.structures if structure.name == "bleed")
        volume_ml = 4 / 3 * np.pi / abs(float(np.linalg.det(bleed.to_unit))) / 1000
        is_left = int(bleed.center_lps_mm[0] > 0)
        found = {"ICH": 1, "IPH": 1, "BleedLocation-Left": is_left, "BleedLocation-Right": 1 - is_left}
        row: list[object] = [patient_id]
        for least_ml in MASS_EFFECT_ML:
            seen = {**found, "MassEffect": int(volume_ml >= least_ml)}
            row += [seen.get(finding, 0) for finding in FINDINGS]
        table.writerow(row)
    return stream.getvalue()


def _encoded(dataset: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(synthetic_uid("head phantom"))
    meta.ImplementationVersionName = "HEAD_PHANTOM"
    dataset.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
