"""Copies and time points: which slices are one, which belong to another stack, which cannot be told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairwise import each_once

from etl.plan.labels import Column
from etl.plan.repeats import drop_copies
from etl.plan.tell_apart import Slab, tell_apart
from etl.scan.distinctions import DISTINCTIONS
from etl.stack import Location, Slices

NAN = float("nan")
COLUMNS = {
    "temporal position": "TemporalPositionIdentifier",
    "cardiac phase": "NominalPercentageOfCardiacPhase",
    "acquisition number": "AcquisitionNumber",
    "acquisition time": "AcquisitionDate+AcquisitionTime",
}
ROWS = {row.keyword: row for row in DISTINCTIONS}


def slices_of(names: list[str], z: list[float], **columns: object) -> Slices:
    n = len(names)
    same: dict[str, object] = {
        "frame": np.zeros(n, np.int32),
        "format": np.zeros(n, np.int16),
        "pixel_offset": np.full(n, 1000),
        "pixel_length": np.full(n, 512),
        "file_bytes": np.full(n, 1512),
        "crc32": np.full(n, -1),
        "instance_number": np.arange(n, dtype=np.int32),
        "slope": np.ones(n),
        "modified_ns": np.zeros(n, np.int64),
        "changed_ns": np.zeros(n, np.int64),
        "inode": np.zeros(n, np.uint64),
        "intercept": np.full(n, -1024.0),
        "padding": np.full((n, 2), NAN),
        "thickness_mm": np.full(n, 5.0),
        "plane": np.zeros(n, np.int32),
        "header": np.zeros(n, np.int32),
        "marks": np.empty((n, 0), np.int32),
    }
    return Slices(
        locations=tuple(Location("/in", f"{i}.dcm") for i in range(n)),
        sop_instance_uid=np.array([name.encode() for name in names], "S64"),
        position_lps_mm=np.array([[-120.5, -130.25, value] for value in z]),
        **{**same, **{name: np.asarray(values) for name, values in columns.items()}},  # type: ignore[arg-type]
    )


def kept(names: list[str], z: list[float], *, native: list[int] | None = None, **columns: object) -> list[int]:
    keep, dropped = drop_copies(slices_of(names, z, **columns), np.array(native or [0] * len(z), np.int64))
    assert sorted([*keep.tolist(), *dropped.tolist()]) == list(range(len(z)))
    return [int(i) for i in keep]


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


@pytest.mark.parametrize(
    "column",
    [
        {"slope": [1.0, 2.0]},
        {"intercept": [-1024.0, 0.0]},
        {"padding": [[NAN, NAN], [-2000.0, NAN]]},
    ],
)
def test_an_instance_that_means_other_hounsfield_units_is_no_copy(column: dict[str, object]) -> None:
    assert kept(["1.1", "1.1"], [0, 0], **column) == [0, 1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_each_instance_is_kept_once(instances: list[int]) -> None:
    found = kept([f"1.{n}" for n in instances], [5.0 * n for n in instances])
    assert sorted(instances[i] for i in found) == sorted(set(instances))
    assert found == sorted(found)


# --- repeats --------------------------------------------------------------------------------------------


def column_of(name: str, values: list[float]) -> Column:
    found, labels = np.unique(values, return_inverse=True)
    row = ROWS[COLUMNS[name.replace("_", " ")]]
    return Column(row, labels, np.array(values, float), tuple(f"{value:g}" for value in found))


def scans(z: list[float], thickness_mm: float = 5.0, **columns: list[float]) -> list[list[int]] | None:
    found = {COLUMNS[name.replace("_", " ")]: column_of(name, values) for name, values in columns.items()}
    usable = [found[row.keyword] for row in DISTINCTIONS if row.keyword in found]
    usable = [column for column in usable if len(column.texts) > 1]
    parts = tell_apart(Slab(np.array(z, float), np.full(len(z), thickness_mm), usable))
    return None if parts is None else [part.index.tolist() for part in parts]


def split(z: list[float], thickness_mm: float = 5.0, **columns: list[float]) -> list[list[int]]:
    found = scans(z, thickness_mm, **columns)
    assert found is not None
    return found


def refused(z: list[float], **columns: list[float]) -> None:
    assert scans(z, **columns) is None


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
        [0, 5, 0, 5], temporal_position=[1, 1, 2, 1], cardiac_phase=[1, 2, 1, 2], acquisition_number=[1, 1, 2, 2]
    )
    assert found == [[0, 1], [2, 3]]


def test_repeats_that_nothing_tells_apart_are_refused() -> None:
    refused([0, 5, 0, 5, 10])


def test_parts_may_differ_in_length() -> None:
    assert split([0, 5, 10, 5, 10], acquisition_number=[1, 1, 1, 2, 2]) == [[0, 1, 2], [3, 4]]


def test_one_slice_of_a_scan_that_was_stopped_is_apart() -> None:
    assert split([0, 5, 10, 5], acquisition_number=[1, 1, 1, 2]) == [[0, 1, 2], [3]]


def test_a_table_that_stays_at_a_place_for_all_turns_is_split_in_turn() -> None:
    assert split([0, 0, 0, 5, 5, 5], acquisition_number=[1, 2, 3, 4, 5, 6]) == [[0, 3], [1, 4], [2, 5]]


def test_positions_that_differ_in_the_last_digit_only_are_one_place() -> None:
    assert split([0, 5, 0.004, 5.003], temporal_position=[1, 1, 2, 2]) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("name", "further_mm"), each_once(list(COLUMNS), [0.02, 0.05, 1.0, 2.5]))
def test_a_second_scan_that_lies_a_little_further_on_is_a_stack_of_its_own(name: str, further_mm: float) -> None:
    z = [5.0 * k for k in range(6)]
    values = {name.replace(" ", "_"): [1.0] * 6 + [2.0] * 6}
    found = split(z + [further_mm + value for value in z], **values)
    assert found == [list(range(6)), list(range(6, 12))]


def test_parts_of_one_sweep_that_overlap_where_they_meet_stay_one_stack() -> None:
    base, top = [4.0 * k for k in range(8)], [26.0 + 7.0 * k for k in range(8)]
    assert split(base + top, acquisition_number=[1.0] * 8 + [2.0] * 8) == [list(range(16))]


def test_halves_of_an_interleaved_scan_stay_one_stack() -> None:
    z = [2.5 * k for k in range(12)]
    assert split(z, thickness_mm=2.5, acquisition_number=[1.0, 2.0] * 6) == [list(range(12))]


def test_rotations_of_a_sequential_scan_stay_one_stack() -> None:
    z = [2.5 * k for k in range(16)]
    assert split(z, thickness_mm=2.5, acquisition_time=[float(k // 4) for k in range(16)]) == [list(range(16))]


def test_two_attributes_together_tell_what_neither_tells_alone() -> None:
    z = [0.0, 5.0] * 4
    found = split(z, temporal_position=[1, 1, 1, 1, 2, 2, 2, 2], acquisition_number=[1, 1, 2, 2, 1, 1, 2, 2])
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_cine_scan_with_a_time_for_each_slice_is_split_in_turn() -> None:
    # The table toggles: the second place is always a little later than the first.
    found = split([0, 5, 0, 5, 0, 5], acquisition_time=[10.0, 10.5, 20.0, 20.5, 30.0, 30.5])
    assert found == [[0, 1], [2, 3], [4, 5]]


def test_equal_times_at_one_place_have_no_order() -> None:
    refused([0, 5, 0, 5], acquisition_time=[10.0, 10.5, 10.0, 20.5])


def test_the_last_turn_may_be_cut_short() -> None:
    found = split([0, 5, 0, 5, 0], acquisition_time=[10.0, 10.5, 20.0, 20.5, 30.0])
    assert found == [[0, 1], [2, 3], [4]]


def test_a_place_that_was_missed_in_an_earlier_turn_leaves_no_turns() -> None:
    refused([0, 5, 10, 0, 10, 0, 5, 10], acquisition_time=[1.0, 2, 3, 11, 13, 21, 22, 23])


@given(st.data(), st.integers(2, 5), st.integers(2, 6), st.sampled_from(sorted(COLUMNS)))
def test_any_order_of_files_gives_the_same_stacks(data: st.DataObject, times: int, places: int, name: str) -> None:
    slices = [(t, p) for t in range(times) for p in range(places)]
    order = data.draw(st.permutations(slices))
    column = {name.replace(" ", "_"): [7.0 * t for t, _ in order]}
    found = split([2.5 * p for _, p in order], **column)
    assert [sorted(order[i] for i in part) for part in found] == [
        [(t, p) for p in range(places)] for t in range(times)
    ]
