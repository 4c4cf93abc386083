"""Window, center, rounding and histogram: against the formula in float64 and brute-force counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairwise import pairwise

from etl.volume.normalize import normalize

WINDOWS = [(-1000, 2000), (0, 80), (-1024, 3071), (-32768, 32767), (7, 8)]


def random_hu(seed: int = 0, shape: tuple[int, int, int] = (5, 11, 13)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1300, 2400, shape).astype(np.float32)


def in_window(hu: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    low, high = window
    return (np.clip(hu.astype(np.float64), low, high) - low) / (high - low)


@pytest.mark.parametrize(
    ("window", "center", "bits"), pairwise(WINDOWS, ["none", "volume", 0.25, -3.0], ["full", 4, 13, 23])
)
def test_values_are_windowed_centered_and_rounded(window: tuple[int, int], center: Any, bits: Any) -> None:
    hu = random_hu()
    unit = in_window(hu, window)
    subtracted = {"none": 0.0, "volume": unit.mean()}.get(center, center)
    volume = hu.copy()
    found, _ = normalize(volume, window=window, center=center, precision_bits=bits)
    assert found.window_hu == window
    assert found.precision_bits == bits
    assert found.center == pytest.approx(subtracted, abs=1e-12)
    half_step = 0.0 if bits == "full" else 2.0 ** -(bits + 1)
    assert np.abs(volume - (unit - subtracted)).max() <= half_step + 2e-7 * max(1.0, abs(subtracted))


@pytest.mark.parametrize("bits", [4, 10, 13])
def test_rounded_values_are_whole_multiples_in_float32(bits: int) -> None:
    volume = random_hu()
    normalize(volume, window=(-1000, 2000), center="volume", precision_bits=bits)
    scaled = volume.astype(np.float64) * 2**bits
    np.testing.assert_array_equal(scaled, np.rint(scaled))
    # From 0.5 to 1 a float32 has steps of 2^-24: what is below 2^-bits must be zero bits, that is what packs.
    half_to_one = volume[(np.abs(volume) >= 0.5) & (np.abs(volume) < 1)]
    assert len(half_to_one) > 10
    assert not (half_to_one.view(np.uint32) & np.uint32(2 ** (24 - bits) - 1)).any()


def test_a_head_window_is_kept_to_a_fifth_of_a_hounsfield_unit() -> None:
    hu = random_hu().clip(-1000, 2000)
    volume = hu.copy()
    found, _ = normalize(volume, window=(-1000, 2000), center=0.25, precision_bits=13)
    low, high = found.window_hu
    back = (volume.astype(np.float64) + found.center) * (high - low) + low
    assert np.abs(back - hu).max() <= 3000 / 2**14 + 1e-3
    assert 3000 / 2**14 < 0.19


def test_the_volume_is_overwritten_whatever_the_order_of_its_axes() -> None:
    hu = random_hu(shape=(6, 7, 8))
    expected = hu.copy()
    normalize(expected, window=(0, 80), center="volume", precision_bits=13)
    backing = np.ascontiguousarray(hu.transpose(2, 0, 1))
    volume = backing.transpose(1, 2, 0)
    normalize(volume, window=(0, 80), center="volume", precision_bits=13)
    assert np.shares_memory(volume, backing)
    np.testing.assert_array_equal(volume, expected)


def test_the_mean_of_a_centered_volume_is_zero() -> None:
    volume = random_hu(3, (8, 16, 16))
    normalize(volume, window=(-1000, 2000), center="volume", precision_bits="full")
    assert abs(volume.mean(dtype=np.float64)) < 1e-7


@pytest.mark.parametrize("bits", ["full", 13])
def test_the_histogram_counts_whole_hounsfield_units(bits: Any) -> None:
    # A 200 HU window has steps of 0.02 HU: 0.4 HU off a whole number cannot change its bin.
    whole = np.random.default_rng(5).integers(-300, 400, (4, 9, 9))
    hu = (whole + np.random.default_rng(6).uniform(-0.4, 0.4, whole.shape)).astype(np.float32)
    _, histogram = normalize(hu, window=(-100, 100), center=0.3, precision_bits=bits)
    expected = np.zeros(201, int)
    for value in whole.ravel():
        expected[min(max(value, -100), 100) + 100] += 1
    assert histogram.dtype == np.uint32
    assert histogram.tolist() == expected.tolist()


@given(
    st.integers(0, 1000),
    st.sampled_from(WINDOWS),
    st.sampled_from(["none", "volume", 0.25, -1.7]),
    st.sampled_from(["full", 4, 13, 20]),
)
def test_the_histogram_is_that_of_what_is_stored(
    seed: int, window: tuple[int, int], center: Any, bits: Any
) -> None:
    volume = random_hu(seed, (3, 5, 7))
    found, histogram = normalize(volume, window=window, center=center, precision_bits=bits)
    low, high = window
    assert len(histogram) == high - low + 1
    assert int(histogram.sum()) == volume.size
    back = np.sort(((volume.astype(np.float64) + found.center) * (high - low) + low).clip(low, high).ravel())
    counted = np.repeat(np.arange(low, high + 1), histogram)
    # float32 holds a window of 65,536 HU to 0.008 HU; a voxel next to a bin's edge may fall either way.
    assert np.abs(counted - back).max() <= 0.5 + 0.02


def test_clipped_voxels_are_in_the_end_bins() -> None:
    volume = np.array([[[-3024.0, -1000.0, 2000.0, 9000.0]]], np.float32)
    _, histogram = normalize(volume, window=(-1000, 2000), center="none", precision_bits=13)
    assert (int(histogram[0]), int(histogram[-1]), int(histogram.sum())) == (2, 2, 4)
    assert volume.tolist() == [[[0.0, 0.0, 1.0, 1.0]]]
