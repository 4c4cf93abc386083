"""The coarse map of the body, and what geometry and normalization write and read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.volume.body import body_shares
from etl.volume.normalize import Normalization
from etl.volume.patient_space import Geometry


@given(shape=st.tuples(*[st.integers(1, 11)] * 3), cell=st.integers(1, 5), seed=st.integers(0, 9))
def test_shares_are_those_counted_cell_by_cell(shape, cell, seed):
    volume = np.random.default_rng(seed).normal(size=shape)
    found = body_shares(volume, above=0.5, cell=cell)
    assert found.shape == tuple(-(-n // cell) for n in shape)
    for k, j, i in np.ndindex(found.shape):
        inside = volume[k * cell : (k + 1) * cell, j * cell : (j + 1) * cell, i * cell : (i + 1) * cell] > 0.5
        assert found[k, j, i] == np.ceil(255 * inside.sum() / inside.size)
        assert bool(found[k, j, i]) == inside.any()


def geometry(affine: np.ndarray) -> Geometry:
    return Geometry((40, 30, 20), (3.0, 0.6, 0.5), affine, (9, 512, 512), (5.0, 0.5, 0.5), 1, -18.5)


def test_geometry_reads_back_what_it_writes():
    one = geometry(np.arange(16, dtype=np.float64).reshape(4, 4))
    other = Geometry.from_attributes(json.loads(json.dumps(one.to_attributes())))
    np.testing.assert_array_equal(other.affine_lps, one.affine_lps)
    assert other.to_attributes() == one.to_attributes()
    with pytest.raises(KeyError):
        Geometry.from_attributes({})


@pytest.mark.parametrize("bits", [13, "full"])
def test_normalization_reads_back_what_it_writes(bits):
    one = Normalization((-160, 240), 0.1, bits)
    assert Normalization.from_attributes(json.loads(json.dumps(one.to_attributes()))) == one
    assert one.step == (None if bits == "full" else 2.0**-13)


@given(turn=st.floats(-0.05, 0.05), axis=st.integers(0, 2))
def test_a_grid_is_axis_aligned_while_no_voxel_is_half_a_voxel_off(turn, axis):
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.eye(3)
    a, b = (n for n in range(3) if n != axis)
    rotation[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.eye(3)[:, ::-1] * (3.0, 0.6, 0.5)
    one = geometry(affine)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(one.shape) - 1)
    plain = corners * one.spacing_mm
    off = (corners @ affine[:3, :3].T)[:, ::-1] - plain
    worst = (np.abs(off) / one.spacing_mm).max()
    # What axes deviate by is added up, so a corner may be off by a little less than is counted.
    assert one.is_axis_aligned or worst >= 0.25
    assert worst < 0.5 or not one.is_axis_aligned
    if one.is_axis_aligned:
        z, y, x = one.coordinates_mm()
        np.testing.assert_allclose(np.stack([z[corners[:, 0]], y[corners[:, 1]], x[corners[:, 2]]], 1), plain)
