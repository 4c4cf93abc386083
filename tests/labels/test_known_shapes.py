"""Known structures come back: drawn by other libraries, placed by us, compared with where they really are."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from drawn import apart_mm, contours_of, dice, label_of, truth_on, write_rtstruct, write_seg

LEAST_DICE = 0.97
FARTHEST_MM = 0.1
# Ends that slices cut at an angle are steps of 1.5 mm in the source itself.
FARTHEST_CUT_MM = 0.3
# Two pixels thick: one voxel of 0.8 mm on the edge is a fifth of it.
LEAST_DICE_OF_SHEET = 0.88


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("irregular", "anisotropic")]


@pytest.fixture(params=["straight", "tilted", *SLOW])
def known(request, own_scan):
    return request.param, own_scan(request.param)


def check(name, scan, label, shapes, cut=()):
    volume = scan.volume
    found = label_of(volume, label)
    table = volume.label_table(label)
    for value, shape in enumerate(shapes, start=1):
        truth = truth_on(volume, shape)
        least = LEAST_DICE_OF_SHEET if shape.name == "sheet" else LEAST_DICE
        farthest = FARTHEST_CUT_MM if shape.name in cut else FARTHEST_MM
        agreement = dice(found == value, truth), apart_mm(volume, found == value, truth)
        assert agreement[0] >= least, (name, shape.name, agreement)
        assert agreement[1] <= farthest, (name, shape.name, agreement)
        assert table[value]["name"] in ("", shape.name)
    return found


def test_a_segmentation_comes_back(known, in_process, tmp_path):
    name, scan = known
    shapes = scan.shapes()
    seg = write_seg(tmp_path / "seg.dcm", scan.slices, shapes)
    done = in_process("label", scan.store, seg, "--workers", "0", "-q", "--json", "--name", "drawn")
    assert done.status == 0, done.why
    cut = ("box", "next to it", "sheet", "cylinder") if name == "tilted" else ("cylinder",)
    check(name, scan, "drawn", shapes, cut)
    assert scan.volume.label_table("drawn")[1]["code"] == {
        "scheme": "SCT",
        "value": "10200004",
        "meaning": "Liver",
    }
    # highdicom keeps CIELab in bytes.
    assert np.abs(np.array(scan.volume.label_table("drawn")[1]["color"]) - [200, 100, 50, 255]).max() <= 4


def test_a_structure_set_comes_back(known, in_process, tmp_path):
    name, scan = known
    if name == "tilted":
        pytest.skip("its contours lie in tilted planes; contours here are upright")
    shapes = scan.shapes(edge=0.13)
    rois = [(shape.name, contours_of(shape, scan.z_mm)) for shape in shapes]
    path = write_rtstruct(tmp_path / "rt.dcm", scan.slices, rois)
    done = in_process("label", scan.store, path, "--workers", "0", "-q", "--json")
    assert done.status == 0, done.why
    check(name, scan, "rtstruct", shapes)
    assert scan.volume.label_table("rtstruct")[2]["color"] == [10, 20, 30, 255]


@pytest.mark.parametrize("name", ["straight", "tilted"])
def test_a_mask_on_a_grid_of_its_own_comes_back(name, own_scan, in_process, tmp_path):
    scan = own_scan(name)
    shapes = scan.shapes(edge=0.13)
    if name != "straight":
        shapes = [shape for shape in shapes if shape.name in ("ball", "shell")]
    turn = np.radians(12)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    affine[:3, :3] *= [0.7, 0.6, 0.5]
    count = (140, 160, 115)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(count) - 1) / 2)
    points = np.stack(np.indices(count), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    values = np.zeros(count, np.uint8)
    for value, shape in enumerate(shapes, start=1):
        values[shape.inside(points)] = value
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1]) @ affine), tmp_path / "P.nii.gz")
    done = in_process("label", scan.store, tmp_path / "P.nii.gz", "--workers", "0", "-q", "--json")
    assert done.status == 0, done.why
    check(name, scan, "mask", shapes, ("box", "next to it", "sheet", "cylinder"))
