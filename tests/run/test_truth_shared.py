"""Real CT DICOM: right against pydicom and numpy, in every encoding, or refused by name.

Skipped where ``../shared/data`` is not beside the checkout.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.config
import pytest
from numpy.typing import NDArray
from pydicom.uid import UID
from test_truth_geometry import Landed, Slices, compare, land

from etl.config import Config
from etl.dicom.sources import find_sources
from etl.plan.plan import make_plan
from etl.process.read_hu import read_hounsfield
from etl.scan.scan import merge_scans, scan_source
from etl.stack import Stack
from etl.volume.quality import Quality
from etl.volume.validity import PaddingFill

Hu = NDArray[np.float32]
AS_AIR = PaddingFill(with_nearest=False)
GE_LOSSLESS = {
    "LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2",
    "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1",
    "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99",
    "BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2",
    "RLELosslessTransferSyntax_1.2.840.10008.1.2.5",
    "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57",
    "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70",
    "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80",
    "JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90",
}
GE_LOSSY = {
    "JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50",
    "JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51",
    "JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81",
    "JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91",
}
GE_REFUSED = {
    "JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53",
    "JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55",
}


def stacks_of(*inputs: Path) -> tuple[Stack, ...]:
    return merge_scans(map(scan_source, find_sources(map(str, inputs)))).stacks


def hounsfield(path: Path) -> tuple[Stack, list[tuple[Hu, NDArray[np.bool_] | None]]]:
    """Read every slice of the one stack of a file."""
    [stack] = stacks_of(path)
    return stack, [
        (hu if padded is None else AS_AIR(hu, padded), padded) for hu, padded in read_hounsfield(stack, Quality())
    ]


def copied_along_z(source: Path, folder: Path, *, count: int = 9) -> Path:
    """Write one slice several times, 5 mm apart, in its own encoding."""
    folder.mkdir(parents=True)
    ds = pydicom.dcmread(source)
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    base = str(ds.SOPInstanceUID)[:50]
    for k in range(count):
        ds.ImagePositionPatient = [x, y, z + 5 * k]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{base}.{k + 1}")
        ds.save_as(folder / f"{k}", enforce_file_format=True)
    return folder


# --- a phantom scanned by a hospital's scanner ----------------------------------------------------------


@pytest.fixture(scope="module")
def philips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Landed]:
    folder = shared_data / "head_phantom_philips"
    store = tmp_path_factory.mktemp("philips") / "s.zarr"
    return folder, land(store, folder, spacing_mm=(2.0, 1.0, 1.0))


def test_both_studies_land_under_their_patient_and_the_rest_is_excluded_by_name(
    philips: tuple[Path, Landed],
) -> None:
    _, landed = philips
    # Each folder has a DIRFILE, a DICOM object without pixels and without a patient.
    images = [entry for entry in landed.entries if entry.reason != "no-pixels"]
    assert {entry.patient_id for entry in images} == {"PLASTIC"}
    assert sorted(entry.slices for entry in landed.written) == [28, 54]
    # The captures have several sizes, so they are several stacks.
    count = {reason: sum(e.slices for e in images if e.reason == reason) for reason in {e.reason for e in images}}
    assert count == {None: 82, "localizer": 2, "secondary-capture": 6}
    assert {e.outcome for e in landed.entries} == {"written", "excluded"}
    volumes = [landed.volume(entry) for entry in landed.written]
    assert len({volume.attributes["study_instance_uid"] for volume in volumes}) == 2
    assert landed.store is not None
    assert set(landed.store) == {"PLASTIC"}


@pytest.mark.parametrize(("study", "slices", "tilt_deg"), [("S21570", 28, 0.0), ("S21610", 54, -18.5)])
def test_real_series_agree_with_an_independent_resampling(
    philips: tuple[Path, Landed], study: str, slices: int, tilt_deg: float
) -> None:
    folder, landed = philips
    [entry] = [e for e in landed.written if e.slices == slices]
    volume = landed.volume(entry)
    truth = Slices(path for path in (folder / study / "S2010").iterdir() if path.name != "DIRFILE")
    assert volume.attributes["geometry"]["gantry_tilt_deg"] == pytest.approx(tilt_deg, abs=0.05)
    assert ("gantry-tilt" in entry.warnings) == (tilt_deg != 0)
    found = compare(volume, truth, points=150_000)
    assert max(np.abs(found.shift_voxels)) < 0.1, found
    assert found.tissue_hu < 3, found
    affine = np.asarray(volume.affine_lps)[:3, :3]
    np.testing.assert_allclose(affine.T @ affine, np.diag(np.square(volume.spacing_mm)), atol=1e-6)


def test_every_source_slice_of_the_tilted_series_is_found_from_its_plane_and_back(
    philips: tuple[Path, Landed],
) -> None:
    folder, landed = philips
    [entry] = [e for e in landed.written if e.slices == 54]
    volume = landed.volume(entry)
    truth = Slices(path for path in (folder / "S21610" / "S2010").iterdir() if path.name != "DIRFILE")
    affine = np.asarray(volume.affine_lps)
    planes = affine[:3, 3] + np.outer(np.arange(volume.shape[0]), affine[:3, 0])
    distance = np.abs((planes @ truth.normal)[:, None] - truth.along)
    for k, row in enumerate(distance):
        assert row[truth.uids.index(volume.nearest_source_slice(k).sop_instance_uid)] <= row.min() + 1e-4
    for n, column in enumerate(distance.T):
        assert column[volume.nearest_plane(truth.uids[n])] <= column.min() + 1e-4


# --- transfer syntaxes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ge_slice(shared_data: Path) -> tuple[Path, Hu]:
    """The folder of encodings, and HU from the uncompressed pixels by pydicom and numpy."""
    folder = shared_data / "encodings" / "ge_hispeed"
    ds = pydicom.dcmread(folder / "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm")
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(512, 512)
    # -2000 fills the outside of the field; Pixel Padding Value says -32768, which no pixel has.
    assert (stored == -2000).mean() > 0.1
    assert ds.PixelPaddingValue == -32768
    return folder, np.where(stored == -2000, -1024, stored - 1024).astype(np.float32)


def test_the_encodings_are_all_accounted_for(ge_slice: tuple[Path, Hu]) -> None:
    folder, _ = ge_slice
    assert {path.stem for path in folder.iterdir()} == GE_LOSSLESS | GE_LOSSY | GE_REFUSED | {"original"}
    assert (len(GE_LOSSLESS), len(GE_LOSSY)) == (9, 4)


@pytest.mark.parametrize("name", sorted(GE_LOSSLESS))
def test_lossless_encodings_of_a_real_slice_give_bit_identical_hu(name: str, ge_slice: tuple[Path, Hu]) -> None:
    folder, expected = ge_slice
    stack, [(hu, padded)] = hounsfield(folder / f"{name}.dcm")
    assert hu.dtype == np.float32
    np.testing.assert_array_equal(hu, expected)
    assert padded is not None
    assert padded[0, 0]
    assert not stack.lossy


@pytest.mark.parametrize("name", sorted(GE_LOSSY))
def test_lossy_encodings_of_a_real_slice_are_read_and_flagged(
    name: str, ge_slice: tuple[Path, Hu], tmp_path: Path
) -> None:
    folder, expected = ge_slice
    entry, volume = land(
        tmp_path / "s.zarr", copied_along_z(folder / f"{name}.dcm", tmp_path / "in"), native=True
    ).only()
    assert "lossy-compressed" in entry.warnings
    assert "lossy-compressed" in volume.attributes["qc"]["warnings"]
    body = (expected > -900) & (expected < 3000)
    # Baseline JPEG has 8 bits: 32 HU a step.
    loss_hu = 32 if "JPEGProcess1T" in name else 4
    assert np.median(np.abs(volume.to_hu(4) - expected)[body]) <= loss_hu


@pytest.mark.parametrize("name", sorted(GE_REFUSED))
def test_encodings_that_no_decoder_reads_are_refused_by_name(
    name: str, ge_slice: tuple[Path, Hu], tmp_path: Path
) -> None:
    folder, _ = ge_slice
    landed = land(tmp_path / "s.zarr", copied_along_z(folder / f"{name}.dcm", tmp_path / "in"))
    [entry] = landed.entries
    assert (entry.outcome, entry.reason) == ("failed", "unsupported-transfer-syntax")
    syntax = name.rsplit("_", maxsplit=1)[-1]
    assert syntax in str(entry.detail)
    assert UID(syntax).name in str(entry.detail)


def test_encodings_may_change_within_a_series(ge_slice: tuple[Path, Hu], tmp_path: Path) -> None:
    folder, expected = ge_slice
    (tmp_path / "in").mkdir()
    for k, name in enumerate(sorted(GE_LOSSLESS)):
        one = copied_along_z(folder / f"{name}.dcm", tmp_path / name, count=k + 1)
        shutil.copy(one / f"{k}", tmp_path / "in" / f"{k}")
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in", native=True).only()
    assert entry.slices == 9
    for k in range(9):
        np.testing.assert_array_equal(volume.to_hu(k), np.clip(expected, -1024, 3071))


ENHANCED = (
    "explicit_little_endian",
    "fragmented_no_bot_jpeg_lossless.57",
    "fragmented_no_bot_jpeg_lossless.70",
    "fragmented_no_bot_jpeg_ls.80",
    "not_fragmented_bot_jpeg_ls.80",
    "not_fragmented_no_bot_jpeg_ls.80",
    "not_fragmented_bot_rle",
    "not_fragmented_no_bot_rle",
)


def _unsigned_frames(folder: Path) -> tuple[Hu, float, float]:
    ds = pydicom.dcmread(folder / "CT0012.explicit_little_endian.dcm")
    [shared] = ds.SharedFunctionalGroupsSequence
    [rescale] = shared.PixelValueTransformationSequence
    words = np.frombuffer(ds.PixelData, "<u2").reshape(2, 512, 512)
    return words.astype(np.float32), float(rescale.RescaleSlope), float(rescale.RescaleIntercept)


@pytest.mark.parametrize("name", ENHANCED)
def test_lossless_encodings_of_an_enhanced_file_are_equal_frame_by_frame(name: str, shared_data: Path) -> None:
    folder = shared_data / "encodings" / "enhanced_two_frame"
    words, slope, intercept = _unsigned_frames(folder)
    stack, frames = hounsfield(folder / f"CT0012.{name}.dcm")
    assert len(frames) == 2
    assert not stack.lossy
    for (hu, _), expected in zip(frames, words, strict=True):
        # Outside the field lies a plateau below air that no attribute declares.
        found = expected * np.float32(slope) + np.float32(intercept)
        seen = found > -1100
        np.testing.assert_array_equal(hu[seen], found[seen])
    assert len({stack.slices.frame[k] for k in range(2)}) == 2
    assert stack.key.pixel_spacing_mm
    assert np.isfinite(stack.slices.position_lps_mm).all()


@pytest.mark.parametrize("name", ["fragmented_no_bot_jpeg_ls.81", "fragmented_no_bot_jpeg_baseline.51"])
def test_lossy_encodings_of_an_enhanced_file_are_flagged(name: str, shared_data: Path) -> None:
    stack, frames = hounsfield(shared_data / "encodings" / "enhanced_two_frame" / f"CT0012.{name}.dcm")
    assert stack.lossy
    assert len(frames) == 2


def test_fragments_with_and_without_offset_table_are_equal(shared_data: Path) -> None:
    folder = shared_data / "encodings" / "fragments"
    ds = pydicom.dcmread(folder / "CT1_UNC.explicit_little_endian.dcm")
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(512, 512)
    files = sorted(folder.iterdir())
    assert len(files) == 5
    for path in files:
        stack, [(hu, padded)] = hounsfield(path)
        assert padded is not None
        np.testing.assert_array_equal(padded, stored == -2000)
        np.testing.assert_array_equal(hu[~padded], stored[~padded].astype(np.float32) - 1024)
        assert (hu[padded] == -1024).all()
        assert not stack.lossy


def test_a_real_slice_is_equal_with_and_without_compression_and_its_padding_is_air(shared_data: Path) -> None:
    folder = shared_data / "cq500_slice"
    stored = np.frombuffer(pydicom.dcmread(folder / "693_UNCR.dcm").PixelData, "<i2").reshape(512, 512)
    assert (stored == -2000).mean() > 0.1
    for name in ("693_UNCR.dcm", "693_J2KR.dcm"):
        stack, [(hu, padded)] = hounsfield(folder / name)
        assert padded is not None
        np.testing.assert_array_equal(padded, stored == -2000)
        np.testing.assert_array_equal(hu, np.where(stored == -2000, -1024, stored.astype(int) - 1024))
        assert not stack.lossy


def test_pixels_that_were_lossy_once_are_flagged_though_they_are_not_compressed_now(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "cq500_slice" / "693_UNCI.dcm"
    ds = pydicom.dcmread(source, stop_before_pixels=True)
    assert not ds.file_meta.TransferSyntaxUID.is_compressed
    assert float(ds.LossyImageCompressionRatio) > 300
    entry, _ = land(tmp_path / "s.zarr", copied_along_z(source, tmp_path / "in"), native=True).only()
    assert "lossy-compressed" in entry.warnings


# --- time points, archives, junk ------------------------------------------------------------------------


def _by_time(landed: Landed) -> Iterator[tuple[tuple[str, ...], Hu]]:
    """Geometry and voxels of every volume, whatever the series is called."""
    for entry in landed.written:
        volume = landed.volume(entry)
        assert entry.slices == 4
        yield tuple(np.round(np.asarray(volume.affine_lps), 4).ravel().astype(str)), volume.to_hu()


FOUR: dict[str, Any] = {"native": True, "min_slices": 4, "window": (-32768, 32767)}


@pytest.fixture(scope="module")
def time_points(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Landed:
    return land(tmp_path_factory.mktemp("4d") / "s.zarr", shared_data / "dicom_4d", **FOUR)


def test_nineteen_time_points_of_four_slices_are_nineteen_stacks_as_in_the_enhanced_files(
    shared_data: Path, time_points: Landed, tmp_path: Path
) -> None:
    frames = land(tmp_path / "frames.zarr", shared_data / "dicom_4d_enhanced", **FOUR)
    assert time_points.outcomes == frames.outcomes == [("written", None)] * 19
    found, expected = sorted(_by_time(time_points), key=_order), sorted(_by_time(frames), key=_order)
    for (one_affine, one), (other_affine, other) in zip(found, expected, strict=True):
        assert one_affine == other_affine
        np.testing.assert_array_equal(one, other)
    _assert_stored_pixels(time_points, shared_data / "dicom_4d")


def _order(item: tuple[tuple[str, ...], Hu]) -> list[float]:
    return [*item[1].ravel().tolist()]


def _assert_stored_pixels(landed: Landed, folder: Path) -> None:
    with pydicom.config.disable_value_validation():
        # The UIDs of this data set have components with leading zeros.
        by_uid = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, folder.iterdir())}
    for volume in map(landed.volume, landed.written):
        for source, plane in zip(volume.source_slices, volume.to_hu(), strict=True):
            ds = by_uid[source.sop_instance_uid]
            # Rows may be turned so that y grows to Posterior; the values are the slice's in any case.
            stored = np.frombuffer(ds.PixelData, "<i2") * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            assert sorted(plane.ravel().tolist()) == pytest.approx(sorted(stored.tolist()), abs=0.01)


def test_a_zip_gives_the_volumes_of_its_folder(shared_data: Path, time_points: Landed, tmp_path: Path) -> None:
    """The archive holds the same slices as the folder beside it."""
    archive = shared_data / "archives" / "dicom.zip"
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if not name.endswith("/")]
        assert len(names) == 76
        assert {name.split("/")[-1] for name in names} == {p.name for p in (shared_data / "dicom_4d").iterdir()}
    zipped = land(tmp_path / "zip.zarr", archive, **FOUR)
    assert len(zipped.written) == len(time_points.written) == 19
    for one, other in zip(zipped.written, time_points.written, strict=True):
        assert one.series_key == other.series_key
        np.testing.assert_array_equal(zipped.volume(one).to_hu(), time_points.volume(other).to_hu())


def test_text_files_that_are_named_as_dicom_are_ignored(shared_data: Path) -> None:
    folder = shared_data / "junk"
    scan = merge_scans(map(scan_source, find_sources([str(folder)])))
    assert (len(scan.ignored), scan.stacks, scan.unreadable) == (len(list(folder.iterdir())), (), ())
    plan = make_plan(scan, Config(native=True))
    assert (plan.tasks, plan.settled) == ((), ())
