"""The smallest CT slices that make a volume: one value each, so that a histogram tells what a volume holds."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
STEP_MM = 2.5
ROWS = 16


def pixels(hu, rows=ROWS):
    """Stored values of a slice of one value; the intercept is -1024."""
    return np.full((rows, rows), hu + 1024, "<u2").tobytes()


def checksum(hu, rows=ROWS):
    return zlib.crc32(pixels(hu, rows))


def slice_bytes(*, patient, series, sop, k, hu, number=1, rows=ROWS, instance=None, edit=None, **attributes):
    """One slice `k` steps above the origin, as a file; `attributes` are set by their keywords."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT_IMAGE, sop
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = Dataset()
    found.file_meta = meta
    found.SOPClassUID, found.SOPInstanceUID, found.Modality = CT_IMAGE, sop, "CT"
    found.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    found.PatientID, found.SeriesNumber, found.InstanceNumber = (
        patient,
        number,
        k + 100 if instance is None else instance,
    )
    found.StudyInstanceUID, found.SeriesInstanceUID = f"{ROOT}.9", series
    found.FrameOfReferenceUID = f"{ROOT}.8"
    found.SliceThickness, found.PixelSpacing = str(STEP_MM), ["10", "10"]
    found.ImagePositionPatient = ["0", "0", str(k * STEP_MM)]
    found.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    found.Rows = found.Columns = rows
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation = 15, 0
    found.RescaleIntercept, found.RescaleSlope, found.RescaleType = "-1024", "1", "HU"
    found.PixelData = pixels(hu, rows)
    for name, value in attributes.items():
        setattr(found, name, value)
    if edit is not None:
        edit(found)
    buffer = io.BytesIO()
    dcmwrite(buffer, found, enforce_file_format=True)
    return buffer.getvalue()


def write_series(folder, patient="P", *, series=f"{ROOT}.1", ks=range(10), hu=100, prefix="", **options):
    """Write one slice for each of `ks` with the values `hu`, `hu` + 1, ...; gives their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in ks:
        path = folder / f"{prefix}{k:03d}.dcm"
        point = options.get("TemporalPositionIdentifier", 0), options.get("AcquisitionNumber", 0)
        sop = f"{series}.{point[0]}.{point[1]}.{k + 500}"
        path.write_bytes(slice_bytes(patient=patient, series=series, sop=sop, k=k, hu=hu + k, **options))
        paths.append(path)
    return paths


def slices_of(store, node):
    """Give what a published series says it was made of: SOP Instance UID -> CRC-32, by its keys alone."""
    import numcodecs.blosc

    group = Path(store, node)
    uids = np.frombuffer(numcodecs.blosc.decompress((group / "source/sop_instance_uid/c/0/0").read_bytes()), "u1")
    crcs = np.frombuffer(numcodecs.blosc.decompress((group / "source/pixel_crc32/c/0").read_bytes()), "<u4")
    return {
        uid.tobytes().rstrip(b"\0").decode(): int(crc) for uid, crc in zip(uids.reshape(-1, 64), crcs, strict=True)
    }


def values_of(store, node):
    """Give the HU that a published volume has, and of how many voxels."""
    import numcodecs.blosc

    content = Path(store, node, "hu_histogram/c/0").read_bytes()
    counts = np.frombuffer(numcodecs.blosc.decompress(content), "<u4")
    return {int(at) - 1000: int(counts[at]) for at in np.flatnonzero(counts)}


QUICK = ("--native", "--workers", "0", "-q", "--min-slices", "4")


def day(in_process, inputs, store, *options):
    """Run as on one day of the life of a store; the ledger's lines are under ``series`` of its JSON."""
    inputs = inputs if isinstance(inputs, list | tuple) else [inputs]
    return in_process("run", *inputs, store, *QUICK, "--json", *options)


def lines(done):
    """Give what became of each stack, as (outcome, reason), sorted."""
    return sorted((line["outcome"], line["reason"]) for line in done.json["series"])


def nodes(store):
    """Give the series that have metadata."""
    return sorted(path.parent.relative_to(store).as_posix() for path in Path(store).glob("*/*-*/zarr.json"))


def told(in_process, store, *options):
    """Give the status of `verify` and what it says."""
    done = in_process("verify", store, *options)
    return done.status, done.stdout
