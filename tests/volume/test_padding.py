"""Padding with the value of tissue: outside it is air, inside it is what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from series import small_series

from etl.volume.padding import may_be_tissue, outside_field

SIDE = 64
NATIVE = ("--native", "--window", "-1024,3071", "--precision-bits", "full", "--center", "none",
          "--workers", "0", "-q", "--json")  # fmt: skip
AIR = -1024
HEAD_HU, WATER_HU = 40, 0


def picture(outside: int, water: int) -> NDArray[np.int16]:
    """A round field with air, a head in it, and water inside the head, in HU."""
    row, column = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(row, column)
    hu = np.full((SIDE, SIDE), -1000, np.int16)
    hu[radius < 22] = HEAD_HU
    hu[radius < 8] = water
    # Single pixels of that value, as noise gives.
    hu[20, 30] = hu[43, 31] = water
    hu[radius > SIDE / 2] = outside
    # A third value: a stack of two is taken for a mask.
    hu[SIDE // 2 + 12, SIDE // 2] = HEAD_HU + 5
    return hu


def write(folder: Path, hu: NDArray[np.int16], *, padding: int, limit: int | None = None) -> None:
    def edit(_: int, dataset: Dataset) -> None:
        dataset.PixelRepresentation, dataset.RescaleSlope, dataset.RescaleIntercept = 1, 1, 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelData = hu.astype("<i2").tobytes()
        if "PixelPaddingValue" in dataset:
            del dataset.PixelPaddingValue
        dataset.add_new("PixelPaddingValue", "SS", padding)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "SS", limit)

    small_series(folder, "P", rows=SIDE, pixel_spacing_mm=(4.0, 4.0), edit=edit)


def landed(folder: Path, in_process) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, list[str]]:
    done = in_process("run", folder / "in", folder / "s.zarr", *NATIVE)
    [entry] = done.json["series"]
    assert entry["outcome"] == "written", entry
    [(_, patient)] = zarr.open_group(folder / "s.zarr", mode="r").groups()
    [(_, series)] = patient.groups()
    low, high = series.attrs["ct_etl"]["normalization"]["window_hu"]
    hu = series["volume"][...] * (high - low) + low
    return hu, series["validity"][...] if "validity" in series else None, entry["warnings"]


@pytest.mark.parametrize("value", [0, 40, -50, -1000, 1000])
def test_tissue_of_the_padding_value_stays_and_what_lies_outside_becomes_air(
    value: int, tmp_path: Path, in_process
) -> None:
    truth = picture(outside=value, water=value)
    write(tmp_path / "in", truth, padding=value)
    hu, validity, warnings = landed(tmp_path, in_process)
    row, column = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    outside = np.hypot(row, column) > SIDE / 2
    # Air of the value of padding touches it: all of it is air, and a person is told.
    inside = np.hypot(row, column) < 22 if value == -1000 else ~outside
    np.testing.assert_allclose(hu[4][inside], truth[inside], atol=0.01)
    np.testing.assert_allclose(hu[4][outside], AIR, atol=0.01)
    assert validity is not None
    assert (validity[4][outside] == 0).all()
    assert (validity[4][inside] == 1).all()
    assert "mixed-padding" in warnings
    assert len(set(warnings)) == len(warnings)


@pytest.mark.parametrize("value", [-2000, -1024, -32768, 32767, 5000])
def test_a_value_that_no_tissue_has_is_padding_wherever_it_lies(value: int, tmp_path: Path, in_process) -> None:
    write(tmp_path / "in", picture(outside=value, water=value), padding=value)
    hu, validity, warnings = landed(tmp_path, in_process)
    np.testing.assert_allclose(hu[4][picture(value, value) == value], AIR, atol=0.01)
    assert validity is not None
    assert "mixed-padding" not in warnings


def test_of_a_range_only_what_no_tissue_has_and_the_value_itself_are_padding(tmp_path: Path, in_process) -> None:
    write(tmp_path / "in", picture(outside=-2000, water=0), padding=-2000, limit=100)
    hu, _, warnings = landed(tmp_path, in_process)
    truth = picture(outside=AIR, water=0)
    np.testing.assert_allclose(hu[4], truth, atol=0.01)
    assert "mixed-padding" in warnings


def test_a_head_that_fills_the_field_keeps_its_water(tmp_path: Path, in_process) -> None:
    rng = np.random.default_rng(7)
    truth = rng.integers(-20, 60, (SIDE, SIDE)).astype(np.int16)
    write(tmp_path / "in", truth, padding=0)
    hu, validity, _ = landed(tmp_path, in_process)
    np.testing.assert_allclose(hu[4], truth, atol=0.01)
    assert validity is None


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.4))
def test_padding_of_a_tissue_value_is_the_large_areas_at_the_edge(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((24, 20)) < share
    mask[:3, :4] = True
    hu = np.where(mask, 0, 30).astype(np.float32)
    found = outside_field(mask, hu, padding_hu=0.0)
    assert found is not None
    # Brute force: walk from each pixel of the edge.
    reached, todo = set(), [(r, c) for r in range(24) for c in range(20) if r in (0, 23) or c in (0, 19)]
    while todo:
        at = todo.pop()
        if at in reached or not (0 <= at[0] < 24 and 0 <= at[1] < 20) or not mask[at]:
            continue
        reached.add(at)
        todo += [(at[0] + 1, at[1]), (at[0] - 1, at[1]), (at[0], at[1] + 1), (at[0], at[1] - 1)]
    assert {(int(r), int(c)) for r, c in np.argwhere(found)} == reached


def test_a_value_may_be_tissue_from_air_to_metal() -> None:
    for values in ((-1000.0,), (0.0,), (4000.0,), (-3000.0, 9000.0)):
        assert may_be_tissue(values), values
    for values in ((-1000.5,), (4001.0,), (-3000.0, -1200.0)):
        assert not may_be_tissue(values), values
