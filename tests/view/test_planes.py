"""Where pixels of a slice's picture lie, against the affine alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from etl.view.planes import MAX_PICTURE_PX, Plane, lay_out_plane
from etl.volume.patient_space import Geometry


def geometry(shape=(6, 10, 12), spacing_mm=(2.0, 1.0, 0.5), turn=None, tilt_deg=0.0) -> Geometry:
    """Give a grid whose columns are those of the patient, sheared by a gantry's tilt and turned."""
    dz, dy, dx = spacing_mm
    tilt = np.deg2rad(tilt_deg)
    columns = np.array([[0, 0, dx], [0, dy * np.cos(tilt), 0], [dz, -dy * np.sin(tilt), 0]])
    affine = np.eye(4)
    affine[:3, :3] = columns if turn is None else turn @ columns
    affine[:3, 3] = -40, 25, 7
    return Geometry(shape, spacing_mm, affine, shape, spacing_mm, 0, tilt_deg)


def pixel_of(plane: Plane, index: np.ndarray) -> np.ndarray:
    """Where the center of a voxel (k, j, i) lies in a picture."""
    row, column = np.delete(index, plane.axis) + 0.5
    return np.linalg.solve(plane.to_index[:, :2], [column, row] - plane.to_index[:, 2])


turns = st.tuples(*[st.floats(-40, 40)] * 3).map(lambda a: Rotation.from_euler("xyz", a, degrees=True).as_matrix())


@given(turn=turns, tilt_deg=st.floats(-30, 30), axis=st.integers(0, 2), data=st.data())
def test_lengths_and_so_angles_are_those_in_the_patient_whatever_the_tilt(turn, tilt_deg, axis, data):
    grid = geometry(turn=turn, tilt_deg=tilt_deg)
    plane = lay_out_plane(grid, axis)
    voxel = st.tuples(*(st.integers(0, n - 1) for n in grid.shape))
    one, other = (np.array(data.draw(voxel)) for _ in range(2))
    other[axis] = one[axis]
    true_mm = np.linalg.norm(grid.affine_lps[:3, :3] @ (one - other))
    drawn_mm = np.linalg.norm(pixel_of(plane, one) - pixel_of(plane, other)) * plane.pixel_mm
    assert drawn_mm == pytest.approx(true_mm, abs=1e-6)


@given(turn=turns, tilt_deg=st.floats(-30, 30), axis=st.integers(0, 2))
def test_every_voxel_is_in_the_picture(turn, tilt_deg, axis):
    grid = geometry(turn=turn, tilt_deg=tilt_deg)
    plane = lay_out_plane(grid, axis)
    # The corners of the grid: what lies between them is between them in the picture.
    for index in product(*((0, n - 1) for n in grid.shape)):
        x, y = pixel_of(plane, np.array(index))
        assert 0 <= x <= plane.size_px[0]
        assert 0 <= y <= plane.size_px[1]


@given(turn=turns, tilt_deg=st.floats(-30, 30))
def test_what_is_superior_is_drawn_above_and_what_is_left_on_the_right(turn, tilt_deg):
    grid = geometry(turn=turn, tilt_deg=tilt_deg)
    for axis, right, down in ((0, (1, 0, 0), (0, 1, 0)), (1, (1, 0, 0), (0, 0, -1)), (2, (0, 1, 0), (0, 0, -1))):
        plane = lay_out_plane(grid, axis)
        to_mm = np.delete(grid.affine_lps[:3, :3], axis, axis=1)[:, ::-1]  # of (column, row) of the plane
        steps = to_mm @ plane.to_index[:, :2]  # LPS mm of a pixel to the right, and of one down
        assert np.array(right) @ steps[:, 0] > 0
        assert np.array(down) @ steps[:, 1] > 0
        # Straight down is as steep as the plane lets it be: nothing in the plane across it goes up or down.
        assert np.array(down) @ steps[:, 0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("axis", "letters"), [(0, "RLAP"), (1, "RLSI"), (2, "APSI")])
def test_the_edges_have_the_letters_of_the_patient(axis, letters):
    assert "".join(lay_out_plane(geometry(), axis).letters) == letters


def test_an_upright_grid_of_cubes_is_drawn_pixel_by_pixel():
    plane = lay_out_plane(geometry(shape=(5, 6, 7), spacing_mm=(1.0, 1.0, 1.0)), 2)
    assert plane.size_px == (6, 5)
    assert pixel_of(plane, np.array([4, 0, 3])) == pytest.approx([0.5, 0.5])  # the highest, foremost voxel


def test_a_large_picture_has_an_end():
    plane = lay_out_plane(geometry(shape=(2, 4000, 4000), spacing_mm=(1.0, 0.1, 0.1)), 0)
    assert max(plane.size_px) == MAX_PICTURE_PX
