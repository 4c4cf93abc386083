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

pytestmark = [
    pytest.mark.ecosystem,
    # Theirs, about each other and about Python: not what is tested here.
    pytest.mark.filterwarnings("ignore"),
]


def test_dcmqi_reads_the_prediction_as_the_mask(volume, tmp_path):
    """The reader of 3D Slicer: an image for each segment, on the slices' own grid."""
    dcmqi, sitk = needs("dcmqi"), needs("SimpleITK")
    mask = two_boxes(volume.shape)
    done = etl.write_prediction(
        tmp_path / "s.zarr", volume.node, mask, tmp_path / "p.dcm", dicom=tmp_path / "dicom"
    )
    (tmp_path / "out").mkdir()
    run_dcmqi(dcmqi, "segimage2itkimage", "--inputDICOM", done.path, "--outputDirectory", tmp_path / "out",
              "--outputType", "nrrd", "--prefix", "s")  # fmt: skip
    label = volume.to_sitk(labels=["organs"])["organs"]
    for number, value in ((1, 1), (2, 2)):
        image = sitk.ReadImage(str(tmp_path / "out" / f"s-{number}.nrrd"))
        found = sitk.GetArrayFromImage(image) > 0
        assert found.sum() == done.pixels[value]
        if not volume.attributes["resampling"]["native"]:
            continue  # ITK has no place for slices that are not at right angles to their direction
        on_grid = sitk.GetArrayFromImage(
            sitk.Resample(image, label, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        )
        np.testing.assert_array_equal(on_grid > 0, mask == value)


def run_dcmqi(dcmqi: Any, program: str, *arguments: object) -> None:
    folders = [Path(dcmqi.__file__).parent / "bin", Path(sys.executable).parent]
    path = next(one for folder in folders if (one := folder / program).exists())
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
