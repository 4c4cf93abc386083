"""The attributes of synthetic CT images: all that a scanner writes, every name and date invented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage
from pydicom.valuerep import format_number_as_ds

from etl.phantom.acquisition import Acquisition

DATE = "20000101"
NOON_S = 12 * 3600


def new_dataset(acquisition: Acquisition, patient_id: str, ids: Mapping[str, str]) -> Dataset:
    """Start an image: patient, study, series, frame of reference, equipment and pixel description.

    Parameters
    ----------
    acquisition : Acquisition
        What is written.
    patient_id : str
        Patient ID (0010,0020).
    ids : mapping
        Study Instance UID, Series Instance UID and Frame of Reference UID, by keyword.
    """
    ds = Dataset()
    set_attributes(ds, _subject_attributes(patient_id))
    set_attributes(ds, ids)
    set_attributes(ds, _series_attributes(acquisition))
    bits, high_bit = acquisition.bits_stored, acquisition.high_bit
    set_attributes(
        ds,
        {
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": acquisition.rows,
            "Columns": acquisition.columns,
            "BitsAllocated": 16,
            "BitsStored": bits,
            "HighBit": bits - 1 if high_bit is None else high_bit,
            "PixelRepresentation": acquisition.pixel_representation,
        },
    )
    if acquisition.stored_padding is not None and acquisition.padding_attribute:
        vr = "SS" if acquisition.pixel_representation else "US"
        ds.add_new("PixelPaddingValue", vr, acquisition.stored_padding)
    return ds


def set_attributes(ds: Dataset, values: Mapping[str, object]) -> None:
    """Set attributes by DICOM keyword."""
    for keyword, value in values.items():
        setattr(ds, keyword, value)


def ct_attributes(acquisition: Acquisition) -> dict[str, object]:
    """Give what all files of a series have in common (DICOM PS3.3 C.7.6.2 and C.8.2.1)."""
    height, width = acquisition.pixel_spacing_mm
    shared: dict[str, object] = {
        "SOPClassUID": CTImageStorage,
        "ImageType": list(acquisition.image_type),
        "AcquisitionNumber": acquisition.acquisition_number,
        "AcquisitionDate": DATE,
        "PixelSpacing": _decimals(acquisition.pixel_spacing_mm),
        "ImageOrientationPatient": _decimals(acquisition.orientation),
        "SliceThickness": _decimal(acquisition.thickness_mm),
        "RescaleSlope": _decimal(acquisition.slope),
        "RescaleType": "HU",
        "KVP": "120",
        "ScanOptions": "AXIAL MODE",
        "DataCollectionDiameter": "500",
        "ReconstructionDiameter": _decimal(min(acquisition.rows * height, acquisition.columns * width)),
        "DistanceSourceToDetector": "1000",
        "DistanceSourceToPatient": "550",
        "GantryDetectorTilt": _decimal(acquisition.gantry_tilt_deg),
        "TableHeight": "150",
        "RotationDirection": "CW",
        "ExposureTime": "1000",
        "XRayTubeCurrent": "200",
        "Exposure": "200",
        "FilterType": "BODY FILTER",
        "GeneratorPower": "24",
        "FocalSpots": "1.2",
        "ConvolutionKernel": acquisition.kernel,
        "WindowCenter": "40",
        "WindowWidth": "80",
    }
    if acquisition.temporal_position is not None:
        shared["TemporalPositionIdentifier"] = acquisition.temporal_position
    return shared


def slice_attributes(acquisition: Acquisition, index: int, sop_instance_uid: str) -> dict[str, object]:
    """Give what differs from file to file of a series."""
    position = acquisition.positions_lps_mm[index]
    normal = np.cross(acquisition.orientation[:3], acquisition.orientation[3:])
    time = _time(acquisition, index)
    return {
        "SOPInstanceUID": sop_instance_uid,
        "InstanceNumber": index + 1,
        "AcquisitionTime": time,
        "ContentDate": DATE,
        "ContentTime": time,
        "ImagePositionPatient": _decimals(position.tolist()),
        "SliceLocation": _decimal(float(position @ normal)),
        "RescaleIntercept": _decimal(acquisition.intercept_of(index)),
    }


def enhanced_attributes(acquisition: Acquisition, sop_instance_uid: str) -> dict[str, object]:
    """Give a multi-frame image with its functional groups (DICOM PS3.3 C.7.6.16 and C.8.15)."""
    dimensions = sop_instance_uid + ".1"
    count = len(acquisition.positions_lps_mm)
    return {
        "SOPClassUID": EnhancedCTImageStorage,
        "SOPInstanceUID": sop_instance_uid,
        "InstanceNumber": 1,
        "ContentDate": DATE,
        "ContentTime": _time(acquisition, 0),
        "ImageType": _enhanced_type(acquisition),
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
        "ContentQualification": "RESEARCH",
        "PresentationLUTShape": "IDENTITY",
        "AcquisitionNumber": acquisition.acquisition_number,
        "AcquisitionDateTime": DATE + _time(acquisition, 0),
        "AcquisitionDuration": 0.1 * count,
        "AcquisitionContextSequence": [],
        "NumberOfFrames": count,
        "DimensionOrganizationSequence": [_item({"DimensionOrganizationUID": dimensions})],
        "DimensionIndexSequence": [
            _item(
                {
                    "DimensionOrganizationUID": dimensions,
                    "DimensionIndexPointer": 0x00209057,
                    "FunctionalGroupPointer": 0x00209111,
                }
            )
        ],
        "SharedFunctionalGroupsSequence": [_item(_shared_groups(acquisition))],
        "PerFrameFunctionalGroupsSequence": [_item(_frame_groups(acquisition, i)) for i in range(count)],
    }


def _shared_groups(acquisition: Acquisition) -> dict[str, object]:
    measures = {
        "PixelSpacing": _decimals(acquisition.pixel_spacing_mm),
        "SliceThickness": _decimal(acquisition.thickness_mm),
    }
    frame_type = {
        "FrameType": _enhanced_type(acquisition),
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
    }
    groups: dict[str, object] = {
        "PixelMeasuresSequence": [_item(measures)],
        "PlaneOrientationSequence": [_item({"ImageOrientationPatient": _decimals(acquisition.orientation)})],
        "CTImageFrameTypeSequence": [_item(frame_type)],
        "FrameVOILUTSequence": [_item({"WindowCenter": "40", "WindowWidth": "80"})],
    }
    if not isinstance(acquisition.intercept, tuple):
        groups["PixelValueTransformationSequence"] = [_transformation(acquisition, 0)]
    return groups


def _frame_groups(acquisition: Acquisition, index: int) -> dict[str, object]:
    moment = DATE + _time(acquisition, index)
    content = {
        "FrameAcquisitionNumber": acquisition.acquisition_number,
        "FrameReferenceDateTime": moment,
        "FrameAcquisitionDateTime": moment,
        "FrameAcquisitionDuration": 100.0,
        "StackID": "1",
        "InStackPositionNumber": index + 1,
        "DimensionIndexValues": index + 1,
    }
    position = {"ImagePositionPatient": _decimals(acquisition.positions_lps_mm[index].tolist())}
    groups: dict[str, object] = {
        "FrameContentSequence": [_item(content)],
        "PlanePositionSequence": [_item(position)],
    }
    if isinstance(acquisition.intercept, tuple):
        groups["PixelValueTransformationSequence"] = [_transformation(acquisition, index)]
    return groups


def _transformation(acquisition: Acquisition, index: int) -> Dataset:
    intercept = _decimal(acquisition.intercept_of(index))
    return _item({"RescaleIntercept": intercept, "RescaleSlope": _decimal(acquisition.slope), "RescaleType": "HU"})


def _enhanced_type(acquisition: Acquisition) -> list[str]:
    """Give the four values that an enhanced image needs (DICOM PS3.3 C.8.16.1)."""
    return [*acquisition.image_type[:2], "VOLUME", "NONE"]


def _subject_attributes(patient_id: str) -> dict[str, object]:
    return {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "PHANTOM^SYNTHETIC",
        "PatientID": patient_id,
        "PatientBirthDate": "19500101",
        "PatientSex": "O",
        "PatientAge": "050Y",
        "StudyDate": DATE,
        "StudyTime": "120000",
        "ReferringPhysicianName": "NOBODY^SYNTHETIC",
        "StudyID": "1",
        "AccessionNumber": "SYNTHETIC",
        "StudyDescription": "SYNTHETIC HEAD",
        "Manufacturer": "SYNTHETIC",
        "InstitutionName": "SYNTHETIC HOSPITAL",
        "StationName": "PHANTOM",
        "ManufacturerModelName": "HEAD PHANTOM",
        "DeviceSerialNumber": "0",
        "SoftwareVersions": "1",
        "PositionReferenceIndicator": "",
    }


def _series_attributes(acquisition: Acquisition) -> dict[str, object]:
    return {
        "Modality": "CT",
        "SeriesNumber": acquisition.series_number,
        "SeriesDescription": acquisition.series_description,
        "SeriesDate": DATE,
        "SeriesTime": "120000",
        "ProtocolName": "SYNTHETIC HEAD",
        "BodyPartExamined": "HEAD",
        "PatientPosition": "HFS",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
    }


def _time(acquisition: Acquisition, index: int) -> str:
    """Give the time of a slice: a tenth of a second after the last, ten minutes between acquisitions."""
    tenths = (10 * (NOON_S + 600 * acquisition.acquisition_number) + index) % 864_000
    seconds = tenths // 10
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.{tenths % 10}"


def _item(values: Mapping[str, object]) -> Dataset:
    ds = Dataset()
    set_attributes(ds, values)
    return ds


def _decimal(value: float) -> str:
    """Write a DS, at most 16 characters (DICOM PS3.5 6.2)."""
    return format_number_as_ds(float(value))


def _decimals(values: Iterable[float]) -> list[str]:
    return [_decimal(value) for value in values]
