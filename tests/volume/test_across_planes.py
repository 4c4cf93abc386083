"""Parabolas across planes give balls and ellipsoids back, and do not bulge where sections change at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.volume.across_planes import MOST_BEND, between, beyond


def gaps(*mm):
    return [np.array(one) for one in mm]


@given(st.floats(0.2, 3), st.floats(-30, 30), st.lists(st.floats(0.5, 8), min_size=3, max_size=3), st.floats(0, 1))
def test_an_ellipsoid_comes_back_between_any_planes(aspect, first_mm, gaps_mm, share):
    at_mm = first_mm + np.concatenate([[0], np.cumsum(gaps_mm)])
    values = [np.array(900 - (aspect * z) ** 2) for z in at_mm]
    z = at_mm[1] + share * gaps_mm[1]
    assert between(values, gaps(*gaps_mm), np.array(share)) == pytest.approx(900 - (aspect * z) ** 2, abs=1e-6)


@given(st.floats(50, 1e5), st.floats(0.5, 8), st.floats(0, 1))
def test_two_equal_sections_behind_a_far_smaller_one_do_not_bulge(drop, gap_mm, share):
    found = between([np.array(v) for v in (-drop, 0.0, 0.0, 0.0)], gaps(gap_mm, gap_mm, np.nan), np.array(share))
    assert abs(found) <= MOST_BEND * gap_mm**2 / 4 + 1e-9


def test_nothing_opens_outwards_again_beyond_an_end():
    at = [np.array(v) for v in (5.0, 8.0, 30.0)]
    assert beyond(at, gaps(1.0, 1.0), 1.0) == pytest.approx(2.0)
