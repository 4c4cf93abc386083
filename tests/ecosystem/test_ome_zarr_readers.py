"""What readers of OME-Zarr and Zarr make of a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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


@pytest.fixture
def labeled(volume: Volume, tmp_path: Path, in_process: Callable[..., Any]) -> Volume:
    """The volume, in place of its handmade label with one that the command wrote: `back`."""
    path = tmp_path / "seg" / "p.dcm"
    etl.write_prediction(tmp_path / "s.zarr", volume.node, two_boxes(volume.shape), path, dicom=tmp_path / "dicom")
    shutil.rmtree(tmp_path / "s.zarr" / volume.node / "labels")
    done = in_process("label", tmp_path / "s.zarr", path.parent, "--name", "back", "--workers", "0", "-q")
    assert done.status == 0, done.why
    return etl.open_store(tmp_path / "s.zarr")[volume.patient_id].default


def is_axis_aligned(volume: Volume) -> bool:
    """Whether index and patient have the same axes, by the affine alone."""
    return bool(np.count_nonzero(np.abs(volume.affine_lps[:3, :3]) > 1e-6) == 3)


def test_ome_zarr_models_accepts_a_volume_with_a_label_that_the_command_wrote(labeled, tmp_path):
    v05 = needs("ome_zarr_models.v05")
    zarr = needs("zarr")
    image = v05.Image.from_zarr(zarr.open_group(tmp_path / "s.zarr", path=labeled.node, mode="r"))
    assert [axis.name for axis in image.ome_attributes.multiscales[0].axes] == ["z", "y", "x"]
    label = zarr.open_group(tmp_path / "s.zarr", path=f"{labeled.node}/labels/back", mode="r")
    v05.ImageLabel.from_zarr(label)


def test_ngff_zarr_reads_voxels_spacing_and_place_of_a_volume_and_its_label(labeled, tmp_path):
    ngff_zarr = needs("ngff_zarr")
    node = tmp_path / "s.zarr" / labeled.node
    [image] = ngff_zarr.from_ngff_zarr(node).images
    [label] = ngff_zarr.from_ngff_zarr(node / "labels" / "back").images
    np.testing.assert_array_equal(np.asarray(image.data), labeled[...])
    np.testing.assert_array_equal(np.asarray(label.data), labeled.label_values("back"))
    assert np.asarray(label.data).any()
    spacing_mm = np.linalg.norm(labeled.affine_lps[:3, :3], axis=0)
    # OME-Zarr 0.5 has no rotation: only a grid along the patient's axes has a place.
    first_mm = labeled.affine_lps[:3, 3][::-1] if is_axis_aligned(labeled) else np.zeros(3)
    for found in (image, label):
        assert tuple(found.dims) == ("z", "y", "x")
        assert set(found.axes_units.values()) == {"millimeter"}
        np.testing.assert_allclose([found.scale[axis] for axis in "zyx"], spacing_mm, atol=1e-9)
        np.testing.assert_allclose([found.translation[axis] for axis in "zyx"], first_mm, atol=1e-9)


def test_napari_shows_a_volume_and_its_label_on_each_other(labeled, tmp_path):
    """By npe2, as napari itself calls its readers, up to the layers: no window is opened."""
    needs("napari_ome_zarr")
    npe2, layers = needs("npe2"), needs("napari.layers")
    npe2.PluginManager.instance().discover()
    given = npe2.io_utils.read(
        [str(tmp_path / "s.zarr" / labeled.node)], stack=False, plugin_name="napari-ome-zarr"
    )
    image, label = (layers.Layer.create(*one) for one in given)
    assert isinstance(image, layers.Image)
    assert isinstance(label, layers.Labels)
    np.testing.assert_array_equal(np.asarray(image.data), labeled[...])
    np.testing.assert_array_equal(np.asarray(label.data), labeled.label_values("back"))
    spacing_mm = np.linalg.norm(labeled.affine_lps[:3, :3], axis=0)
    for layer in (image, label):
        assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
        np.testing.assert_allclose(layer.data_to_world((2, 3, 4)), spacing_mm * (2, 3, 4), atol=1e-9)
        # napari-ome-zarr takes the first transformation only: the scale. docs/tools.md says so.
        np.testing.assert_array_equal(layer.translate, 0)
    about = labeled.attributes["normalization"]
    low, high = about["window_hu"]
    shown_hu = (np.array(image.contrast_limits) + about["center"]) * (high - low) + low
    np.testing.assert_allclose(shown_hu, (-160, 240), atol=1e-6)  # soft tissue
    assert label.name.endswith("/back")
    table = labeled.label_table("back")
    assert label.features["name"].tolist() == [one["name"] for one in table.values()]
    assert not np.array_equal(label.get_color(1), label.get_color(2))


def test_xarray_opens_a_volume_as_a_tree(volume, tmp_path):
    xarray = needs("xarray")
    tree = xarray.open_datatree(tmp_path / "s.zarr", engine="zarr", group=volume.node, consolidated=False)
    assert tree["volume"].shape == volume.shape
