"""Copies and time points: which slices are one, which belong to another stack, which cannot be told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from etl.errors import SeriesError
from etl.repeats import drop_copies, split_repeats

NAN = float("nan")
COLUMNS = {"temporal position": 0, "cardiac phase": 1, "acquisition number": 2, "acquisition time": 3}


def along_z(*z: float) -> NDArray[np.float64]:
    return np.array([[-120.5, -130.25, value] for value in z])


def uids(*names: str) -> NDArray[np.bytes_]:
    return np.array([name.encode() for name in names], "S64")


def kept(
    names: list[str], z: list[float], *, frame: list[int] | None = None, native: list[int] | None = None
) -> list[int]:
    frames = np.array(frame or [0] * len(z), np.int32)
    preference = np.array(native or [0] * len(z), np.int64)
    return [int(i) for i in drop_copies(uids(*names), frames, along_z(*z), preference)]


# --- copies ---------------------------------------------------------------------------------------------


def test_the_first_of_identical_instances_at_one_place_is_kept() -> None:
    assert kept(["1.1", "1.2", "1.1", "1.2", "1.3"], [0, 5, 0, 5, 10]) == [0, 1, 4]


def test_without_copies_every_slice_is_kept_in_its_order() -> None:
    assert kept(["1.3", "1.1", "1.2"], [10, 0, 5]) == [0, 1, 2]


def test_of_copies_the_preferred_one_is_kept() -> None:
    assert kept(["1.1", "1.1", "1.2", "1.2"], [0, 0, 5, 5], native=[1, 0, 0, 1]) == [1, 2]


def test_one_uid_at_several_places_is_no_copy() -> None:
    assert kept(["1.1", "1.1", "1.1"], [0, 5, 10]) == [0, 1, 2]


def test_frames_of_one_file_are_no_copies() -> None:
    assert kept(["1.1", "1.1"], [0, 0], frame=[0, 1]) == [0, 1]


def test_other_instances_at_one_place_are_no_copies() -> None:
    assert kept(["1.1", "1.2"], [0, 0]) == [0, 1]


def test_copies_without_a_position_are_still_copies() -> None:
    assert kept(["1.1", "1.1", "1.2"], [NAN, NAN, NAN]) == [0, 2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_each_instance_is_kept_once(instances: list[int]) -> None:
    found = kept([f"1.{n}" for n in instances], [5.0 * n for n in instances])
    assert sorted(instances[i] for i in found) == sorted(set(instances))
    assert found == sorted(found)


# --- repeats --------------------------------------------------------------------------------------------


def repeat(count: int, **columns: list[float]) -> NDArray[np.float64]:
    table = np.full((count, len(COLUMNS)), NAN)
    for name, values in columns.items():
        table[:, COLUMNS[name.replace("_", " ")]] = values
    return table


def split(z: list[float], **columns: list[float]) -> list[list[int]]:
    return [part.tolist() for part in split_repeats(along_z(*z), repeat(len(z), **columns))]


def refused(z: list[float], **columns: list[float]) -> str:
    with pytest.raises(SeriesError) as raised:
        split(z, **columns)
    assert raised.value.code == "duplicate-positions"
    return str(raised.value)


@pytest.mark.parametrize("name", COLUMNS)
def test_each_attribute_that_tells_repeats_apart_splits_them(name: str) -> None:
    values = {name.replace(" ", "_"): [3.0, 1.0, 3.0, 1.0, 2.0, 2.0]}
    assert split([0, 0, 5, 5, 0, 5], **values) == [[1, 3], [4, 5], [0, 2]]


def test_positions_that_do_not_repeat_are_one_stack_whatever_the_attributes_say() -> None:
    assert split([0, 5, 10, 15], temporal_position=[1, 1, 2, 2], acquisition_number=[1, 2, 3, 4]) == [[0, 1, 2, 3]]


def test_the_temporal_position_goes_before_the_acquisition() -> None:
    found = split([0, 5, 0, 5], temporal_position=[1, 1, 2, 2], acquisition_number=[9, 8, 8, 9])
    assert found == [[0, 1], [2, 3]]


def test_an_attribute_that_does_not_tell_all_repeats_apart_gives_way_to_the_next() -> None:
    found = split(
        [0, 5, 0, 5], temporal_position=[1, 1, 1, 1], cardiac_phase=[1, 2, 1, 2], acquisition_number=[1, 1, 2, 2]
    )
    assert found == [[0, 1], [2, 3]]


def test_an_attribute_that_some_slices_lack_tells_nothing() -> None:
    assert "1 of 4" not in refused([0, 5, 0, 5], temporal_position=[1, 1, 2, NAN])


def test_a_time_of_its_own_for_every_slice_makes_no_stacks_of_one() -> None:
    assert "2 of 4" in refused([0, 5, 0, 5], acquisition_time=[10.0, 10.1, 20.0, 20.1])


def test_repeats_that_nothing_tells_apart_are_refused_with_the_count() -> None:
    message = refused([0, 5, 0, 5, 10])
    assert "2 of 5" in message
    for name in ("Temporal Position", "cardiac phase", "Acquisition Number", "Acquisition Time"):
        assert name in message


def test_parts_may_differ_in_length() -> None:
    assert split([0, 5, 10, 5, 10], acquisition_number=[1, 1, 1, 2, 2]) == [[0, 1, 2], [3, 4]]


def test_a_part_of_one_slice_is_no_stack() -> None:
    refused([0, 5, 10, 5], acquisition_number=[1, 1, 1, 2])


def test_positions_that_differ_in_the_last_digit_only_are_one_place() -> None:
    assert split([0, 5, 0.004, 5.003], temporal_position=[1, 1, 2, 2]) == [[0, 1], [2, 3]]


def test_slices_beside_each_other_are_two_places() -> None:
    position = np.array([[0, 0, 0], [100.0, 0, 0], [0, 0, 5], [100, 0, 5]])
    assert len(split_repeats(position, repeat(4))) == 1


def test_slices_without_positions_are_left_to_the_geometry() -> None:
    assert split([NAN, NAN, 5.0]) == [[0, 1, 2]]


@given(st.data(), st.integers(2, 5), st.integers(2, 6), st.sampled_from(sorted(COLUMNS)))
def test_any_order_of_files_gives_the_same_stacks(data: st.DataObject, times: int, places: int, name: str) -> None:
    slices = [(t, p) for t in range(times) for p in range(places)]
    order = data.draw(st.permutations(slices))
    column = {name.replace(" ", "_"): [7.0 * t for t, _ in order]}
    found = split([2.5 * p for _, p in order], **column)
    assert [sorted(order[i] for i in part) for part in found] == [
        [(t, p) for p in range(places)] for t in range(times)
    ]
