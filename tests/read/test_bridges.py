"""A volume as the image of another library is what that library reads of the same DICOM, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from handmade_store import Series, write_store
from series import small_series

from etl.errors import StoreError, UsageError
from etl.read import optional_library
from etl.read.patients import Volume, open_store

OBLIQUE = (0.94, -0.28, -0.22, 0.29, 0.96, 0.04)
"""Image Orientation (Patient), turned about z and y; made orthonormal below."""


def orthonormal(orientation: tuple[float, ...]) -> tuple[float, ...]:
    row, column = np.array(orientation).reshape(2, 3)
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return tuple(np.concatenate([row, column / np.linalg.norm(column)]).round(12).tolist())


STACKS: dict[str, dict[str, Any]] = {
    "straight": {},
    "anisotropic": {"rows": 20, "columns": 28, "spacing_mm": 3.0},
    "oblique": {"orientation": orthonormal(OBLIQUE)},
    "coronal": {"orientation": "coronal"},
}


@pytest.fixture
def stored(tmp_path: Path, in_process: Callable[..., Any]) -> Callable[..., tuple[Volume, Path]]:
    """Write a series and bring it into a store."""

    def store(*options: object, **stack: Any) -> tuple[Volume, Path]:
        small_series(tmp_path / "dicom", **stack)
        done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", "--workers", "0", "-q", *options)
        assert done.status == 0, done.why
        return open_store(tmp_path / "s.zarr")["P1"].default, tmp_path / "dicom"

    return store


def points_lps(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Index (k, j, i) of some voxels, the corners among them, and their LPS mm by the store's affine."""
    rng = np.random.default_rng(0)
    top = np.array(volume.shape) - 1
    index = np.concatenate([np.indices((2, 2, 2)).reshape(3, -1).T * top, rng.integers(0, top + 1, (40, 3))])
    return index, (volume.affine_lps @ np.c_[index, np.ones(len(index))].T).T[:, :3]


@pytest.mark.parametrize("stack", STACKS)
def test_simpleitk_gives_what_its_own_reader_gives_of_the_same_dicom(stored, stack):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    volume, folder = stored("--native", "--precision-bits", "full", **STACKS[stack])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs, ours = reader.Execute(), volume.to_sitk()
    assert sorted(ours.GetSize()) == sorted(theirs.GetSize())
    hu = sitk.GetArrayFromImage(theirs)
    low, high = volume.window_hu
    index, points = points_lps(volume)
    for (k, j, i), point in zip(index.tolist(), points, strict=True):
        assert np.allclose(ours.TransformIndexToPhysicalPoint((i, j, k)), point, atol=1e-6)
        there = theirs.TransformPhysicalPointToContinuousIndex(point.tolist())
        assert np.allclose(there, np.round(there), atol=1e-3)
        x, y, z = np.round(there).astype(int).tolist()
        assert ours[i, j, k] == pytest.approx(np.clip(hu[z, y, x], low, high), abs=0.01)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.to_sitk(hu=False)), volume[...])


def test_a_tilted_volume_lies_where_its_head_lies(stored):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    from etl.phantom.head import HeadPhantom

    volume, _ = stored("--spacing-mm", "4", gantry_tilt_deg=18.5, count=24, rows=48, noise_hu=0.0)
    image = volume.to_sitk()
    index = np.argwhere(np.ones(volume.shape, bool))
    points = np.array(
        [image.TransformIndexToPhysicalPoint((int(i), int(j), int(k))) for k, j, i in index[::97]], np.float64
    )
    values = sitk.GetArrayFromImage(image)[tuple(index[::97].T)]
    smooth = HeadPhantom().is_smooth(points, 12.0) & (volume.validity()[tuple(index[::97].T)] == 1)
    assert smooth.sum() > 100
    truth = np.clip(HeadPhantom().hu(points), *volume.window_hu)
    assert np.abs(values - truth)[smooth].max() < 5  # ripples of the spline; a voxel astray gives 30 and more


def test_a_sheared_grid_is_refused_where_right_angles_are_needed_and_exact_elsewhere(stored):
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    volume, _ = stored("--native", gantry_tilt_deg=18.5)
    with pytest.raises(UsageError, match=r"gantry tilt .*18\.50 degrees, stored with --native.*use to_nibabel"):
        volume.to_sitk()
    image = volume.to_nibabel()
    index, points = points_lps(volume)
    found = nib.affines.apply_affine(image.affine, index[:, ::-1])
    np.testing.assert_allclose(found, points * [-1, -1, 1], atol=1e-4)
    assert int(image.header["qform_code"]) == 0


@pytest.mark.parametrize("stack", STACKS)
def test_nibabel_reads_back_from_nifti_what_simpleitk_reads(stored, tmp_path, stack):
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    volume, _ = stored("--native", **STACKS[stack])
    nib.save(volume.to_nibabel(), tmp_path / "v.nii.gz")
    theirs, ours = sitk.ReadImage(str(tmp_path / "v.nii.gz")), volume.to_sitk()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs), sitk.GetArrayFromImage(ours))
    for name in ("Origin", "Spacing", "Direction"):
        np.testing.assert_allclose(getattr(theirs, f"Get{name}")(), getattr(ours, f"Get{name}")(), atol=2e-4)


def test_xarray_has_coordinates_where_the_grid_is_axis_aligned(stored):
    pytest.importorskip("xarray", reason="xarray is not installed")
    volume, _ = stored("--spacing-mm", "5")
    array = volume.to_xarray()
    assert array.dims == ("z", "y", "x")
    assert array.attrs["units"] == "HU"
    at = {"z": float(array.z[2]), "y": float(array.y[3]), "x": float(array.x[4])}
    assert float(array.sel(at)) == volume.to_hu((2, 3, 4))
    np.testing.assert_allclose(
        np.reshape(array.attrs["affine_lps"], (4, 4)) @ [2, 3, 4, 1], [at["x"], at["y"], at["z"], 1]
    )


def test_xarray_has_no_coordinates_where_they_would_lie(stored):
    pytest.importorskip("xarray", reason="xarray is not installed")
    volume, _ = stored("--native", **STACKS["oblique"])
    assert not volume.to_xarray().coords


@pytest.fixture
def labeled(tmp_path: Path) -> Volume:
    """A volume with a label as OME-Zarr has it and a plain array."""
    series = Series(np.random.default_rng(0).uniform(-500, 500, (5, 6, 7)).astype(np.float32))
    path = write_store(tmp_path / "s.zarr", [series])
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[1:3, 2:5, 3:6] = 2
    labels = zarr.open_group(path, path=series.node, mode="r+").create_group("labels")
    image_label = {
        "properties": [{"label-value": 2, "name": "bleed", "code": "SCT 50960005"}],
        "colors": [{"label-value": 2, "rgba": [255, 0, 0, 255]}],
    }
    organ = labels.create_group("organs", attributes={"ome": {"version": "0.5", "image-label": image_label}})
    organ.create_array("0", data=mask)
    labels.create_array("wide", data=mask.astype(np.uint16) * 200)
    labels.create_array("other-grid", data=mask[1:])
    return open_store(path)["P1"].default


def test_a_label_that_does_not_fit_is_refused(labeled):
    assert labeled.label_values("wide").max() == 400
    with pytest.raises(UsageError, match="no label 'liver'; it has organs, other-grid, wide"):
        labeled.to_sitk(labels=["liver"])
    with pytest.raises(StoreError, match=r"other-grid' is uint8 \(4, 6, 7\)"):
        labeled.label_values("other-grid")


def test_labels_come_in_a_dictionary_beside_the_image(labeled):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    found = labeled.to_sitk(labels=("organs", "wide"))
    assert list(found) == ["image", "organs", "wide"]
    assert found["wide"].GetPixelIDTypeAsString() == "16-bit unsigned integer"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found["organs"]), labeled.label_values("organs"))
    assert found["organs"].GetOrigin() == found["image"].GetOrigin()


def test_a_label_is_a_variable_of_a_dataset(labeled):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    found = labeled.to_xarray(labels=["organs"])
    assert isinstance(found, xarray.Dataset)
    assert int(found.organs.sum()) == 2 * 18
    assert "units" not in found.organs.attrs


@pytest.mark.parametrize("labels", ["organs", ("image",)])
def test_labels_that_cannot_be_told_apart_from_the_image_are_refused(labeled, labels):
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    with pytest.raises(UsageError, match="label"):
        labeled.to_sitk(labels=labels)


def test_a_missing_library_is_one_line_that_says_what_to_install():
    with pytest.raises(UsageError, match=r"Volume\.to_x needs no_such_library: pip install 'ct-etl\[labels\]'"):
        optional_library.optional_library("no_such_library", wanted_for="Volume.to_x", install="ct-etl[labels]")
