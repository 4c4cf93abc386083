"""A hole in a stack is told, or refused; never filled without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from series import Edit, small_series

from etl.phantom.files import write_localizer
from etl.phantom.head import HeadPhantom
from etl.volume.gaps import find_missing, find_uncovered

NAN = float("nan")
QUICK = ("--spacing-mm", "3", "--min-slices", "2", "--workers", "0", "-q", "--json")
SERIES, STUDY = "1.2.3.4", "1.2.3"


def scan(folder: Path, at_mm: list[float], *, thickness_mm: float, numbers: list[int] | None = None,
         edit: Edit | None = None) -> None:  # fmt: skip
    """Write slices at the given places, numbered from 1 unless told."""

    def place(index: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [-128.0, -128.0, at_mm[index]]
        dataset.SliceThickness = thickness_mm
        dataset.InstanceNumber = index + 1 if numbers is None else numbers[index]
        if edit is not None:
            edit(index, dataset)

    small_series(
        folder, "HOLES", count=len(at_mm), rows=16, pixel_spacing_mm=(16.0, 16.0), noise_hu=0, edit=place,
        study_uid=STUDY, series_uid=SERIES,
    )  # fmt: skip


def every(step: float, count: int) -> list[float]:
    return [step * k for k in range(count)]


@pytest.mark.parametrize(
    ("at_mm", "thickness_mm", "numbers", "outcome"),
    [
        pytest.param([0.0, 400.0], 5.0, None, "missing-slices", id="two far apart"),
        pytest.param([0.0, 400.0], 5.0, [1, 81], "missing-slices", id="two far apart, numbered so"),
        pytest.param([0.0, 400.0, 800.0], 5.0, None, "missing-slices", id="three far apart"),
        pytest.param(every(10, 10), 5.0, list(range(1, 20, 2)), "missing-slices", id="every second lost"),
        pytest.param(every(2, 10), 1.0, list(range(1, 20, 2)), "missing-slice", id="every second lost, thin"),
        pytest.param(every(10, 10), 5.0, None, "missing-slice", id="every second lost and renumbered"),
        pytest.param(every(10, 10), 1.0, None, "missing-slice", id="thin slices far apart"),
        pytest.param(every(10, 10), 1.0, list(range(10, 0, -1)), "missing-slice", id="the same, descending"),
        pytest.param(every(10, 10), 1.0, [1] * 10, "missing-slice", id="the same, all numbered 1"),
        pytest.param(every(20, 10), 1.0, None, "missing-slice", id="thin slices very far apart"),
        pytest.param(
            [1.25 * k for k in range(10) if k != 4],
            2.5,
            [1, 2, 3, 4, 6, 7, 8, 9, 10],
            "missing-slice",
            id="lost among overlap",
        ),
        pytest.param(every(5, 10), 5.0, None, None, id="touching"),
        pytest.param(every(5, 10), 5.0, list(range(10, 0, -1)), None, id="touching, descending"),
        pytest.param(every(5, 10), 5.0, [1] * 10, None, id="touching, all numbered 1"),
        pytest.param(every(5, 10), 5.0, [1, 6, 2, 7, 3, 8, 4, 9, 5, 10], None, id="touching, interleaved"),
        pytest.param(every(5, 10), 5.0, list(range(1, 20, 2)), None, id="touching, odd numbers"),
        pytest.param(every(5, 10), 5.0, [1, 2, 3, 4, 5, 106, 107, 108, 109, 110], None, id="two acquisitions"),
        pytest.param(every(1, 10), 2.0, None, None, id="overlapping"),
        pytest.param(every(7, 10), 5.0, None, None, id="a gap of less than half the thickness"),
    ],
)
def test_a_hole_is_told_or_refused_and_nothing_else_is(
    at_mm: list[float],
    thickness_mm: float,
    numbers: list[int] | None,
    outcome: str | None,
    tmp_path: Path,
    in_process,
) -> None:
    scan(tmp_path / "in", at_mm, thickness_mm=thickness_mm, numbers=numbers)
    [entry] = in_process("run", tmp_path / "in", tmp_path / "s.zarr", *QUICK).json["series"]
    if outcome == "missing-slices":
        assert (entry["outcome"], entry["reason"]) == ("failed", outcome), entry
        return
    assert entry["outcome"] == "written", entry
    assert ("missing-slice" in entry["warnings"]) == (outcome is not None), entry
    [(_, patient)] = zarr.open_group(tmp_path / "s.zarr", mode="r").groups()
    [(_, series)] = patient.groups()
    assert ("validity" in series) == (outcome is not None)


@pytest.mark.parametrize("gap_mm", [10.0, 20.0])
def test_what_lies_between_thin_slices_is_interpolated_and_what_lies_on_them_is_measured(
    gap_mm: float, tmp_path: Path, in_process
) -> None:
    scan(tmp_path / "in", every(gap_mm, 5), thickness_mm=1.0)
    options = ("--spacing-mm", "5,16,16", *QUICK[2:])
    assert in_process("run", tmp_path / "in", tmp_path / "s.zarr", *options).json["written"] == 1
    [(_, patient)] = zarr.open_group(tmp_path / "s.zarr", mode="r").groups()
    [(_, series)] = patient.groups()
    codes = series["validity"][...]
    codes = codes.reshape(len(codes), -1)
    at = 5.0 * np.arange(len(codes))
    for code, z in zip(codes, at, strict=True):
        assert (code == (1 if z % gap_mm == 0 else 2)).all(), z


@given(st.integers(5, 30), st.floats(0.5, 10), st.floats(1, 3), st.booleans(), st.data())
def test_a_slice_that_its_number_misses_is_found_however_slices_overlap(
    n: int, gap: float, overlap: float, descending: bool, data: st.DataObject
) -> None:
    lost = data.draw(st.integers(1, n - 2))
    along, numbers = np.delete(np.arange(n) * gap, lost), np.delete(np.arange(1, n + 1), lost)
    if descending:
        numbers = n + 1 - numbers
    found = find_missing(np.diff(along), np.full(n - 1, gap * overlap), numbers)
    assert np.flatnonzero(found).tolist() == [lost - 1]


@given(st.integers(3, 30), st.floats(0.5, 10), st.data())
def test_numbers_alone_find_nothing_in_an_even_stack_of_touching_slices(
    n: int, gap: float, data: st.DataObject
) -> None:
    numbers = np.array(data.draw(st.lists(st.integers(-1, 500), min_size=n, max_size=n)))
    gaps = np.full(n - 1, gap)
    assert not find_missing(gaps, np.full(n, gap), numbers).any()
    assert not find_missing(gaps, np.full(n, NAN), numbers).any() or gap > 15


def test_a_thickness_that_cannot_be_one_tells_nothing() -> None:
    for senseless in (0.0, -1.0, 400.0, NAN):
        assert not find_uncovered(np.full(3, 5.0), np.full(4, senseless)).any()
        assert find_uncovered(np.full(3, 400.0), np.full(4, senseless)).all()


# --- slices of the series that ended elsewhere ----------------------------------------------------------


def last_four(change: Edit) -> Edit:
    return lambda index, dataset: change(index, dataset) if index >= 16 else None


def other_rows(_: int, dataset: Dataset) -> None:
    dataset.Rows, dataset.PixelData = 8, dataset.PixelData[: len(dataset.PixelData) // 2]


def setting(keyword: str, value: object) -> Edit:
    return lambda _, dataset: setattr(dataset, keyword, value)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(other_rows, id="rows"),
        pytest.param(setting("PixelSpacing", [8.0, 8.0]), id="spacing"),
        pytest.param(setting("PatientID", "SOMEBODY"), id="patient"),
        pytest.param(setting("Modality", "MR"), id="modality"),
        pytest.param(setting("ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), id="orientation"),
    ],
)
def test_a_volume_says_that_the_last_four_of_its_slices_are_elsewhere(
    change: Edit, tmp_path: Path, in_process
) -> None:
    scan(tmp_path / "in", every(5, 20), thickness_mm=5.0, edit=last_four(change))
    done = in_process("run", tmp_path / "in", tmp_path / "s.zarr", *QUICK, "--min-slices", "8")
    [written] = [entry for entry in done.json["series"] if entry["outcome"] == "written"]
    assert written["slices"] == 16
    assert "slices-left-out" in written["warnings"]
    [series] = [s for _, p in zarr.open_group(tmp_path / "s.zarr", mode="r").groups() for _, s in p.groups()]
    assert "slices-left-out" in series.attrs["ct_etl"]["qc"]["warnings"]


def test_a_stack_that_failed_is_told_by_the_one_that_was_written(tmp_path: Path, in_process) -> None:
    def spoil(_: int, dataset: Dataset) -> None:
        other_rows(_, dataset)
        del dataset.RescaleSlope

    scan(tmp_path / "in", every(5, 26), thickness_mm=5.0, edit=last_four(spoil))
    done = in_process("run", tmp_path / "in", tmp_path / "s.zarr", *QUICK)
    outcomes = {entry["outcome"]: entry["warnings"] for entry in done.json["series"]}
    assert set(outcomes) == {"written", "failed"}
    assert "slices-left-out" in outcomes["written"]


def test_stacks_that_are_all_written_and_localizers_leave_nothing_out(tmp_path: Path, in_process) -> None:
    scan(tmp_path / "in", every(5, 26), thickness_mm=5.0, edit=last_four(setting("PixelSpacing", [8.0, 8.0])))
    write_localizer(tmp_path / "scout", HeadPhantom(), rows=16, patient_id="HOLES", study_uid=STUDY,
                    series_uid=SERIES)  # fmt: skip
    done = in_process("run", tmp_path / "in", tmp_path / "scout", tmp_path / "s.zarr", *QUICK)
    assert sorted(entry["outcome"] for entry in done.json["series"]) == ["excluded", "written", "written"]
    assert not [entry for entry in done.json["series"] if "slices-left-out" in entry["warnings"]]
