"""The cohort's intensities: against numpy on the voxels themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.store.fingerprint import BODY_HU, fingerprint

WINDOW = (-1000, 2000)
STATISTICS = ("mean_hu", "std_hu", "percentile_00_5_hu", "percentile_50_0_hu", "percentile_99_5_hu")


def count(hu: np.ndarray, window: tuple[int, int] = WINDOW) -> np.ndarray:
    return np.bincount(hu - window[0], minlength=window[1] - window[0] + 1).astype(np.uint32)


def smallest_with_share(sorted_hu: np.ndarray, per_thousand: int) -> int:
    """Smallest value at or below which lie so many of a thousand, in whole numbers."""
    return next(
        int(value) for rank, value in enumerate(sorted_hu, start=1) if 1000 * rank >= per_thousand * len(sorted_hu)
    )


@given(st.lists(st.lists(st.integers(-1000, 2000), max_size=60), min_size=1, max_size=4))
def test_a_cohort_is_described_as_its_voxels_would_be(volumes: list[list[int]]) -> None:
    found = fingerprint([count(np.array(v, int)) for v in volumes], WINDOW)
    voxels = np.concatenate([np.array(v, int) for v in volumes])
    body = np.sort(voxels[voxels > BODY_HU])
    assert (found["volumes"], found["voxels"], found["body_voxels"]) == (len(volumes), len(voxels), len(body))
    if len(body) == 0:
        assert all(found[name] is None for name in STATISTICS)
        return
    assert found["mean_hu"] == pytest.approx(body.mean(), abs=1e-9)
    assert found["std_hu"] == pytest.approx(body.std(), abs=1e-9)
    for name, per_thousand in (("00_5", 5), ("50_0", 500), ("99_5", 995)):
        assert found[f"percentile_{name}_hu"] == smallest_with_share(body, per_thousand)


@given(st.integers(1, 15).map(lambda shares: 200 * shares))
def test_percentiles_are_exact_where_the_share_is_a_whole_count(voxels: int) -> None:
    # Rounding of 0.995 * n must not move the result to the next value.
    body = np.arange(voxels) - 499
    window = (-1000, 3000)
    found = fingerprint([count(body, window)], window)
    assert found["percentile_00_5_hu"] == body[voxels * 5 // 1000 - 1]
    assert found["percentile_50_0_hu"] == body[voxels // 2 - 1]
    assert found["percentile_99_5_hu"] == body[voxels * 995 // 1000 - 1]


@given(st.permutations(range(4)))
def test_the_order_of_volumes_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(2)
    histograms = [rng.integers(0, 9, 3001).astype(np.uint32) for _ in range(4)]
    assert fingerprint([histograms[i] for i in order], WINDOW) == fingerprint(histograms, WINDOW)


def test_counts_of_a_large_cohort_do_not_overflow() -> None:
    histogram = np.zeros(3001, np.uint32)
    histogram[1040] = 2**32 - 1
    found = fingerprint([histogram] * 8, WINDOW)
    assert found["body_voxels"] == found["voxels"] == 8 * (2**32 - 1)
    assert found["mean_hu"] == 40.0
    assert found["std_hu"] == 0.0


def test_body_begins_above_minus_500() -> None:
    found = fingerprint([count(np.array([-501, -500, -499]))], WINDOW)
    assert (found["voxels"], found["body_voxels"], found["mean_hu"]) == (3, 1, -499.0)


def test_air_that_a_narrow_window_clips_is_no_body() -> None:
    found = fingerprint([count(np.array([0] * 90 + [30, 40, 50]), (0, 80))], (0, 80))
    assert (found["voxels"], found["body_voxels"], found["mean_hu"]) == (93, 3, 40.0)


@pytest.mark.parametrize("window", [(0, 80), (-600, -550)])
def test_any_window_may_be_the_cohorts(window: tuple[int, int]) -> None:
    hu = np.arange(window[0], window[1] + 1)
    found = fingerprint([count(hu, window)], window)
    assert found["voxels"] == len(hu)
    assert found["body_voxels"] == int((hu > max(BODY_HU, window[0])).sum())
    assert (found["mean_hu"] is None) == (window[1] <= BODY_HU)


def test_the_numbers_are_plain_json_values() -> None:
    found = fingerprint([count(np.array([1, 2, 3]))], WINDOW)
    assert all(type(value) in {int, float} for value in found.values())
