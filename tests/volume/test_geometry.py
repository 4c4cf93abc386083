"""Where slices are: built from PS3.3 C.7.6.2.1.1, shuffled, and asked for again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pairwise import each_once

from etl.errors import SeriesError
from etl.volume.gaps import find_missing
from etl.volume.geometry import Layout, lay_out, slice_axes

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NAN, INF = float("nan"), float("inf")
angles = st.floats(-np.pi, np.pi)


def rotation(alpha: float, beta: float, gamma: float) -> NDArray[np.float64]:
    """Turn about z, then x, then z again: every orientation of three axes."""

    def about_z(angle: float) -> NDArray[np.float64]:
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    c, s = np.cos(beta), np.sin(beta)
    return about_z(gamma) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ about_z(alpha)


def stack_layout(
    along_normal_mm: NDArray[np.float64],
    *,
    turn: NDArray[np.float64] | None = None,
    in_plane_mm: NDArray[np.float64] | float = 0.0,
    order: list[int] | None = None,
    thickness_mm: float = NAN,
) -> Layout:
    """Lay out slices at given places along the normal, shifted along the rows' direction."""
    turn = np.eye(3) if turn is None else turn
    to_columns, to_rows = turn[:, 0], turn[:, 1]
    normal = np.cross(to_columns, to_rows)
    position = np.array([30.0, -120.0, 55.0]) + np.outer(along_normal_mm, normal)
    position += np.outer(np.broadcast_to(in_plane_mm, len(along_normal_mm)), to_rows)
    order = list(range(len(along_normal_mm))) if order is None else order
    return lay_out(
        position[order],
        orientation=(*to_columns.tolist(), *to_rows.tolist()),
        pixel_spacing_mm=(0.5, 0.6),
        rows=12,
        columns=10,
        thickness_mm=np.full(len(order), thickness_mm),
    )


def refused(code: str, **changes: object) -> str:
    arguments: dict[str, object] = {
        "position_lps_mm": np.array([[0, 0, 0], [0, 0, 5], [0, 0, 10.0]]), "orientation": AXIAL,
        "pixel_spacing_mm": (0.5, 0.5), "rows": 4, "columns": 4, "thickness_mm": np.full(3, 5.0),
    }  # fmt: skip
    with pytest.raises(SeriesError) as raised:
        lay_out(**{**arguments, **changes})  # type: ignore[arg-type]
    assert raised.value.code == code
    return str(raised.value)


@given(
    angles,
    st.floats(0, np.pi),
    angles,
    st.permutations(range(7)),
    st.lists(st.floats(0.5, 9), min_size=6, max_size=6),
)
def test_slices_are_ordered_along_their_normal_whatever_the_order_of_files(
    alpha: float, beta: float, gamma: float, order: list[int], gaps: list[float]
) -> None:
    along = np.concatenate([[0.0], np.cumsum(gaps)])
    layout = stack_layout(along, turn=rotation(alpha, beta, gamma), order=order)
    assert [order[i] for i in layout.order] == list(range(7))
    np.testing.assert_allclose(layout.gaps_mm, gaps, atol=1e-9)


@given(angles, st.floats(0, np.pi), angles)
def test_the_axes_are_normal_row_to_row_and_column_to_column(alpha: float, beta: float, gamma: float) -> None:
    turn = rotation(alpha, beta, gamma)
    axes = slice_axes((*turn[:, 0].tolist(), *turn[:, 1].tolist()))
    np.testing.assert_allclose(axes, np.stack([turn[:, 2], turn[:, 1], turn[:, 0]]), atol=1e-12)


def test_printed_cosines_are_made_orthonormal() -> None:
    axes = slice_axes((0.99986, -0.0141, 0.0091, 0.01333, 0.9965, 0.0824))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes[2], (0.99986, -0.0141, 0.0091), atol=1e-4)
    np.testing.assert_allclose(axes[1], (0.01333, 0.9965, 0.0824), atol=1e-3)


def test_gaps_come_from_positions_whatever_the_thickness_says() -> None:
    along = np.arange(9) * 1.25
    for thickness in (0.6, 2.5, 10.0, NAN):
        layout = stack_layout(along, thickness_mm=thickness)
        np.testing.assert_allclose(layout.gaps_mm, 1.25, atol=1e-9)
        assert layout.is_regular
        assert not layout.missing.any()


def test_the_first_pixel_of_every_slice_is_kept_in_the_stacks_frame() -> None:
    turn, along, shift = rotation(0.3, 1.1, -2.0), np.array([0.0, 2.0, 3.5]), np.array([0.0, 0.7, -0.2])
    layout = stack_layout(along, turn=turn, in_plane_mm=shift, order=[2, 0, 1])
    expected = np.array([30.0, -120.0, 55.0]) + np.outer(along, turn[:, 2]) + np.outer(shift, turn[:, 1])
    np.testing.assert_allclose(layout.offset_mm @ layout.axes, expected, atol=1e-9)
    assert (layout.row_spacing_mm, layout.column_spacing_mm) == (0.5, 0.6)
    assert (layout.rows, layout.columns) == (12, 10)


def test_the_given_positions_stay_as_they_were() -> None:
    position = np.array([[0, 0, 10.0], [0, 0, 0.0], [0, 0, 5.0]])
    before = position.copy()
    lay_out(
        position, orientation=AXIAL, pixel_spacing_mm=(1.0, 1.0), rows=2, columns=2, thickness_mm=np.full(3, 5.0)
    )
    np.testing.assert_array_equal(position, before)


@pytest.mark.parametrize(
    ("tilt_deg", "order"),
    each_once([25.0, -25.0, 12.5, -0.5, 0.0], [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]]),
)
def test_the_tilt_comes_from_positions_with_its_sign(tilt_deg: float, order: list[int]) -> None:
    """Head first supine, the table moves slices along z while the planes lean.

    For a positive tilt the lower end of the columns, posterior, lies closer to the head, so the top leans to the
    feet: towards where the table enters. Gantry/Detector Tilt (0018,1120) counts the other way, top away from
    where the table enters the gantry, as negative.
    """
    tilt = np.radians(tilt_deg)
    position = np.array([-120.0, -140.0, 20.0]) + np.outer(np.arange(6) * 4.8, [0.0, 0.0, 1.0])
    layout = lay_out(
        position[order],
        orientation=(1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt))),
        pixel_spacing_mm=(0.5, 0.5),
        rows=8,
        columns=8,
        thickness_mm=np.full(6, 4.8),
    )
    assert layout.gantry_tilt_deg == pytest.approx(tilt_deg, abs=1e-3)
    # The slices' distance is along their normal, shorter than the table's step.
    np.testing.assert_allclose(layout.gaps_mm, 4.8 * np.cos(tilt), atol=1e-9)


@given(angles, st.floats(0, np.pi), angles, st.floats(-25, 25))
def test_the_size_of_the_tilt_does_not_depend_on_the_orientation(
    alpha: float, beta: float, gamma: float, tilt_deg: float
) -> None:
    along = np.array([0.0, 4.0, 8.0, 9.1, 16.0, 23.0])
    shift = along * np.tan(np.radians(tilt_deg))
    layout = stack_layout(along, turn=rotation(alpha, beta, gamma), in_plane_mm=shift)
    expected = tilt_deg if abs(tilt_deg) >= 0.1 else 0.0
    if abs(abs(tilt_deg) - 0.1) > 1e-6:
        assert layout.gantry_tilt_deg == pytest.approx(expected, abs=1e-3)


def test_a_patient_turned_on_the_table_is_no_tilt() -> None:
    turn = rotation(0.4, 0.5, 0.3)
    assert stack_layout(np.arange(8) * 2.0, turn=turn).gantry_tilt_deg == 0.0


def test_positions_printed_with_two_decimals_are_upright_and_regular() -> None:
    position = np.round(np.array([-125.126, -130.877, 12.3456]) + np.outer(np.arange(60) * 0.625, [0, 0, 1]), 2)
    layout = lay_out(
        position,
        orientation=AXIAL,
        pixel_spacing_mm=(0.5, 0.5),
        rows=8,
        columns=8,
        thickness_mm=np.full(60, 0.625),
    )
    assert layout.gantry_tilt_deg == 0.0
    assert layout.is_regular


@pytest.mark.parametrize(
    ("gaps", "regular"),
    [
        ([5.0] * 6, True),
        ([0.7, 0.71, 0.69, 0.7], True),
        ([0.25, 0.26, 0.24, 0.25], True),
        ([5.0, 5.05, 4.95, 5.0], True),
        ([5.0, 5.0, 5.5, 5.0], False),
        ([4.0, 4.0, 1.08, 7.0, 7.0], False),
        ([5.0, 5.0, 10.0, 5.0], False),
        ([3.0], True),
    ],
)
def test_a_stack_is_regular_as_far_as_printed_positions_tell(gaps: list[float], regular: bool) -> None:
    layout = stack_layout(np.concatenate([[0.0], np.cumsum(gaps)]))
    assert layout.is_regular == regular


@pytest.mark.parametrize(
    ("gaps", "thickness", "missing"),
    [
        # After 5 and 5, a gap of 10 is a slice that is not there.
        ([5, 5, 10], 5, [2]),
        ([10, 5, 5], 5, [0]),
        ([5, 5, 10, 5, 5], 5, [2]),
        ([5, 5, 10, 5, 5], NAN, [2]),
        ([5, 5, 15, 5, 5], 5, [2]),
        ([5, 10, 5, 10, 5], 5, [1, 3]),
        ([5, 5, 10, 10, 5, 5], 5, [2, 3]),
        ([5, 5, 5, 5], 5, []),
        ([5], 5, []),
        ([], 5, []),
        # 1.5 times is allowed, more is not.
        ([5, 5, 7.5, 5], 5, []),
        ([5, 5, 7.6, 5], 5, [2]),
        # Slices thicker than their distance: one that is lost leaves no gap between slices.
        ([2.5, 2.5, 5, 2.5], 5, []),
        ([2.5, 2.5, 8, 2.5], 5, [2]),
        # Two thicknesses are a protocol, with or without a joint.
        ([5, 5, 5, 10, 10, 10], 5, []),
        ([10, 10, 10, 5, 5, 5], 5, []),
        ([4, 4, 4, 7, 7, 7], 4, []),
        # No protocol leaves most of the patient out for a while.
        ([5, 5, 5, 50, 50], 5, [3, 4]),
        ([5, 5, 5, 20, 20, 20, 5, 5], 5, [3, 4, 5]),
        ([10, 10, 10, 10], 1.25, []),
        # One short gap, where the table stopped early, is not the stack's usual one.
        ([10, 10, 10, 6, 10, 20, 20, 20], 1.25, []),
    ],
)
def test_a_missing_slice_is_a_gap_wider_than_its_neighbors_and_the_thickness(
    gaps: list[float], thickness: float, missing: list[int]
) -> None:
    found = find_missing(np.array(gaps, float), np.full(len(gaps) + 1, float(thickness)))
    assert np.flatnonzero(found).tolist() == missing


@given(st.floats(0.5, 7.0), st.booleans(), st.booleans())
def test_a_head_in_two_thicknesses_with_an_overlapping_joint_misses_nothing(
    joint: float, known: bool, backwards: bool
) -> None:
    gaps = np.array([4.0] * 8 + [joint] + [7.0] * 12)
    thickness = np.array([4.0] * 9 + [7.0] * 13) if known else np.full(22, NAN)
    if backwards:
        gaps, thickness = gaps[::-1], thickness[::-1]
    assert not find_missing(gaps, thickness).any()


@given(st.integers(5, 30), st.floats(0.5, 10), st.data())
def test_any_slice_lost_from_a_regular_stack_is_noticed(n: int, gap: float, data: st.DataObject) -> None:
    lost = data.draw(st.integers(1, n - 2))
    along = np.delete(np.arange(n) * gap, lost)
    layout = stack_layout(along, thickness_mm=gap)
    assert np.flatnonzero(layout.missing).tolist() == [lost - 1]


@given(st.integers(4, 30), st.floats(0.5, 10), st.booleans())
def test_a_stack_that_ends_earlier_misses_nothing(n: int, gap: float, first: bool) -> None:
    along = np.delete(np.arange(n) * gap, 0 if first else n - 1)
    assert not stack_layout(along, thickness_mm=gap).missing.any()


@given(st.permutations(range(6)))
def test_thickness_goes_with_its_slice(order: list[int]) -> None:
    # Thick slices, then thin ones: the wide gap between thick ones is covered only by their own thickness.
    along, thickness = np.array([0.0, 2, 4, 8, 10, 12]), np.array([2.0, 2, 4, 4, 2, 2])
    layout = lay_out(
        np.outer(along, [0.0, 0.0, 1.0])[order],
        orientation=AXIAL,
        pixel_spacing_mm=(1.0, 1.0),
        rows=2,
        columns=2,
        thickness_mm=thickness[order],
    )
    assert not layout.missing.any()


@pytest.mark.parametrize("apart", [0.0, 0.001, -0.005])
def test_two_slices_at_one_place_are_refused(apart: float) -> None:
    position = np.array([[0, 0, 0], [0, 0, 5], [0, 0, 5 + apart], [0, 0, 10.0]])
    assert "1 of 4 slices" in refused(
        "duplicate-positions", position_lps_mm=position, thickness_mm=np.full(4, 5.0)
    )


def test_slices_side_by_side_are_at_one_place_along_the_normal() -> None:
    refused("duplicate-positions", position_lps_mm=np.array([[0, 0, 0], [50, 0, 0], [0, 0, 5.0]]))


def test_slices_a_twentieth_of_a_millimeter_apart_are_two() -> None:
    assert stack_layout(np.array([0.0, 0.05, 0.1])).gaps_mm == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize(
    "orientation",
    [
        (),
        (*AXIAL, 0.0),
        (NAN, 0.0, 0.0, 0.0, 1.0, 0.0),
        (2.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        (0.5, 0.0, 0.0, 0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.1, 0.995, 0.0),
    ],
)
def test_an_orientation_that_is_none_is_refused_by_tag(orientation: tuple[float, ...]) -> None:
    assert "Image Orientation (0020,0037)" in refused("missing-geometry", orientation=orientation)


@pytest.mark.parametrize("spacing", [(0.5,), (0.5, 0.5, 0.5), (0.0, 0.5), (0.5, -0.5), (NAN, 0.5), (0.5, INF)])
def test_a_pixel_spacing_that_is_none_is_refused_by_tag(spacing: tuple[float, ...]) -> None:
    assert "Pixel Spacing (0028,0030)" in refused("missing-geometry", pixel_spacing_mm=spacing)


@pytest.mark.parametrize("value", [NAN, -INF])
def test_a_slice_without_a_position_is_refused_with_the_count(value: float) -> None:
    position = np.array([[0, 0, 0], [0, value, 5], [0, 0, 10.0]])
    message = refused("missing-geometry", position_lps_mm=position)
    assert "Image Position (0020,0032)" in message
    assert "1 of 3" in message
