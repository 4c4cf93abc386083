"""Known structures come back: drawn by other libraries, placed by us, compared with where they really are."""

from __future__ import annotations

from types import MappingProxyType

import nibabel
import numpy as np
import pytest
from drawn import (
    Plane,
    Shape,
    apart_mm,
    ball,
    contours_of,
    cylinder,
    dice,
    image_planes,
    label_of,
    slices_of,
    structures,
    truth_on,
    upright,
    write_rtstruct,
    write_seg,
)

import etl
from etl.phantom.files import Acquisition, HeadPhantom, write_series

LEAST_DICE = 0.97
FARTHEST_MM = 0.1
# Two pixels thick: one voxel of 0.8 mm on the edge is a fifth of it.
LEAST_DICE_OF_SHEET = 0.88
FLAT = ("box", "next to it", "sheet")
QUIET = ("--workers", "0", "-q", "--json")


SLOW = ("straight", "anisotropic", "tilted the other way", "native")
SCANS = ["tilted", "irregular", *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]]


@pytest.fixture(params=SCANS)
def known(request, own_scan):
    return request.param, own_scan(request.param)


def check(name, volume, label, shapes, farther_mm=MappingProxyType({})):
    found = label_of(volume, label)
    table = volume.label_table(label)
    for value, shape in enumerate(shapes, start=1):
        truth = truth_on(volume, shape)
        least = LEAST_DICE_OF_SHEET if shape.name == "sheet" else LEAST_DICE
        agreement = dice(found == value, truth), apart_mm(volume, found == value, truth)
        assert agreement[0] >= least, (name, shape.name, agreement)
        assert agreement[1] <= farther_mm.get(shape.name, FARTHEST_MM), (name, shape.name, agreement)
        assert table[value]["name"] in ("", shape.name)


def test_a_segmentation_comes_back(known, in_process, tmp_path):
    name, scan = known
    is_tilted = "tilted" in name
    # A side on a voxel's center would be one of chance.
    shapes = scan.shapes(edge=(0.0, 0.25 if is_tilted else 0.0))
    seg = write_seg(tmp_path / "seg.dcm", scan.slices, shapes)
    done = in_process("label", scan.store, seg, *QUIET, "--name", "drawn")
    assert done.status == 0, done.why
    check(name, scan.volume, "drawn", shapes, dict.fromkeys(FLAT, scan.edge_mm) if is_tilted else {})
    assert scan.volume.label_table("drawn")[1]["code"] == {
        "scheme": "SCT",
        "value": "10200004",
        "meaning": "Liver",
    }
    # highdicom keeps CIELab in bytes.
    assert np.abs(np.array(scan.volume.label_table("drawn")[1]["color"]) - [200, 100, 50, 255]).max() <= 4


def test_a_structure_set_comes_back(known, in_process, tmp_path):
    name, scan = known
    shapes = scan.shapes(edge=(0.13, 0.13))
    rois = [(shape.name, contours_of(shape, image_planes(scan.slices))) for shape in shapes]
    done = in_process("label", scan.store, write_rtstruct(tmp_path / "rt.dcm", scan.slices, rois), *QUIET)
    assert done.status == 0, done.why
    check(name, scan.volume, "rtstruct", shapes)
    assert scan.volume.label_table("rtstruct")[2]["color"] == [10, 20, 30, 255]


@pytest.mark.parametrize("between", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_upright_contours_on_a_tilted_scan_come_back(between, own_scan, in_process, tmp_path):
    scan = own_scan("tilted")
    # Ends of upright boxes lie half way between their planes, not between slices.
    z_mm = np.arange(-33, 34, 2.0) + (0.37 if between else 0.0)
    ends = tuple(float(z_mm[n] + 1) for n in (7, 25))
    shapes = structures(ends, edge=(0.13, 0.13))
    rois = [(shape.name, contours_of(shape, upright(z_mm))) for shape in shapes]
    done = in_process("label", scan.store, write_rtstruct(tmp_path / "rt.dcm", scan.slices, rois), *QUIET)
    assert done.status == 0, done.why
    check("tilted", scan.volume, "rtstruct", shapes)


def test_a_mask_on_a_grid_of_its_own_comes_back(known, in_process, tmp_path):
    name, scan = known
    turn, step = np.radians(12), (0.7, 0.6, 0.5)
    count = (136, 158, 120)
    along = np.array([np.cos(turn), np.sin(turn), 0])
    down = np.array([-np.sin(turn), np.cos(turn), 0])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along, down, [0, 0, 1]], axis=1) * step
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(count) - 1) / 2)
    # An even number of voxels along each axis: borders lie on multiples of a step.
    shapes = structures((-17.5, 17.5), (0.0, 0.0), Plane(np.zeros(3), along, down), step[:2])
    points = np.stack(np.indices(count), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    values = np.zeros(count, np.uint8)
    for value, shape in enumerate(shapes, start=1):
        values[shape.inside(points)] = value
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1]) @ affine), tmp_path / "P.nii.gz")
    done = in_process("label", scan.store, tmp_path / "P.nii.gz", *QUIET)
    assert done.status == 0, done.why
    check(name, scan.volume, "mask", shapes)


def test_parts_of_one_segment_end_each_by_itself(own_scan, in_process, tmp_path):
    scan = own_scan("irregular")
    low, high = ball("low", (-20, 3, -9), 20), ball("high", (22, -4, 8), 20)
    both = Shape("both", lambda points: low.inside(points) | high.inside(points),
                 lambda plane: low.outlines(plane) + high.outlines(plane))  # fmt: skip
    seg = write_seg(tmp_path / "seg.dcm", scan.slices, [both])
    rois = [("both", contours_of(both, image_planes(scan.slices)))]
    done = in_process("label", scan.store, seg, write_rtstruct(tmp_path / "rt.dcm", scan.slices, rois), *QUIET)
    assert done.status == 0, done.why
    for label in ("seg", "rtstruct"):
        check("irregular", scan.volume, label, [both])


def test_an_end_within_a_slice_comes_back_to_half_a_slice(own_scan, in_process, tmp_path):
    scan = own_scan("straight")
    shape = cylinder("cylinder", (0, 0), 20, (-17.9, 14.6))
    in_process("label", scan.store, write_seg(tmp_path / "seg.dcm", scan.slices, [shape]), *QUIET)
    volume = scan.volume
    z_mm = volume.affine_lps[2, 3] + np.flatnonzero((label_of(volume, "seg") == 1).any(axis=(1, 2)))
    # Two slices 2.5 mm apart say that it ends between them: nobody can know nearer than half of that. A voxel of
    # 1 mm has its center up to half a millimeter inside its end.
    for end, found in ((-17.9, z_mm[0] - 0.5), (14.6, z_mm[-1] + 0.5)):
        assert abs(end - found) <= 2.5 / 2 + 0.5


AXES = {
    "head first supine": (1, 0, 0, 0, 1, 0),
    "feet first prone": (1, 0, 0, 0, -1, 0),
    "decubitus": (0, 1, 0, -1, 0, 0),
    "oblique": (0.9, 0.3, np.sqrt(0.1), -0.316227766, 0.948683298, 0),
}
SEEDS = [0, 1, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 15)]]


@pytest.mark.parametrize("seed", SEEDS)
def test_balls_and_shells_anywhere_on_any_scan_come_back(seed, in_process, tmp_path):
    rng = np.random.default_rng(seed)
    pixel_mm = float(rng.uniform(0.5, 0.9))
    native = bool(rng.integers(2))
    gaps_mm = np.full(27, 3.0) if native else rng.permutation([2.0] * 13 + [5.0] * 11)
    acquisition = Acquisition.regular(
        gaps_mm=gaps_mm,
        gantry_tilt_deg=float(rng.uniform(-22, 22)) * rng.integers(2),
        orientation=AXES[rng.choice(list(AXES))],
        rows=round(90 / pixel_mm),
        columns=round(84 / pixel_mm),
        pixel_spacing_mm=(pixel_mm, pixel_mm),
        center_lps_mm=rng.uniform(-60, 60, 3),
    )
    write_series(tmp_path / "dicom", HeadPhantom(), acquisition, patient_id="P")
    grid = ("--native",) if native else ("--spacing-mm", "1")
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *grid, "--workers", "0", "-q")
    assert done.status == 0, done.why
    slices = slices_of(tmp_path / "dicom")
    planes = image_planes(slices)
    one, beside_mm = planes[len(planes) // 2], rng.uniform(-6, 6, 3)
    middle = one.origin + (44 + beside_mm[0]) * one.down + (41 + beside_mm[1]) * one.along
    middle += beside_mm[2] * one.normal
    # A pixel knows an edge to a quarter of itself on the average; times the surface that is a share of the volume:
    # Dice 1 - 3/8 pixel / r for a ball, 1 - 3/8 pixel (r^2 + h^2) / (r^3 - h^3) for a shell. 0.97 leaves balls of
    # 12.5 pixels, and of shells of 20 mm on pixels of 0.9 mm those with a hole of 12 mm at most.
    radius = float(rng.uniform(20, 26))
    hole = float(rng.uniform(8, radius - 8)) * rng.integers(2)
    shape = ball("ball", middle, radius, hole)
    sources = {
        "seg": write_seg(tmp_path / "seg.dcm", slices, [shape]),
        "rtstruct": write_rtstruct(tmp_path / "rt.dcm", slices, [("ball", contours_of(shape, planes))]),
    }
    done = in_process("label", tmp_path / "s.zarr", *sources.values(), *QUIET)
    assert done.status == 0, done.why
    for label in sources:
        volume = etl.open_store(tmp_path / "s.zarr")["P"].default
        check(f"{acquisition.orientation} {acquisition.gantry_tilt_deg}", volume, label, [shape])
