"""What the headers of a stack must hold before its pixels are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from etl.errors import SeriesError
from etl.header import Header
from etl.plan.checks import check_complete, check_gaps, check_rescale, layout_warnings, stack_digest
from etl.stack import Location, PixelFormat, Slices, Stack, StackKey
from etl.volume.geometry import Layout, lay_out

NAN = float("nan")
FORMAT = PixelFormat("1.2.840.10008.1.2.1", 8, 6, 1, 16, 16, 15, 1, "MONOCHROME2", 1)


def stack_of(count: int = 5, *, key: Mapping[str, Any] | None = None, **columns: Any) -> Stack:
    """Make a sound axial stack of 5 mm; `columns` replace what `Slices` holds."""
    slices = Slices(
        locations=tuple(Location("in", f"I{k}") for k in range(count)),
        frame=np.zeros(count, np.int32),
        format=np.zeros(count, np.int16),
        pixel_offset=np.full(count, 1000),
        pixel_length=np.full(count, 96),
        file_bytes=np.full(count, 1096),
        modified_ns=np.zeros(count, np.int64),
        changed_ns=np.zeros(count, np.int64),
        inode=np.zeros(count, np.uint64),
        crc32=np.full(count, -1),
        sop_instance_uid=np.array([f"1.2.{k}".encode() for k in range(count)], "S64"),
        instance_number=np.arange(1, count + 1, dtype=np.int32),
        position_lps_mm=np.array([[0.0, 0, 5 * k] for k in range(count)]),
        slope=np.ones(count),
        intercept=np.full(count, -1024.0),
        padding=np.full((count, 2), NAN),
        thickness_mm=np.full(count, 5.0),
        plane=np.zeros(count, np.int32),
        header=np.zeros(count, np.int32),
        marks=np.empty((count, 0), np.int32),
    )
    described: dict[str, Any] = {
        "patient_id": "P",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "series_number": 2,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "modality": "CT",
        "rows": 8,
        "columns": 6,
        "samples_per_pixel": 1,
        "orientation": (1.0, 0, 0, 0, 1, 0),
        "pixel_spacing_mm": (0.5, 0.5),
        "rescale_type": "HU",
        "is_localizer": False,
        "has_pixels": True,
        "patient_id_from_path": False,
    }
    return Stack(
        key=StackKey(**{**described, **(key or {})}), slices=replace(slices, **columns), formats=(FORMAT,)
    )


def layout_of(stack: Stack) -> Layout:
    return lay_out(
        stack.slices.position_lps_mm,
        orientation=stack.key.orientation,
        pixel_spacing_mm=stack.key.pixel_spacing_mm,
        rows=stack.key.rows,
        columns=stack.key.columns,
        thickness_mm=stack.slices.thickness_mm,
    )


def at_z(*z: float) -> np.ndarray:
    return np.array([[0.0, 0.0, value] for value in z])


def test_a_sound_stack_passes_every_check_without_a_word() -> None:
    stack = stack_of()
    check_rescale(stack)
    check_complete(stack)
    check_gaps(layout_of(stack), 2.5)
    assert layout_warnings(stack, layout_of(stack)) == ()


# --- rescale --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["slope", "intercept"])
def test_a_rescale_that_one_slice_lacks_is_refused_with_the_count(column: str) -> None:
    columns: dict[str, Any] = {column: np.array([1.0, 1.0, NAN, 1.0, 1.0])}
    with pytest.raises(SeriesError, match=r"\(0028,1053\).*\(0028,1052\).* 1 of 5 slices") as raised:
        check_rescale(stack_of(**columns))
    assert raised.value.code == "missing-rescale"


def test_slices_that_lack_either_are_counted_once() -> None:
    slope, intercept = np.array([NAN, 1, 1, 1, NAN]), np.array([NAN, 0, NAN, 0, 0])
    with pytest.raises(SeriesError, match="3 of 5 slices"):
        check_rescale(stack_of(slope=slope, intercept=intercept))


@pytest.mark.parametrize("unit", ["US", "HU_MOD"])
def test_another_unit_than_hu_is_refused_by_name(unit: str) -> None:
    with pytest.raises(SeriesError, match=rf"Rescale Type \(0028,1054\) is '{unit}'") as raised:
        check_rescale(stack_of(key={"rescale_type": unit}))
    assert raised.value.code == "missing-rescale"


def test_rescale_may_change_from_slice_to_slice() -> None:
    check_rescale(stack_of(intercept=np.array([-1024.0, -1024, -2040, -2040, -1024])))


# --- completeness ---------------------------------------------------------------------------------------


def test_pixels_that_are_longer_than_their_file_are_refused_with_the_count() -> None:
    with pytest.raises(SeriesError, match=r"\(7FE0,0010\).* 2 of 5 slices") as raised:
        check_complete(stack_of(file_bytes=np.array([1096, 1095, 1096, 1000, 2000])))
    assert raised.value.code == "truncated-pixel-data"


def test_encoded_pixels_have_no_length_to_check_but_must_begin_in_the_file() -> None:
    check_complete(stack_of(pixel_length=np.full(5, -1)))
    with pytest.raises(SeriesError):
        check_complete(stack_of(pixel_length=np.full(5, -1), file_bytes=np.full(5, 999)))


def test_pixels_that_only_parsing_finds_are_left_to_the_decoder() -> None:
    check_complete(stack_of(pixel_offset=np.full(5, -1), file_bytes=np.full(5, 10)))


# --- gaps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "passes"), [(10.0, True), (12.0, True), (9.99, False), (2.5, False)])
def test_a_lost_slice_is_refused_above_the_limit(limit: float, passes: bool) -> None:
    layout = layout_of(stack_of(position_lps_mm=at_z(0, 5, 10, 20, 25)))
    if passes:
        check_gaps(layout, limit)
        return
    with pytest.raises(SeriesError) as raised:
        check_gaps(layout, limit)
    assert raised.value.code == "missing-slices"
    for number in ("1 gap", "10.000 mm", "5.000 mm", str(limit)):
        assert number in str(raised.value)


def test_wide_gaps_that_no_lost_slice_left_pass() -> None:
    check_gaps(
        layout_of(stack_of(6, position_lps_mm=at_z(0, 4, 8, 15, 22, 29), thickness_mm=np.full(6, 7.0))), 2.5
    )


# --- warnings -------------------------------------------------------------------------------------------


def warned(stack: Stack) -> set[str]:
    return set(layout_warnings(stack, layout_of(stack)))


def test_a_tilted_stack_is_told() -> None:
    tilted = np.array([[0, 0.6 * k, 5.0 * k] for k in range(5)])
    assert warned(stack_of(position_lps_mm=tilted)) == {"gantry-tilt"}


def test_slices_that_jump_in_plane_are_told_and_are_no_tilt() -> None:
    jumping = np.array([[0.0 if k < 4 else 0.5, 0, 5.0 * k] for k in range(8)])
    assert warned(stack_of(8, position_lps_mm=jumping)) == {"shifted-slices"}


def test_a_table_that_is_not_quite_straight_is_no_jump() -> None:
    printed = np.array([[0.0, 0.01 * (k % 2), 5.0 * k] for k in range(8)])
    assert warned(stack_of(8, position_lps_mm=printed)) == set()


def test_a_lost_slice_is_told() -> None:
    assert "missing-slice" in warned(stack_of(position_lps_mm=at_z(0, 5, 10, 20, 25)))


def test_irregular_gaps_are_told() -> None:
    stack = stack_of(6, position_lps_mm=at_z(0, 4, 8, 15, 22, 29), thickness_mm=np.full(6, 7.0))
    assert warned(stack) == {"irregular-spacing"}


@pytest.mark.parametrize(
    ("values", "mixed"),
    [
        ([-2000, -2000, -2000], False),
        ([NAN, NAN, NAN], False),
        ([-2000, -2000, -1500], True),
        ([-2000, NAN, -2000], True),
    ],
)
def test_padding_that_is_not_the_same_in_all_slices_is_told(values: list[float], mixed: bool) -> None:
    padding = np.stack([values, np.full(3, NAN)], axis=1)
    assert warned(stack_of(3, padding=padding)) == ({"mixed-padding"} if mixed else set())


def test_copies_and_lossy_pixels_are_told() -> None:
    assert warned(replace(stack_of(), copies=stack_of().slices)) == {"duplicates-dropped"}
    assert warned(replace(stack_of(), headers=(Header(is_lossy=True),))) == {"lossy-compressed"}


# --- the digest of a source -----------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_order_or_place() -> None:
    stack = stack_of()
    turned = stack.with_slices(stack.slices.take([3, 1, 4, 0, 2]))
    moved = stack_of(locations=tuple(Location("elsewhere", f"{k}") for k in range(5)))
    assert stack_digest(stack) == stack_digest(turned) == stack_digest(moved)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sop_instance_uid", np.array([b"9.9"] + [f"1.2.{k}".encode() for k in range(1, 5)], "S64")),
        ("position_lps_mm", at_z(0, 5, 10, 15, 20.001)),
        ("slope", np.array([1, 1, 1, 1, 1.5])),
        ("intercept", np.array([-1024, -1024, -1024, -1024, -1000.0])),
        ("file_bytes", np.array([1096, 1096, 1096, 1096, 1098])),
        ("frame", np.array([0, 0, 0, 0, 1], np.int32)),
        ("crc32", np.array([7, -1, -1, -1, -1])),
        ("pixel_length", np.array([96, 96, 96, 96, 98])),
        ("thickness_mm", np.array([5.0, 5, 5, 5, 4])),
        ("padding", np.array([[NAN, NAN]] * 4 + [[-2000, NAN]])),
        ("padding", np.array([[NAN, NAN]] * 4 + [[NAN, -1500]])),
    ],
)
def test_the_digest_changes_with_what_decides_the_volume(column: str, value: np.ndarray) -> None:
    changes: dict[str, Any] = {column: value}
    assert stack_digest(stack_of(**changes)) != stack_digest(stack_of())


@pytest.mark.parametrize(
    "key",
    [{"patient_id": "Q"}, {"pixel_spacing_mm": (0.5, 0.6)}, {"orientation": (1, 0, 0, 0, 0, -1)}, {"rows": 9}],
)
def test_the_digest_changes_with_the_patient_and_the_geometry(key: dict[str, Any]) -> None:
    assert stack_digest(stack_of(key=key)) != stack_digest(stack_of())
