"""What readers of DICOM SEG make of a prediction."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boxes import needs, two_boxes

import etl
from etl.read.patients import Volume

pytestmark = [
    pytest.mark.ecosystem,
    # Theirs, about each other and about Python: not what is tested here.
    pytest.mark.filterwarnings("ignore"),
]
PYDICOM_SEG = Path(sys.prefix) / "pydicom-seg" / "bin" / "python"
"""It has an environment of its own, with a pydicom that is old enough for it."""
READ = """
import sys, numpy, pydicom, pydicom_seg
seg = pydicom.dcmread(sys.argv[1])
segments, whole = pydicom_seg.SegmentReader().read(seg), pydicom_seg.MultiClassReader().read(seg)
each = {f"segment_{number}": segments.segment_data(number) for number in segments.available_segments}
place = {"origin": whole.origin, "spacing": whole.spacing, "direction": whole.direction}
numpy.savez(sys.argv[2], whole=whole.data, **place, **each)
"""


def test_dcmqi_reads_the_prediction_as_the_mask(volume, tmp_path):
    """The reader of 3D Slicer: an image for each segment, on the slices' own grid."""
    sitk = needs("SimpleITK")
    mask = two_boxes(volume.shape)
    done = predict(volume, mask, tmp_path)
    label = volume.to_sitk(labels=["organs"])["organs"]
    images = read_by_dcmqi(done.path, tmp_path / "out")
    assert done.segment_numbers == {1: 1, 2: 2}
    for value, image in images.items():
        found = sitk.GetArrayFromImage(image) > 0
        assert found.sum() == done.pixels[value]
        if not volume.attributes["resampling"]["native"]:
            continue  # ITK has no place for slices that are not at right angles to their direction
        on_grid = sitk.GetArrayFromImage(
            sitk.Resample(image, label, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        )
        np.testing.assert_array_equal(on_grid > 0, mask == value)


def test_pydicom_seg_reads_the_prediction_as_the_mask(volume, tmp_path):
    mask = two_boxes(volume.shape)
    done = predict(volume, mask, tmp_path)
    found = read_by_pydicom_seg(done.path, tmp_path / "found.npz")
    assert done.segment_numbers == {1: 1, 2: 2}
    for value in (1, 2):
        assert (found["whole"] == value).sum() == done.pixels[value]
        np.testing.assert_array_equal(found[f"segment_{value}"], found["whole"] == value)
    if volume.attributes["resampling"]["native"]:
        np.testing.assert_array_equal(on_grid_of(volume, found), mask)


def test_no_slice_of_a_tilted_prediction_is_lost(stored, tmp_path):
    """Slices are 5 mm thick and lie 4.74 mm apart: counted by their thickness, 36 become 34."""
    sitk = needs("SimpleITK")
    volume = stored("--native", count=40, gantry_tilt_deg=18.5)
    mask = np.zeros(volume.shape, np.uint8)
    mask[2:38, 10:20, 10:30], mask[2:18, 20:30, 5:15] = 1, 2
    path = predict(volume, mask, tmp_path).path
    np.testing.assert_array_equal(read_by_pydicom_seg(path, tmp_path / "found.npz")["whole"], mask[2:38])
    for value, image in read_by_dcmqi(path, tmp_path / "out").items():
        found = sitk.GetArrayFromImage(image)
        np.testing.assert_array_equal(found > 0, mask[2:38] == value)


def test_slices_of_an_irregular_prediction_are_all_read_but_taken_for_even(stored, tmp_path):
    """A limit of both: they know one distance, here Slice Thickness. docs/tools.md says so."""
    volume = stored("--spacing-mm", "2", gaps_mm=[5.0, 5.0, 5.0, 4.0, 5.0, 6.0, *[5.0] * 10])
    done = predict(volume, two_boxes(volume.shape), tmp_path)
    found = read_by_pydicom_seg(done.path, tmp_path / "found.npz")
    assert found["spacing"][2] == 5.0
    for value, image in read_by_dcmqi(done.path, tmp_path / "out").items():
        assert image.GetSpacing()[2] == pytest.approx(5.0)
        assert (found["whole"] == value).sum() == done.pixels[value]
        assert np.count_nonzero(needs("SimpleITK").GetArrayFromImage(image)) == done.pixels[value]


def predict(volume: Volume, mask: np.ndarray, folder: Path) -> Any:
    return etl.write_prediction(folder / "s.zarr", volume.node, mask, folder / "p.dcm", dicom=folder / "dicom")


def read_by_dcmqi(path: Path, out: Path) -> dict[int, Any]:
    """Give an image for each of the segments 1 and 2."""
    dcmqi, sitk = needs("dcmqi"), needs("SimpleITK")
    folders = [Path(dcmqi.__file__).parent / "bin", Path(sys.executable).parent]
    program = next(one for folder in folders if (one := folder / "segimage2itkimage").exists())
    out.mkdir()
    to_read = ("--inputDICOM", path, "--outputDirectory", out, "--outputType", "nrrd", "--prefix", "s")
    done = subprocess.run([program, *map(str, to_read)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "absent" not in done.stderr + done.stdout  # what the standard asks for and the file lacks
    return {number: sitk.ReadImage(str(out / f"s-{number}.nrrd")) for number in (1, 2)}


def read_by_pydicom_seg(path: Path, out: Path) -> dict[str, np.ndarray]:
    """Give all segments in one array (`whole`), each by itself (`segment_N`), and where the arrays lie."""
    if not PYDICOM_SEG.exists():
        pytest.skip("pydicom-seg is not installed: make test-ecosystem")
    done = subprocess.run(
        [PYDICOM_SEG, "-c", READ, path, out], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        return dict(found)


def on_grid_of(volume: Volume, found: dict[str, np.ndarray]) -> np.ndarray:
    """Put what was read onto the volume's grid, by where it says that it lies."""
    index = np.moveaxis(np.indices(found["whole"].shape), 0, -1)
    points_lps_mm = found["origin"] + (index[..., ::-1] * found["spacing"]) @ found["direction"].T
    there = (points_lps_mm - volume.affine_lps[:3, 3]) @ np.linalg.inv(volume.affine_lps[:3, :3]).T
    np.testing.assert_allclose(there, np.round(there), atol=1e-6)
    values = np.zeros(volume.shape, found["whole"].dtype)
    values[tuple(np.moveaxis(np.round(there).astype(int), -1, 0))] = found["whole"]
    return values
