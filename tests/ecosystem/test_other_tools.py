"""The tools that people work with, each by itself: what they read of a store and its files is what is in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labeled_stores import add_label
from series import small_series

import etl
from etl.export.export import export
from etl.read.patients import Volume, open_store

pytestmark = [
    pytest.mark.ecosystem,
    # Theirs, about each other and about Python: not what is tested here.
    pytest.mark.filterwarnings("ignore"),
]
STACKS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "straight": (("--native",), {}),
    "tilted": (("--spacing-mm", "3"), {"gantry_tilt_deg": 18.5}),
    "oblique": (
        ("--native",),
        {"orientation": (0.9396926207859084, 0.3420201433256687, 0.0, -0.3368240888334652, 0.9254165783983234,
                         0.1736481776669303)},
    ),
}  # fmt: skip


def needs(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            name, reason=f"{name} is not installed: make test-ecosystem", exc_type=ImportError
        )


@pytest.fixture(params=STACKS)
def volume(request: pytest.FixtureRequest, tmp_path: Path, in_process: Callable[..., Any]) -> Volume:
    """A volume with a label of two structures; its DICOM lies in ``dicom``."""
    options, stack = STACKS[request.param]
    small_series(tmp_path / "dicom", rows=40, count=14, **stack)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", "--workers", "0", "-q", *options)
    assert done.status == 0, done.why
    made = open_store(tmp_path / "s.zarr")["P1"].default
    add_label(tmp_path / "s.zarr", made.node, "organs", two_boxes(made.shape), {1: "left", 2: "right"})
    return made


def two_boxes(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    z, y, x = (n // 4 for n in shape)
    mask[z : 3 * z, y : 2 * y, x : 3 * x], mask[z : 2 * z, 2 * y : 3 * y, x : 2 * x] = 1, 2
    return mask


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


def test_ome_zarr_models_accepts_a_volume_with_a_label_that_the_command_wrote(volume, tmp_path, in_process):
    v05 = needs("ome_zarr_models.v05")
    zarr = needs("zarr")
    mask, path = two_boxes(volume.shape), tmp_path / "seg" / "p.dcm"
    etl.write_prediction(tmp_path / "s.zarr", volume.node, mask, path, dicom=tmp_path / "dicom")
    shutil.rmtree(tmp_path / "s.zarr" / volume.node / "labels")
    done = in_process("label", tmp_path / "s.zarr", path.parent, "--name", "back", "--workers", "0", "-q")
    assert done.status == 0, done.why
    image = v05.Image.from_zarr(zarr.open_group(tmp_path / "s.zarr", path=volume.node, mode="r"))
    assert [axis.name for axis in image.ome_attributes.multiscales[0].axes] == ["z", "y", "x"]
    label = zarr.open_group(tmp_path / "s.zarr", path=f"{volume.node}/labels/back", mode="r")
    v05.ImageLabel.from_zarr(label)


def test_xarray_opens_a_volume_as_a_tree(volume, tmp_path):
    xarray = needs("xarray")
    tree = xarray.open_datatree(tmp_path / "s.zarr", engine="zarr", group=volume.node, consolidated=False)
    assert tree["volume"].shape == volume.shape
