"""A mask goes back onto the DICOM slices: what highdicom and pydicom read there is the mask, or the shape."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from series import small_acquisition, small_series

import etl
from etl.errors import UsageError
from etl.phantom.files import write_enhanced
from etl.phantom.head import HeadPhantom
from etl.read.patients import Volume, open_store

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")

OBLIQUE = (
    0.9396926207859084,
    0.3420201433256687,
    0.0,
    -0.3368240888334652,
    0.9254165783983234,
    0.1736481776669303,
)
STACKS: dict[str, dict[str, Any]] = {
    "straight": {"count": 20},
    "tilted": {"count": 20, "gantry_tilt_deg": 18.5},
    "irregular": {"gaps_mm": [5.0, 5.0, 5.0, 4.0, 5.0, 6.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]},
    "oblique": {"count": 20, "orientation": OBLIQUE},
    "coronal": {"count": 20, "orientation": "coronal"},
}
CENTER, RADII = np.array([5.0, -8.0, 3.0]), np.array([38.0, 46.0, 33.0])
"""An ellipsoid, LPS mm."""


@pytest.fixture
def stored(tmp_path: Path, in_process: Callable[..., Any]) -> Callable[..., Volume]:
    """Write a series below ``dicom`` and bring it into ``s.zarr``."""

    def store(*options: object, **stack: Any) -> Volume:
        small_series(tmp_path / "dicom", rows=48, **stack)
        return run(in_process, tmp_path, *options)

    return store


def run(in_process: Callable[..., Any], folder: Path, *options: object) -> Volume:
    done = in_process("run", folder / "dicom", folder / "s.zarr", "--workers", "0", "-q", *options)
    assert done.status == 0, done.why
    [patient] = open_store(folder / "s.zarr").values()
    return patient.default


def shape_at(points_lps: np.ndarray) -> np.ndarray:
    """The ellipsoid as 2, its left half as 1."""
    inside = (((points_lps - CENTER) / RADII) ** 2).sum(-1) <= 1
    return np.where(inside, np.where(points_lps[..., 0] > CENTER[0], 1, 2), 0).astype(np.uint8)


def on_grid(volume: Volume) -> np.ndarray:
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    return shape_at(index @ volume.affine_lps[:3, :3].T + volume.affine_lps[:3, 3])


def on_slices(folder: Path, seg: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the SEG says of every pixel of every slice, by highdicom, and what the shape is there."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    found = highdicom.seg.segread(seg).get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices], combine_segments=True, ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    truth = []
    for one in slices:
        along_row, along_column = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
        down, along = np.mgrid[: one.Rows, : one.Columns]
        offset = down[..., None] * float(one.PixelSpacing[0]) * along_column
        offset = offset + along[..., None] * float(one.PixelSpacing[1]) * along_row
        truth.append(shape_at(np.array(one.ImagePositionPatient, float) + offset))
    return found, np.array(truth)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("stack", ["straight", "tilted", "oblique", "coronal"])
def test_on_the_scanners_own_grid_every_pixel_comes_back(stored, tmp_path, stack):
    volume = stored("--native", **STACKS[stack])
    done = etl.write_prediction(
        tmp_path / "s.zarr", volume.node, on_grid(volume), tmp_path / "p.dcm", dicom=tmp_path / "dicom"
    )
    found, truth = on_slices(tmp_path / "dicom", done.path)
    differ = found != truth
    # Where the surface goes through the middle of a pixel, rounding decides.
    assert differ.sum() <= 2
    assert done.segment_numbers == {1: 1, 2: 2}
    assert done.pixels == {value: int((found == value).sum()) for value in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_from_another_grid_the_shape_comes_back(stored, tmp_path, stack):
    volume = stored("--spacing-mm", "1.5", **STACKS[stack])
    etl.write_prediction(
        open_store(tmp_path / "s.zarr"), volume.node, on_grid(volume), tmp_path / "p.dcm", dicom=tmp_path / "dicom"
    )
    found, truth = on_slices(tmp_path / "dicom", tmp_path / "p.dcm")
    for value in (1, 2):
        assert dice(found == value, truth == value) >= 0.97


def test_the_file_says_whose_it_is_and_what_the_segments_are(stored, tmp_path):
    volume = stored("--native", count=12)
    mask = on_grid(volume) * np.uint8(3)
    code = {"scheme": "SCT", "value": "50960005", "meaning": "Hemorrhage"}
    segments = {3: {"name": "bleed", "code": code}, 6: "rest"}
    options = {"dicom": [tmp_path / "dicom"], "segments": segments, "algorithm": "net", "algorithm_version": "7"}
    done = etl.write_prediction(tmp_path / "s.zarr", volume.node, mask, tmp_path / "a" / "p.dcm", **options)
    assert done.segment_numbers == {3: 1, 6: 2}
    seg, source = pydicom.dcmread(done.path), pydicom.dcmread(next((tmp_path / "dicom").iterdir()))
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == source[keyword].value
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    first, second = seg.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("bleed", "rest")
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Hemorrhage"
    assert first.SegmentAlgorithmName == "net"
    assert seg["ContentCreatorName"].is_empty
    again = etl.write_prediction(tmp_path / "s.zarr", volume.node, mask, tmp_path / "again.dcm", **options)
    assert pydicom.dcmread(again.path).SOPInstanceUID == seg.SOPInstanceUID
    other = etl.write_prediction(tmp_path / "s.zarr", volume.node, mask[::-1], tmp_path / "other.dcm", **options)
    assert pydicom.dcmread(other.path).SOPInstanceUID != seg.SOPInstanceUID


@pytest.mark.parametrize(
    ("stack", "spacing_mm"),
    [("straight", 5.0), ("tilted", 5.0 * np.cos(np.radians(18.5))), ("oblique", 5.0), ("irregular", None)],
)
def test_the_file_says_how_far_slices_are_apart_along_their_normal(stored, tmp_path, stack, spacing_mm):
    """By which dcmqi and pydicom-seg count slices; else by Slice Thickness."""
    volume = stored("--spacing-mm", "4", **STACKS[stack])
    etl.write_prediction(
        tmp_path / "s.zarr", volume.node, on_grid(volume), tmp_path / "p.dcm", dicom=tmp_path / "dicom"
    )
    [measures] = pydicom.dcmread(tmp_path / "p.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    said = measures.get("SpacingBetweenSlices")
    assert said == (None if spacing_mm is None else pytest.approx(spacing_mm, abs=1e-6))


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd"])
def test_a_mask_file_lies_where_it_says_itself(stored, tmp_path, name):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    volume = stored("--spacing-mm", "4", count=16)
    grid = sitk.GetImageFromArray(np.zeros((90, 100, 80), np.uint8))
    grid.SetOrigin((-70.0, 80.0, -60.0))
    grid.SetSpacing((1.7, 1.6, 1.4))
    grid.SetDirection((1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    index = np.moveaxis(np.indices((90, 100, 80)), 0, -1)[..., ::-1] * [1.7, -1.6, 1.4]
    mask = sitk.GetImageFromArray(shape_at(index + np.array([-70.0, 80.0, -60.0])))
    mask.CopyInformation(grid)
    sitk.WriteImage(mask, str(tmp_path / name))
    etl.write_prediction(
        tmp_path / "s.zarr", volume.node, tmp_path / name, tmp_path / "p.dcm", dicom=tmp_path / "dicom"
    )
    found, truth = on_slices(tmp_path / "dicom", tmp_path / "p.dcm")
    for value in (1, 2):
        assert dice(found == value, truth == value) >= 0.97


def test_frames_of_one_file_are_referred_to_as_frames(tmp_path, in_process):
    written = small_acquisition(count=14, rows=48)
    write_enhanced(tmp_path / "dicom", HeadPhantom(), written)
    volume = run(in_process, tmp_path, "--native")
    mask = on_grid(volume)
    etl.write_prediction(tmp_path / "s.zarr", volume.node, mask, tmp_path / "p.dcm", dicom=tmp_path / "dicom")
    seg = highdicom.seg.segread(tmp_path / "p.dcm")
    uid = pydicom.dcmread(next((tmp_path / "dicom").iterdir()), stop_before_pixels=True).SOPInstanceUID
    found = seg.get_pixels_by_source_frame(
        uid, list(range(1, 15)), combine_segments=True, ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    # Frames advance to the head, rows to the back, columns to the left: as z, y and x do.
    np.testing.assert_array_equal(found, mask)


def test_a_deidentified_store_finds_its_slices_by_its_key(tmp_path, in_process):
    small_series(tmp_path / "dicom", count=10, rows=48)
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    volume = run(in_process, tmp_path, "--native", "--deidentify", key)
    given = (tmp_path / "s.zarr", volume.node, on_grid(volume), tmp_path / "p.dcm")
    with pytest.raises(UsageError, match="10 of its 10 files are not in the DICOM given"):
        etl.write_prediction(*given, dicom=tmp_path / "dicom")
    etl.write_prediction(*given, dicom=tmp_path / "dicom", deidentify=key)
    assert pydicom.dcmread(tmp_path / "p.dcm").PatientID == "P1"


def test_slices_are_found_in_a_zip_too(stored, tmp_path):
    volume = stored("--native", count=10)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (tmp_path / "dicom").iterdir():
            archive.write(path, path.name)
    given = (tmp_path / "s.zarr", volume.node, on_grid(volume))
    done = etl.write_prediction(*given, tmp_path / "p.dcm", dicom=tmp_path / "all.zip")
    assert done.path.read_bytes()[128:132] == b"DICM"


def test_what_cannot_be_put_back_is_refused_and_nothing_is_written(stored, tmp_path):
    volume = stored("--native", count=10)
    mask = on_grid(volume)
    next((tmp_path / "dicom").iterdir()).rename(tmp_path / "kept")
    for given, message in (
        ((volume.node, mask), "1 of its 10 files are not in the DICOM given"),
        ((volume.node, mask[1:]), r"mask has shape \(9, 48, 48\); \(10, 48, 48\) is needed"),
        ((volume.node, mask * 0.5), "values are not whole"),
        ((volume.node, mask.astype(int) - 1), "values run from -1 to 1; allowed is 0 to 65535"),
        (("P1/0001-0000", mask), "has no volume 'P1/0001-0000'"),
        ((volume.node, tmp_path / "m.png"), r"allowed is \.nii"),
    ):
        with pytest.raises(UsageError, match=message):
            etl.write_prediction(tmp_path / "s.zarr", *given, tmp_path / "p.dcm", dicom=tmp_path / "dicom")
    (tmp_path / "kept").rename(tmp_path / "dicom" / "kept")
    with pytest.raises(UsageError, match="the mask is empty on the slices"):
        etl.write_prediction(
            tmp_path / "s.zarr", volume.node, np.zeros_like(mask), tmp_path / "p.dcm", dicom=tmp_path / "dicom"
        )
    assert not (tmp_path / "p.dcm").exists()


FINE: dict[str, Any] = {"rows": 128, "noise_hu": 0.0}
"""Pixels of 1.6 mm: what goes through slices of 4 mm pixels and back keeps a Dice of 0.94, whoever does it."""


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["straight", "tilted", "oblique", "coronal"])
def test_a_prediction_comes_back_to_the_scanners_own_grid_voxel_by_voxel(stored, tmp_path, in_process, stack):
    volume = stored("--native", **STACKS[stack])
    mask = on_grid(volume)
    np.testing.assert_array_equal(there_and_back(volume, mask, tmp_path, in_process), mask)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stack",
    [
        {"count": 60, "spacing_mm": 2.0},
        {"count": 60, "spacing_mm": 2.0, "gantry_tilt_deg": 18.5},
        {"gaps_mm": [2.0, 1.5, 2.5] * 20},
        {"count": 60, "spacing_mm": 2.0, "orientation": OBLIQUE},
    ],
    ids=["straight", "tilted", "irregular", "oblique"],
)
def test_a_prediction_comes_back_to_another_grid_as_the_same_shape(tmp_path, in_process, stack):
    small_series(tmp_path / "dicom", **FINE, **stack)
    volume = run(in_process, tmp_path, "--spacing-mm", "2")
    mask = on_grid(volume)
    back = there_and_back(volume, mask, tmp_path, in_process)
    for value in (1, 2):
        assert dice(back == value, mask == value) >= 0.97


def there_and_back(volume: Volume, mask: np.ndarray, folder: Path, in_process: Callable[..., Any]) -> np.ndarray:
    """Write a mask as DICOM SEG and join that to the store."""
    path = folder / "seg" / "p.dcm"
    etl.write_prediction(folder / "s.zarr", volume.node, mask, path, dicom=folder / "dicom")
    done = in_process("label", folder / "s.zarr", path.parent, "--name", "back", "--workers", "0", "-q")
    assert done.status == 0, done.why
    return open_store(folder / "s.zarr")[volume.patient_id].default.label_values("back")
