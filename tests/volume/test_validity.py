"""Which voxels were measured, and that nothing beside them rings into them.

Slices are made here and converted in memory; where a voxel lies in a slice follows from PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pairwise import each_once

from etl.volume.convert import Converted, convert
from etl.volume.geometry import lay_out

Hu = NDArray[np.float32]
Mask = NDArray[np.bool_]
AIR = -1024.0
WINDOW = (-1024, 3071)
OUTSIDE, MEASURED, INTERPOLATED = 0, 1, 2


@dataclass(frozen=True)
class Case:
    """A stack along z, its first pixel moved in y by `tilt` per mm."""

    rows: int = 40
    columns: int = 44
    pixel_mm: tuple[float, float] = (1.5, 1.5)
    z_mm: tuple[float, ...] = tuple(3.0 * k for k in range(12))
    tilt: float = 0.0
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)

    @property
    def axes(self) -> NDArray[np.float64]:
        """Rows: normal, along rows, along columns."""
        across, down = np.reshape(self.orientation, (2, 3))
        return np.stack([np.cross(across, down), down, across]).astype(float)

    def positions(self) -> NDArray[np.float64]:
        along = np.array(self.z_mm)
        return np.stack([along, self.tilt * along, 0 * along], axis=1) @ self.axes

    def convert(self, slices: Sequence[tuple[Hu, Mask | None]], **grid: Any) -> Converted:
        layout = lay_out(
            self.positions(),
            orientation=self.orientation,
            pixel_spacing_mm=self.pixel_mm,
            rows=self.rows,
            columns=self.columns,
            thickness_mm=np.full(len(self.z_mm), float("nan")),
        )
        options: dict[str, Any] = {"spacing_mm": None, "zoom": None, "window": WINDOW, "center": "none"}
        copies = [(hu.copy(), padded) for hu, padded in slices]
        return convert((copies[i] for i in layout.order), layout, precision_bits="full", **{**options, **grid})

    def uniform(self, hu: float, padded: Mask | None = None) -> list[tuple[Hu, Mask | None]]:
        plane = np.full((self.rows, self.columns), hu, np.float32)
        if padded is not None:
            plane[padded] = AIR
        return [(plane, padded)] * len(self.z_mm)

    def pixel_of(self, converted: Converted, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional row and column that every voxel has in slice k."""
        index = np.moveaxis(np.indices(converted.volume.shape), 0, -1)
        affine = converted.geometry.affine_lps
        offset = index @ affine[:3, :3].T + affine[:3, 3] - self.positions()[k]
        _, down, across = self.axes
        return offset @ down / self.pixel_mm[0], offset @ across / self.pixel_mm[1]


def hu_from(converted: Converted) -> NDArray[np.float64]:
    return converted.volume.astype(float) * (WINDOW[1] - WINDOW[0]) + WINDOW[0]


def disc(case: Case, *, share: float = 0.9) -> Mask:
    """Mark what lies outside a circle in the middle."""
    j, i = np.indices((case.rows, case.columns))
    radius = share * min(case.rows, case.columns) / 2
    return np.asarray(np.hypot(j - (case.rows - 1) / 2, i - (case.columns - 1) / 2) > radius)


GRIDS: dict[str, tuple[float, float, float]] = {
    "same": (3.0, 1.5, 1.5),
    "finer": (1.0, 0.7, 0.9),
    "coarser": (4.0, 3.1, 2.6),
    "much-coarser": (7.0, 6.0, 6.0),
}
CASES: dict[str, Case] = {
    "upright": Case(),
    "tilted": Case(tilt=0.35),
    "tilted-back": Case(tilt=-0.35),
    "reversed": Case(z_mm=tuple(-3.0 * k for k in range(12))),
    "irregular": Case(z_mm=(0, 2, 4, 6, 8, 8.6, 13, 17.5, 22, 26.5, 31)),
    "coronal": Case(orientation=(1, 0, 0, 0, 0, -1)),
    "sagittal-unequal": Case(orientation=(0, 1, 0, 0, 0, -1), pixel_mm=(1.3, 1.9)),
}


# --- a uniform region keeps its HU ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "grid"), each_once([*CASES], [*GRIDS]))
def test_a_uniform_region_keeps_its_hu_up_to_the_border_of_the_field(name: str, grid: str) -> None:
    case = CASES[name]
    converted = case.convert(case.uniform(1200.0), spacing_mm=GRIDS[grid])
    valid = np.ones(converted.volume.shape, bool) if converted.validity is None else converted.validity == MEASURED
    assert valid.mean() > 0.3
    assert np.abs(hu_from(converted)[valid] - 1200).max() < 0.1
    assert (np.abs(hu_from(converted)[~valid] - AIR) < 0.01).all()


@pytest.mark.parametrize(("name", "grid"), each_once([*CASES], [*GRIDS][1:]))
def test_a_uniform_region_keeps_its_hu_next_to_padding(name: str, grid: str) -> None:
    case = CASES[name]
    converted = case.convert(case.uniform(60.0, disc(case)), spacing_mm=GRIDS[grid])
    assert converted.validity is not None
    measured = converted.validity == MEASURED
    assert measured.mean() > 0.15
    assert np.abs(hu_from(converted)[measured] - 60).max() < 0.1
    assert (np.abs(hu_from(converted)[converted.validity == OUTSIDE] - AIR) < 0.01).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_mean_of_a_noisy_region_is_kept(grid: str) -> None:
    case = Case(rows=128, columns=128, z_mm=tuple(3.0 * k for k in range(24)))
    rng = np.random.default_rng(11)
    slices = [(rng.normal(40, 12, (case.rows, case.columns)).astype(np.float32), None) for _ in case.z_mm]
    converted = case.convert(slices, spacing_mm=GRIDS[grid])
    assert abs(hu_from(converted).mean() - np.mean([hu.mean() for hu, _ in slices])) < 0.1


def test_an_edge_inside_the_field_does_not_ring_from_what_lies_outside() -> None:
    case = Case()
    ramp = np.tile(np.linspace(-50, 150, case.columns, dtype=np.float32), (case.rows, 1))
    alone = case.convert([(ramp, None)] * 12, spacing_mm=GRIDS["finer"])
    padded = disc(case)
    cut = np.where(padded, AIR, ramp).astype(np.float32)
    beside = case.convert([(cut, padded)] * 12, spacing_mm=GRIDS["finer"])
    assert beside.validity is not None
    measured = beside.validity == MEASURED
    # Beside padding the nearest measured value goes on: a kink of a few HU instead of an edge of 1100.
    assert np.abs(hu_from(beside) - hu_from(alone))[measured].max() < 5


# --- where the map says what ----------------------------------------------------------------------------


def test_a_map_of_nothing_but_measured_voxels_is_left_out() -> None:
    case = Case()
    assert case.convert(case.uniform(0.0), spacing_mm=GRIDS["finer"]).validity is None
    nothing_padded = np.zeros((case.rows, case.columns), bool)
    assert case.convert(case.uniform(0.0, nothing_padded), spacing_mm=GRIDS["finer"]).validity is None
    assert case.convert(case.uniform(0.0)).validity is None


@pytest.mark.parametrize(("name", "grid"), each_once([*CASES], [*GRIDS][::-1]))
def test_voxels_are_measured_where_every_slice_around_them_is(name: str, grid: str) -> None:
    case = CASES[name]
    padded = disc(case, share=0.8)
    converted = case.convert(case.uniform(60.0, padded), spacing_mm=GRIDS[grid])
    assert converted.validity is not None
    assert converted.validity.dtype == np.uint8
    assert converted.validity.shape == converted.volume.shape
    index = np.moveaxis(np.indices(converted.volume.shape), 0, -1)
    affine = converted.geometry.affine_lps
    along = (index @ affine[:3, :3].T + affine[:3, 3]) @ case.axes[0]
    z = np.sort(np.array(case.z_mm))
    order = np.argsort(case.z_mm)
    below = np.clip(np.searchsorted(z, along + 1e-6) - 1, 0, len(z) - 2)
    radius = 0.8 * min(case.rows, case.columns) / 2
    pixels = [case.pixel_of(converted, int(k)) for k in order]
    middle = (case.rows - 1) / 2, (case.columns - 1) / 2
    distances = np.stack([np.hypot(row - middle[0], column - middle[1]) for row, column in pixels])
    inside, outside = np.ones(along.shape, bool), np.ones(along.shape, bool)
    # Against aliasing more slices than the two around a plane count.
    reach = 1 + int(np.ceil(GRIDS[grid][0] / np.diff(z).min()))
    for step in range(-reach, reach + 2):
        near = np.clip(below + step, 0, len(z) - 1)
        distance = np.take_along_axis(distances, near[None], axis=0)[0]
        inside &= distance < radius - 1.5
        outside &= distance > radius + 1.5
    assert inside.any()
    assert outside.any()
    assert (converted.validity[inside] == MEASURED).all()
    assert (converted.validity[outside] == OUTSIDE).all()


@pytest.mark.parametrize("options", [{}, {"zoom": (1.0, 1.0, 1.0)}])
def test_on_the_scanners_own_grid_the_map_is_the_padding_itself(options: dict[str, Any]) -> None:
    case = Case()
    rng = np.random.default_rng(3)
    masks = [rng.random((case.rows, case.columns)) < 0.3 for _ in case.z_mm]
    slices = [(np.where(m, AIR, 20).astype(np.float32), m) for m in masks]
    converted = case.convert(slices, **options)
    assert converted.validity is not None
    np.testing.assert_array_equal(converted.validity == OUTSIDE, np.stack(masks))
    assert set(np.unique(converted.validity)) == {OUTSIDE, MEASURED}


def test_padding_in_one_slice_counts_for_the_planes_it_adds_to() -> None:
    case = Case()
    slices = case.uniform(20.0)
    padded = np.zeros((case.rows, case.columns), bool)
    padded[10:20, 10:20] = True
    slices[5] = (np.where(padded, AIR, 20).astype(np.float32), padded)
    converted = case.convert(slices, spacing_mm=(1.0, 1.5, 1.5))
    assert converted.validity is not None
    found = np.flatnonzero((converted.validity == OUTSIDE).any(axis=(1, 2)))
    assert found.tolist() == [13, 14, 15, 16, 17]
    for k in found:
        np.testing.assert_array_equal(converted.validity[k] == OUTSIDE, padded)
    assert np.abs(hu_from(converted)[converted.validity == MEASURED] - 20).max() < 0.1


def test_what_a_tilted_slice_does_not_reach_is_outside() -> None:
    case = Case(tilt=0.5)
    converted = case.convert(case.uniform(20.0), spacing_mm=(1.5, 1.5, 1.5))
    assert converted.validity is not None
    expected = np.zeros(converted.volume.shape, bool)
    planes = np.arange(converted.volume.shape[0]) * 1.5
    for plane, z in enumerate(planes):
        for k in {int(z // 3), int(np.ceil(z / 3))}:
            row, _ = case.pixel_of(converted, k)
            expected[plane] |= (row[plane] < -0.5) | (row[plane] > case.rows - 0.5)
    assert expected.mean() > 0.1
    np.testing.assert_array_equal(converted.validity == OUTSIDE, expected)


# --- lost slices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["upright", "tilted", "coronal"])
def test_planes_across_a_lost_slice_are_interpolated_ones(name: str) -> None:
    whole = CASES[name]
    case = Case(z_mm=tuple(z for z in whole.z_mm if z != 15.0), tilt=whole.tilt, orientation=whole.orientation)
    converted = case.convert(
        case.uniform(20.0), spacing_mm=(1.0, 1.5, 1.5) if name != "coronal" else (1.5, 1.0, 1.5)
    )
    assert converted.validity is not None
    axis = converted.geometry.slice_axis
    flat = np.moveaxis(converted.validity, axis, 0)
    index = np.zeros((flat.shape[0], 3))
    index[:, axis] = np.arange(flat.shape[0])
    affine = converted.geometry.affine_lps
    along = (index @ affine[:3, :3].T + affine[:3, 3]) @ case.axes[0]
    lost = (along > 12.001) & (along < 17.999)
    assert lost.sum() == 5
    inside = flat != OUTSIDE
    assert (flat[lost][inside[lost]] == INTERPOLATED).all()
    assert (flat[~lost][inside[~lost]] == MEASURED).all()
    assert inside.mean() > 0.6
    if name == "upright":
        assert inside.all()


def test_padding_goes_before_interpolated() -> None:
    case = Case(z_mm=tuple(3.0 * k for k in range(12) if k != 5))
    padded = disc(case)
    converted = case.convert(case.uniform(20.0, padded), spacing_mm=(1.0, 1.5, 1.5))
    assert converted.validity is not None
    for k in range(13, 18):
        np.testing.assert_array_equal(converted.validity[k] == OUTSIDE, padded)
        assert set(np.unique(converted.validity[k])) == {OUTSIDE, INTERPOLATED}
