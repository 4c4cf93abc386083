"""Tiny CT series as DICOM bytes, with everything that may be wrong about them; each voxel tells where it is from.

HU is 100 + 10 x + 6 y + 8 z in LPS mm, plus what a part adds, so that a plane of another part is seen at once.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import generate_uid

CT_IMAGE, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
SIZE = 16
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ZS = [2.5 * k for k in range(12)]
Edit = Callable[[Dataset, int], None]


def uid(*parts: object) -> str:
    return str(generate_uid(prefix="2.25.", entropy_srcs=[str(part) for part in parts]))[:60]


def hu_at(z: float, extra: float = 0.0, left: float = 0.0) -> np.ndarray:
    """Give one axial plane, rows along y and columns along x, from -8 mm."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] - SIZE / 2
    return 100 + 10 * (x + left) + 6 * y + 8 * z + extra


def one_slice(
    z: float, k: int, *, part: object = 0, extra: float = 0.0, series: str = "s", **values: Any
) -> Dataset:
    """Make a classic CT image at z; `values` are attributes by keyword, None to leave one out."""
    meta = FileMetaDataset()
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE, uid(series, part, k, z)
    stated: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "PatientID": "CASE",
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid(series),
        "FrameOfReferenceUID": uid("frame"),
        "SeriesNumber": 1,
        "InstanceNumber": k + 1,
        "SliceThickness": "2.5",
        "KVP": "120",
        "ConvolutionKernel": "STANDARD",
        "ImagePositionPatient": [-SIZE / 2, -SIZE / 2, z],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [1, 1],
        "Rows": SIZE,
        "Columns": SIZE,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "RescaleType": "HU",
        **values,
    }
    with pydicom.config.disable_value_validation():
        for keyword, value in stated.items():
            if value is not None:
                setattr(ds, keyword, value)
    ds.PixelData = np.rint(hu_at(z, extra) + 1024).astype("<u2").tobytes()
    return ds


def raw(ds: Dataset, keyword: str, vr: str, content: bytes) -> None:
    """Set bytes that pydicom would not write."""
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)


def encode(ds: Dataset, syntax: str = EXPLICIT) -> bytes:
    """Write a file into bytes."""
    stream = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def scan_of(
    zs: Iterable[float], *, edit: Edit | None = None, per_slice: Callable[[int], dict[str, Any]] | None = None,
    **values: Any,
) -> list[bytes]:  # fmt: skip
    """Make the files of one scan."""
    made = []
    for k, z in enumerate(zs):
        ds = one_slice(z, k, **{**values, **(per_slice(k) if per_slice else {})})
        if edit is not None:
            edit(ds, k)
        made.append(encode(ds))
    return made


def enhanced(
    zs: Sequence[float], *, part: object = 0, extra: float = 0.0, edit: Callable[[Dataset], None] | None = None,
    frame: Callable[[int], dict[str, Any]] | None = None, macros: dict[str, dict[str, Any]] | None = None,
    **values: Any,
) -> Dataset:  # fmt: skip
    """Make an enhanced CT image with one frame a position; `frame` gives Frame Content by frame number."""
    ds = one_slice(0.0, 0, part=part, **{"SOPClassUID": ENHANCED_CT, "SliceThickness": None, **values})
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(ds, keyword)
    ds.SOPInstanceUID = uid("enhanced", part)
    shared = Dataset()
    every = {
        "PixelMeasuresSequence": {"PixelSpacing": [1, 1], "SliceThickness": 2.5},
        "PlaneOrientationSequence": {"ImageOrientationPatient": list(AXIAL)},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
        **(macros or {}),
    }
    for keyword, held in every.items():
        setattr(shared, keyword, [_item(held)])
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k, z in enumerate(zs):
        group = Dataset()
        group.PlanePositionSequence = [_item({"ImagePositionPatient": [-SIZE / 2, -SIZE / 2, z]})]
        group.FrameContentSequence = [_item({"InStackPositionNumber": k + 1, **(frame(k) if frame else {})})]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.NumberOfFrames = len(zs)
    ds.PixelData = b"".join(np.rint(hu_at(z, extra) + 1024).astype("<u2").tobytes() for z in zs)
    if edit is not None:
        edit(ds)
    return ds


def dimensions(*keywords: str) -> list[Dataset]:
    """Make a Dimension Index Sequence."""
    return [_item({"DimensionIndexPointer": Tag(keyword)}) for keyword in keywords]


def _item(values: dict[str, Any]) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def store_files(folder: Path, files: Iterable[bytes], *, names: Callable[[int], str] = "IM{:04d}".format) -> Path:
    """Put files into a folder."""
    for k, content in enumerate(files):
        path = folder / names(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def zipped(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Put files into a zip, under any names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, content in files:
            archive.writestr(name, content)
    return path


def fragment(content: bytes) -> bytes:
    """Make an item of encapsulated Pixel Data."""
    content += bytes(len(content) % 2)
    return b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content


def encapsulated(ds: Dataset, value: bytes, syntax: str) -> bytes:
    """Write a file whose Pixel Data is this value, delimiter not included."""
    ds.PixelData = value
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return encode(ds, syntax)
