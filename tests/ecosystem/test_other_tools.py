"""The tools that people work with, each by itself: what they get of a volume and its files is what is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from boxes import needs

from etl.export.export import export

pytestmark = [
    pytest.mark.ecosystem,
    # Theirs, about each other and about Python: not what is tested here.
    pytest.mark.filterwarnings("ignore"),
]


def test_monai_reads_of_the_nifti_what_to_monai_gives(volume, tmp_path):
    needs("torch")
    transforms = needs("monai.transforms")
    nib = needs("nibabel")
    ours = volume.to_monai(labels=["organs"])
    for name, image in volume.to_nibabel(labels=["organs"]).items():
        nib.save(image, tmp_path / f"{name}.nii.gz")
        theirs = transforms.LoadImage(ensure_channel_first=True, image_only=True)(tmp_path / f"{name}.nii.gz")
        assert ours[name].shape == theirs.shape
        np.testing.assert_array_equal(np.asarray(ours[name]), np.asarray(theirs))
        np.testing.assert_allclose(ours[name].affine, theirs.affine, atol=1e-4)


def test_monai_reads_of_the_dicom_the_voxels_of_to_monai(volume, tmp_path):
    """By ITK, whose axes are its own: compared at the same points of the patient."""
    needs("torch")
    needs("itk")
    transforms = needs("monai.transforms")
    if not volume.attributes["resampling"]["native"]:
        pytest.skip("ITK does not resample: a tilted series has another grid there")
    theirs = transforms.LoadImage(reader="ITKReader", ensure_channel_first=True, image_only=True)(
        tmp_path / "dicom"
    )
    ours = volume.to_monai()
    index = np.indices(np.array(ours.shape[1:])).reshape(3, -1)[:, ::13]
    points = np.asarray(ours.affine) @ np.vstack([index, np.ones(index.shape[1])])
    there = (np.linalg.inv(np.asarray(theirs.affine)) @ points)[:3]
    np.testing.assert_allclose(there, np.round(there), atol=1e-2)
    found = np.asarray(theirs)[0][tuple(np.round(there).astype(int))]
    np.testing.assert_allclose(np.asarray(ours)[0][tuple(index)], np.clip(found, *volume.window_hu), atol=0.2)


def test_torchio_reads_of_the_nifti_what_to_torchio_gives(volume, tmp_path):
    torchio, nib = needs("torchio"), needs("nibabel")
    subject = volume.to_torchio(labels=["organs"])
    assert isinstance(subject["organs"], torchio.LabelMap)
    for name, image in volume.to_nibabel(labels=["organs"]).items():
        nib.save(image, tmp_path / f"{name}.nii.gz")
        theirs = torchio.ScalarImage(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(subject[name].data), np.asarray(theirs.data))
        np.testing.assert_allclose(np.asarray(subject[name].affine), np.asarray(theirs.affine), atol=1e-4)


def test_itk_has_the_geometry_and_the_voxels_of_simpleitk(volume):
    itk, sitk = needs("itk"), needs("SimpleITK")
    ours, theirs = volume.to_itk(), volume.to_sitk()
    np.testing.assert_array_equal(itk.array_from_image(ours), sitk.GetArrayFromImage(theirs))
    top = tuple(n - 1 for n in theirs.GetSize())
    for index in ((0, 0, 0), top, (top[0], 0, 1)):
        there = theirs.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(np.asarray(ours.TransformIndexToPhysicalPoint(index)), there, atol=1e-9)


def test_nnunet_accepts_the_raw_folder(volume, tmp_path):
    """Its own check, in a process of its own, since it reads its folders from the environment when imported."""
    needs("nnunetv2")
    out = tmp_path / "raw" / "Dataset007_Boxes"
    assert (
        export(str(tmp_path / "s.zarr"), out, form="nnunet", labels=["organs"], workers=0, quiet=True).failed == {}
    )
    code = (
        "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as verify\n"
        f"verify({str(out)!r}, 1)\n"
    )
    folders = {name: str(tmp_path / "raw") for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "verify_dataset_integrity Done" in done.stdout
    assert "Warning" not in done.stdout
    # It does look: a value that dataset.json does not have is refused.
    about = json.loads((out / "dataset.json").read_text())
    about["labels"].pop("right")
    (out / "dataset.json").write_text(json.dumps(about))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
