"""Resampling operators: against scipy, numpy.interp and dense sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pairwise import each_once
from scipy import ndimage

from etl.volume.resample import resample_stack
from etl.volume.slice_weights import SliceWeights, linear_matrix
from etl.volume.spline import (
    AxisOperator,
    anti_alias_sigma,
    banded_operator,
    dense_spline,
    dense_zoom,
    spline_operator,
)

BANDED_SHARE = 1e-5
"""Allowed loss from cutting the spline's tails, as a share of the range of values."""
SIGMAS = [0.0, 0.3, 1.0, 2.5]


def random_hu(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1000, 2000, shape)


def scipy_spline(samples: NDArray[np.float64], index: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Smooth and sample axis 0, by scipy."""
    if sigma:
        samples = ndimage.gaussian_filter1d(samples, sigma, axis=0, mode="nearest", truncate=4.0)
    columns = [ndimage.map_coordinates(column, [index], order=3, mode="nearest") for column in samples.T]
    return np.stack(columns, axis=1)


def by_slice_of(matrix: NDArray[np.float64]) -> SliceWeights:
    """Give a dense matrix (planes, slices) as what `resample_stack` reads."""
    return SliceWeights.of([(0, 0, matrix)], matrix.shape[1])


def dense(operator: AxisOperator) -> NDArray[np.float64]:
    """Give the whole matrix of an operator."""
    dtype = operator.blocks[0].weights.dtype
    return operator.along_rows(
        np.eye(operator.n_in, dtype=dtype), np.empty((operator.n_out, operator.n_in), dtype)
    )


@given(st.integers(2, 140), st.floats(0.3, 2))
@example(2, 0.5)
@example(140, 1.0)
def test_zoom_is_scipys_zoom(n: int, factor: float) -> None:
    hu = random_hu(n, 3)
    expected = ndimage.zoom(hu, (factor, 1), order=3, mode="nearest")
    np.testing.assert_allclose(dense_zoom(n, factor) @ hu, expected, rtol=1e-9, atol=1e-9 * 2000)


@settings(deadline=None)
@given(
    st.integers(1, 90),
    st.lists(st.floats(-0.05, 1.05), min_size=1, max_size=40),
    st.sampled_from(SIGMAS),
)
def test_a_spline_is_scipys_at_any_position_inside_the_field(n: int, shares: list[float], sigma: float) -> None:
    index = np.clip(np.array(shares) * n - 0.5, -0.5, n - 0.5)
    hu = random_hu(n, 2)
    expected = scipy_spline(hu, index, sigma)
    np.testing.assert_allclose(dense_spline(n, index, sigma=sigma) @ hu, expected, rtol=1e-9, atol=1e-9 * 2000)


@settings(max_examples=40)
@given(st.integers(1, 200), st.sampled_from(SIGMAS), st.sampled_from([np.float32, np.float64]))
@example(1, 2.5, np.float32)
@example(200, 0.0, np.float64)
@example(200, 2.5, np.float64)
def test_a_banded_spline_is_scipys_to_a_hundred_thousandth_of_the_range(
    n: int, sigma: float, dtype: type[np.floating]
) -> None:
    index = np.linspace(-0.5, n - 0.5, 3 * n // 2 + 2)
    operator = spline_operator(n, index, sigma=sigma, dtype=dtype)
    hu = random_hu(n, 4)
    expected = scipy_spline(hu, index, sigma)
    found = operator.along_rows(hu.astype(dtype), np.empty((len(index), 4), dtype))
    assert np.abs(found - expected).max() <= BANDED_SHARE * 3000


@pytest.mark.parametrize("sigma", [0.0, 2.5])
def test_columns_are_resampled_as_rows_are(sigma: float) -> None:
    index = np.linspace(3.3, 60.1, 41)
    operator = spline_operator(70, index, sigma=sigma, dtype=np.float64)
    hu = random_hu(5, 70)
    found = operator.along_columns(hu, np.empty((5, 41)))
    np.testing.assert_allclose(found, scipy_spline(hu.T, index, sigma).T, atol=BANDED_SHARE * 3000)


@pytest.mark.parametrize(
    ("sigma", "build"),
    each_once(SIGMAS, [dense_spline, lambda *a, **k: dense(spline_operator(*a, **k, dtype=np.float64))]),
)
def test_rows_inside_the_field_sum_to_one_and_outside_to_nothing(build: object, sigma: float) -> None:
    index = np.array([-40.0, -0.6, -0.5, 0.0, 111.3, 199.0, 199.5, 199.6, 1e4])
    matrix = build(200, index, sigma=sigma)  # type: ignore[operator]
    inside = [False, False, True, True, True, True, True, False, False]
    np.testing.assert_allclose(matrix.sum(axis=1), np.array(inside, float), rtol=0, atol=1e-12)
    assert [bool(row.any()) for row in matrix] == inside


@pytest.mark.parametrize("sigma", [0.0, 2.5])
def test_rows_keep_their_sum_when_the_tails_are_cut(sigma: float) -> None:
    operator = spline_operator(400, np.linspace(180.0, 190.0, 21), sigma=sigma, dtype=np.float64)
    assert sum(block.high - block.low for block in operator.blocks) < 200
    np.testing.assert_allclose(dense(operator).sum(axis=1), 1.0, rtol=0, atol=1e-13)


@given(st.integers(2, 80), st.floats(-60, 60), st.floats(0.2, 4), st.integers(1, 120))
def test_an_operator_lists_what_lies_outside_the_field(n: int, first: float, step: float, m: int) -> None:
    index = first + step * np.arange(m)
    operator = spline_operator(n, index, sigma=anti_alias_sigma(step))
    half_a_sample = 0.5 + 2e-3
    listed = set(operator.outside.tolist())
    for row, at in enumerate(index):
        if at < -half_a_sample or at > n - 1 + half_a_sample:
            assert row in listed
        if -0.5 <= at <= n - 0.5:
            assert row not in listed
    matrix = dense(operator)
    assert [row for row in range(m) if not matrix[row].any()] == sorted(listed)


@pytest.mark.parametrize("sigma", [0.0, 2.5])
def test_a_target_that_runs_backwards_is_the_flipped_one(sigma: float) -> None:
    index = np.linspace(-0.4, 63.2, 97)
    forwards = dense(spline_operator(64, index, sigma=sigma, dtype=np.float64))
    backwards = dense(spline_operator(64, index[::-1], sigma=sigma, dtype=np.float64))
    # Blocks fall differently, so tails are cut at different samples.
    np.testing.assert_allclose(backwards, forwards[::-1], atol=BANDED_SHARE)


def test_a_dense_matrix_stays_itself_in_blocks() -> None:
    matrix = dense_zoom(150, 0.53)
    hu = random_hu(150, 3)
    operator = banded_operator(matrix)
    assert (operator.n_in, operator.n_out, len(operator.outside)) == (150, len(matrix), 0)
    np.testing.assert_allclose(dense(operator), matrix, atol=1e-9)
    out = operator.along_rows(hu, np.empty((len(matrix), 3)))
    np.testing.assert_allclose(out, matrix @ hu, atol=1e-4)
    # Bands are what makes it fast: most of the matrix is never multiplied.
    assert sum(block.weights.size for block in operator.blocks) < 0.8 * matrix.size


def test_a_matrix_with_empty_rows_stays_itself_in_blocks() -> None:
    matrix = np.zeros((70, 20))
    matrix[40, 7] = 1.0
    np.testing.assert_array_equal(dense(banded_operator(matrix)), matrix)


@given(st.floats(-1, 1))
def test_a_grid_that_does_not_shrink_is_not_smoothed(step: float) -> None:
    assert anti_alias_sigma(step) == 0.0


@pytest.mark.parametrize(("step", "sigma"), [(3.0, 1.0), (-1.5, 0.25)])
def test_a_grid_that_shrinks_is_smoothed_by_half_the_excess(step: float, sigma: float) -> None:
    assert anti_alias_sigma(step) == pytest.approx(sigma)


def test_detail_finer_than_the_grid_does_not_alias() -> None:
    alternating = np.where(np.arange(90) % 2, 100.0, -100.0)[:, None]
    index = np.arange(20.0, 70.0, 3.0)
    plain = dense_spline(90, index) @ alternating
    smoothed = dense_spline(90, index, sigma=anti_alias_sigma(3.0)) @ alternating
    assert np.abs(plain).min() > 99
    # A sampled Gaussian of one sample passes 1.4 % of the finest detail.
    assert np.abs(smoothed).max() < 2


positions = st.lists(st.floats(0.05, 9), min_size=1, max_size=20).map(
    lambda gaps: np.concatenate([[0.0], np.cumsum(gaps)])
)


@given(positions, st.integers(0, 99))
def test_linear_weights_are_numpys_interpolation_between_irregular_slices(
    position: NDArray[np.float64], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    target = rng.uniform(-3, position[-1] + 3, 25)
    hu = rng.uniform(-1000, 2000, len(position))
    found = linear_matrix(position, target) @ hu
    np.testing.assert_allclose(found, np.interp(target, position, hu), rtol=1e-9, atol=2e-6)


@given(positions, st.floats(-4, 4), st.floats(-100, 100))
def test_linear_functions_are_reproduced_between_irregular_slices(
    position: NDArray[np.float64], slope: float, constant: float
) -> None:
    target = np.linspace(position[0], position[-1], 23)
    found = linear_matrix(position, target) @ (slope * position + constant)
    np.testing.assert_allclose(found, slope * target + constant, atol=1e-9 * (1 + abs(slope) * position[-1] + 100))


@given(positions, st.floats(0.01, 5))
def test_linear_weights_are_shares_of_one(position: NDArray[np.float64], sigma_mm: float) -> None:
    target = np.linspace(position[0] - 1, position[-1] + 1, 17)
    for sigma in (0.0, sigma_mm):
        matrix = linear_matrix(position, target, sigma_mm=sigma)
        assert matrix.min() >= -1e-12
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-12)


def test_a_smoothed_plane_is_the_gaussian_mean_of_the_interpolant() -> None:
    rng = np.random.default_rng(4)
    position = np.cumsum(rng.uniform(0.5, 2, 30))
    hu = rng.uniform(-1000, 2000, 30)
    target, sigma = np.linspace(position[0], position[-1], 13), 1.7
    at = np.linspace(-4, 4, 40_001)
    weight = np.exp(-0.5 * at**2)
    weight /= weight.sum()
    expected = [float(np.interp(t + at * sigma, position, hu) @ weight) for t in target]
    # 65 samples of a piecewise linear function with kinks.
    np.testing.assert_allclose(linear_matrix(position, target, sigma_mm=sigma) @ hu, expected, atol=2.0)


def in_plane_operators(
    rows: int, columns: int, shifts: NDArray[np.float64], dtype: type[np.floating]
) -> list[tuple[AxisOperator, AxisOperator]]:
    across_columns = spline_operator(columns, np.arange(-2.0, columns, 1.3), sigma=0.15, dtype=dtype)
    targets = np.arange(-1.5, rows + 3, 0.9)
    return [(spline_operator(rows, targets - shift, dtype=dtype), across_columns) for shift in shifts]


@pytest.mark.parametrize(("dtype", "tolerance_hu"), [(np.float32, 0.05), (np.float64, 0.03)])
def test_a_stack_is_the_sum_over_slices_of_three_matrices(dtype: type[np.floating], tolerance_hu: float) -> None:
    n, rows, columns, air = 6, 37, 41, -1024.0
    planes = random_hu(n, rows, columns, seed=1)
    shifts = np.array([0.0, 0.7, 1.4, 2.1, 2.1, 3.5])
    position = np.array([0.0, 1.0, 2.5, 3.0, 5.0, 9.0])
    across = linear_matrix(position, np.linspace(0, 9, 8), sigma_mm=0.8)
    row_index, column_index = np.arange(-1.5, rows + 3, 0.9), np.arange(-2.0, columns, 1.3)
    by_slice = []
    for plane, shift in zip(planes, shifts, strict=True):
        half = scipy_spline(plane, row_index - shift, 0.0)
        full = scipy_spline(half.T, column_index, 0.15).T
        beyond_rows = (row_index - shift < -0.501) | (row_index - shift > rows - 0.499)
        beyond_columns = (column_index < -0.501) | (column_index > columns - 0.499)
        full[beyond_rows] = air
        full[:, beyond_columns] = air
        by_slice.append(full)
    assert sum((full == air).sum() for full in by_slice) > 100
    expected = np.einsum("kn,nji->kji", across, np.stack(by_slice))
    found = resample_stack(
        iter(planes.astype(np.float32)),
        in_plane=iter(in_plane_operators(rows, columns, shifts, dtype)),
        across=by_slice_of(across),
        outside=air,
        shape=(8, len(row_index), len(column_index)),
    )
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= tolerance_hu


@pytest.mark.parametrize(("value", "dtype"), [(3071.0, np.float32), (-1000.0, np.float64)])
def test_a_constant_is_kept_to_a_hundredth_of_a_hounsfield_unit(value: float, dtype: type[np.floating]) -> None:
    index = np.linspace(-0.5, 255.5, 101)
    operator = spline_operator(256, index, sigma=anti_alias_sigma(2.56), dtype=dtype)
    across = linear_matrix(np.arange(12.0), np.linspace(0, 11, 5), sigma_mm=anti_alias_sigma(2.75))
    volume = resample_stack(
        (np.full((256, 256), value, np.float32) for _ in range(12)),
        in_plane=[(operator, operator)] * 12,
        across=by_slice_of(across),
        outside=-1024.0,
        shape=(5, 101, 101),
    )
    assert np.abs(volume - value).max() <= 0.01


def test_the_mean_of_a_noisy_uniform_region_is_kept_to_a_tenth_of_a_hounsfield_unit() -> None:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:160, :160]
    inside = (y - 80) ** 2 + (x - 80) ** 2 < 70**2
    planes = [np.where(inside, 40 + rng.normal(0, 15, (160, 160)), -1000).astype(np.float32) for _ in range(24)]
    operator = spline_operator(160, np.arange(0.5, 160, 2.0), sigma=anti_alias_sigma(2.0))
    across = linear_matrix(np.arange(24.0), np.arange(0.5, 23, 2.0), sigma_mm=anti_alias_sigma(2.0))
    volume = resample_stack(
        planes,
        in_plane=[(operator, operator)] * 24,
        across=by_slice_of(across),
        outside=-1024.0,
        shape=(12, 80, 80),
    )
    ys, xs = np.mgrid[:80, :80] * 2 + 0.5
    far_inside = (ys - 80) ** 2 + (xs - 80) ** 2 < 60**2
    source = np.mean([plane[(y - 80) ** 2 + (x - 80) ** 2 < 60**2].mean() for plane in planes])
    assert abs(float(volume[:, far_inside].mean()) - source) <= 0.1


def test_what_lies_outside_does_not_ring_into_the_field() -> None:
    operator = spline_operator(60, np.arange(-10.0, 70.0, 0.8))
    planes = [np.full((60, 60), 40, np.float32)] * 3
    volume = resample_stack(
        planes,
        in_plane=[(operator, operator)] * 3,
        across=by_slice_of(np.eye(3)),
        outside=-1024.0,
        shape=(3, 100, 100),
    )
    assert np.abs(volume[np.abs(volume - 40) > 0.01] + 1024).max() == 0
    assert (np.abs(volume - 40) <= 0.01).sum() == 3 * (operator.n_out - len(operator.outside)) ** 2


def test_slices_are_read_once_and_one_at_a_time() -> None:
    alive: list[int] = []
    operator = spline_operator(8, np.arange(8.0))

    def planes() -> Iterator[NDArray[np.float32]]:
        for k in range(5):
            alive.append(k)
            yield np.full((8, 8), k, np.float32)

    volume = resample_stack(
        planes(),
        in_plane=[(operator, operator)] * 5,
        across=by_slice_of(np.eye(5)),
        outside=-1024.0,
        shape=(5, 8, 8),
    )
    assert alive == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(volume.mean(axis=(1, 2)), range(5), atol=1e-3)


@pytest.mark.parametrize("count", [3, 5])
def test_a_stack_with_a_slice_too_few_or_too_many_is_refused(count: int) -> None:
    operator = spline_operator(8, np.arange(8.0))
    with pytest.raises(ValueError, match="zip"):
        resample_stack(
            [np.zeros((8, 8), np.float32)] * count,
            in_plane=[(operator, operator)] * 4,
            across=by_slice_of(np.eye(4)),
            outside=-1024.0,
            shape=(4, 8, 8),
        )


def test_the_planes_stay_as_they_were() -> None:
    planes = random_hu(3, 20, 20).astype(np.float32)
    before = planes.copy()
    operator = spline_operator(20, np.arange(-5.0, 25.0))
    resample_stack(
        planes,
        in_plane=[(operator, operator)] * 3,
        across=by_slice_of(np.eye(3)),
        outside=-1024.0,
        shape=(3, 30, 30),
    )
    np.testing.assert_array_equal(planes, before)
