"""What readers of OME-Zarr and Zarr make of a store."""

from __future__ import annotations

import shutil

import pytest
from boxes import needs, two_boxes

import etl

pytestmark = [
    pytest.mark.ecosystem,
    # Theirs, about each other and about Python: not what is tested here.
    pytest.mark.filterwarnings("ignore"),
]


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
