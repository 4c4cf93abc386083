"""Voxels where they were in the patient: slices whose values are their own coordinates, converted and compared.

Splines and straight lines reproduce linear functions, so a stack whose HU are the x, y or z of each pixel
(DICOM PS3.3 C.7.6.2.1.1) must hold, in every voxel of the output, what ``affine_lps`` says of that voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its documentation's own name
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pairwise import each_once, pairwise
from scipy import ndimage

from etl.errors import SeriesError
from etl.volume.convert import Converted, convert
from etl.volume.geometry import Layout, lay_out
from etl.volume.grid import make_grid

Array = NDArray[np.float64]
WINDOW = (-500, 500)
WIDTH = WINDOW[1] - WINDOW[0]
# Slices that wander less than 0.005 mm share an operator; float32 and the spline's tails add little.
TOLERANCE_MM = 0.008
SPLINE_REACH = 9
"""Samples from a border after which a cubic spline no longer feels it: 0.268^9 is 1e-5."""


@dataclass(frozen=True)
class Acquired:
    """Slices as a scanner would send them, in an order of their own.

    ``to_columns`` points to larger columns and ``to_rows`` to larger rows; ``position`` holds the first pixels.
    """

    position: Array
    to_columns: Array
    to_rows: Array
    row_spacing: float
    column_spacing: float
    rows: int
    columns: int
    order: tuple[int, ...]

    @property
    def normal(self) -> Array:
        return np.cross(self.to_columns, self.to_rows)

    def layout(self, thickness_mm: float = float("nan")) -> Layout:
        return lay_out(
            self.position[list(self.order)],
            orientation=(*self.to_columns.tolist(), *self.to_rows.tolist()),
            pixel_spacing_mm=(self.row_spacing, self.column_spacing),
            rows=self.rows,
            columns=self.columns,
            thickness_mm=np.full(len(self.order), thickness_mm),
        )

    def pixels_lps(self) -> Array:
        """Center of every pixel of every slice along the normal, (n, rows, columns, 3), by C.7.6.2.1.1."""
        j, i = np.mgrid[: self.rows, : self.columns]
        along_columns = i[..., None] * self.column_spacing * self.to_columns
        along_rows = j[..., None] * self.row_spacing * self.to_rows
        return np.asarray(self.position[:, None, None] + along_columns + along_rows)

    def source_index(self, lps: Array, k: int) -> tuple[Array, Array]:
        """Fractional row and column of points, seen along the normal from slice k."""
        from_first = lps - self.position[k]
        return from_first @ self.to_rows / self.row_spacing, from_first @ self.to_columns / self.column_spacing


def acquire(
    to_columns: Array | tuple[float, ...],
    to_rows: Array | tuple[float, ...],
    *,
    gaps: Array | None = None,
    tilt_deg: float = 0.0,
    column_tilt_deg: float = 0.0,
    row_spacing: float = 0.7,
    column_spacing: float = 0.9,
    size: tuple[int, int] = (34, 38),
    seed: int = 0,
) -> Acquired:
    to_columns, to_rows = np.asarray(to_columns, float), np.asarray(to_rows, float)
    gaps = np.full(23, 1.6) if gaps is None else gaps
    along = np.concatenate([[0.0], np.cumsum(gaps)])
    step = np.cross(to_columns, to_rows)
    step = step + np.tan(np.radians(tilt_deg)) * to_rows + np.tan(np.radians(column_tilt_deg)) * to_columns
    return Acquired(
        position=np.array([21.5, -48.25, 33.125]) + np.outer(along, step),
        to_columns=to_columns,
        to_rows=to_rows,
        row_spacing=row_spacing,
        column_spacing=column_spacing,
        rows=size[0],
        columns=size[1],
        order=tuple(np.random.default_rng(seed).permutation(len(along)).tolist()),
    )


def converted(stack: Acquired, slices_hu: NDArray[np.floating], **grid: object) -> Converted:
    """Convert slices given along the normal; what `lay_out` made of the shuffled files picks them."""
    layout = stack.layout()
    as_files = slices_hu[list(stack.order)].astype(np.float32)
    options = {
        "spacing_mm": None,
        "zoom": None,
        "window": WINDOW,
        "center": "none",
        "precision_bits": "full",
        **grid,
    }
    return convert(((as_files[i].copy(), None) for i in layout.order), layout, **options)  # type: ignore[arg-type]


def voxels_lps(result: Converted) -> Array:
    """Where the affine says that each voxel is, (z, y, x, 3)."""
    index = np.moveaxis(np.indices(result.volume.shape), 0, -1)
    affine = result.geometry.affine_lps
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])


def measured_lps(stack: Acquired, **grid: object) -> tuple[Converted, Array]:
    """Convert three stacks that hold x, y and z; give what came out for each voxel, (z, y, x, 3)."""
    pixels = stack.pixels_lps()
    assert np.abs(pixels).max() < WINDOW[1]
    results = [converted(stack, pixels[..., axis], **grid) for axis in range(3)]
    found = np.stack([r.volume.astype(np.float64) * WIDTH + WINDOW[0] for r in results], axis=-1)
    return results[0], found


def inside_by_spacing(stack: Acquired, result: Converted, lps: Array, margin: float) -> NDArray[np.bool_]:
    """Voxels for which every slice that may contribute has a pixel, `margin` pixels from its border."""
    along, at = stack.position @ stack.normal, lps @ stack.normal
    reach = gaussian_reach_mm(stack, result)
    inside = (at - reach >= along[0] - 1e-6) & (at + reach <= along[-1] + 1e-6)
    for contributes, row, column in contributions(stack, result, lps):
        far = (row >= margin) & (row <= stack.rows - 1 - margin)
        far &= (column >= margin) & (column <= stack.columns - 1 - margin)
        inside &= far | ~contributes
    return np.asarray(inside)


def gaussian_reach_mm(stack: Acquired, result: Converted) -> float:
    """How far the Gaussian against aliasing reaches along the normal."""
    gap = float(np.median(np.diff(stack.position @ stack.normal)))
    step = result.geometry.spacing_mm[result.geometry.slice_axis]
    return 4 * gap * max(0.0, (step / gap - 1) / 2)


def contributions(
    stack: Acquired, result: Converted, lps: Array
) -> Iterator[tuple[NDArray[np.bool_], Array, Array]]:
    """Per slice: which voxels it may contribute to, and over which of its rows and columns they lie."""
    along, at = stack.position @ stack.normal, lps @ stack.normal
    reach = gaussian_reach_mm(stack, result) + 1e-6
    bounds = np.concatenate([[-np.inf], along, [np.inf]])
    for k in range(len(along)):
        yield ((bounds[k] < at + reach) & (bounds[k + 2] > at - reach), *stack.source_index(lps, k))


def in_plane_margin(stack: Acquired, spacing: tuple[float, float, float], result: Converted) -> float:
    """Pixels from the border that spline and Gaussian feel."""
    pixel = min(stack.row_spacing, stack.column_spacing)
    return SPLINE_REACH + 4 * max(0.0, (max(spacing) / pixel - 1) / 2)


def compare_by_spacing(stack: Acquired, spacing: tuple[float, float, float]) -> int:
    """Compare where voxels lie well inside; give how many do."""
    result, found = measured_lps(stack, spacing_mm=spacing)
    lps = voxels_lps(result)
    slice_axis = result.geometry.slice_axis
    plane_steps = tuple(s for axis, s in enumerate(spacing) if axis != slice_axis)
    margin = in_plane_margin(stack, (*plane_steps, 0.0), result)
    inside = inside_by_spacing(stack, result, lps, margin)
    if inside.any():
        assert np.abs(found - lps)[inside].max() <= TOLERANCE_MM
    return int(inside.sum())


def compare_by_zoom(stack: Acquired, zoom: tuple[float, float, float] | None) -> int:
    """Compare a zoomed or native volume where the spline does not feel a border; give how many voxels that are."""
    result, found = measured_lps(stack, zoom=zoom)
    lps = voxels_lps(result)
    along = stack.position @ stack.normal
    slice_at = np.interp(lps @ stack.normal, along, np.arange(len(along)))
    first = np.stack([np.interp(slice_at, np.arange(len(along)), p) for p in stack.position.T], axis=-1)
    row, column = ((lps - first) @ stack.to_rows) / stack.row_spacing, ((lps - first) @ stack.to_columns)
    index = (slice_at, row, column / stack.column_spacing)
    margin = 0 if zoom is None else SPLINE_REACH
    inside = np.ones(lps.shape[:3], bool)
    for at, length in zip(index, (len(along), stack.rows, stack.columns), strict=True):
        inside &= (at >= margin - 1e-3) & (at <= length - 1 - margin + 1e-3)
    assert np.abs(found - lps)[inside].max() <= TOLERANCE_MM
    if zoom is None:
        assert inside.all()
        assert max(np.abs(at - np.rint(at)).max() for at in index) < 1e-3
        assert lps[..., 0].size == len(along) * stack.rows * stack.columns
    return int(inside.sum())


def turned(*angles_deg: float) -> tuple[Array, Array]:
    """Columns' and rows' directions of an axial slice turned about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        c, s = np.cos(angle), np.sin(angle)
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        matrix = turn @ matrix
    return matrix[:, 0], matrix[:, 1]


X, Y, Z = np.eye(3)
STACKS = {
    "axial": acquire(X, Y),
    "axial-prone": acquire(-X, -Y),
    "axial-mirrored-columns": acquire(-X, Y),
    "axial-mirrored-rows": acquire(X, -Y),
    "axial-rows-along-x": acquire(Y, X),
    "coronal": acquire(X, -Z),
    "coronal-from-behind": acquire(-X, -Z),
    "sagittal": acquire(Y, -Z),
    "sagittal-from-the-right": acquire(-Y, -Z),
    "oblique": acquire(*turned(18.0, -7.0, 33.0)),
    "far-oblique": acquire(*turned(130.0, 50.0, -75.0)),
    "tilt+25": acquire(X, [0, np.cos(np.radians(25)), np.sin(np.radians(25))], tilt_deg=25),
    "tilt-25": acquire(X, [0, np.cos(np.radians(25)), -np.sin(np.radians(25))], tilt_deg=-25),
    "tilt+25-feet-first": acquire(-X, [0, np.cos(np.radians(25)), np.sin(np.radians(25))], tilt_deg=25),
    "tilted-sagittal": acquire(Y, -Z, tilt_deg=-12.5),
    "tilted-to-columns": acquire(X, Y, column_tilt_deg=9.0),
    "tilted-both-ways-oblique": acquire(*turned(-20, 40, 10), tilt_deg=8, column_tilt_deg=-6),
}
TWO_THICKNESSES = np.array([4.0] * 6 + [1.08] + [7.0] * 5)
IRREGULAR = {
    "4-and-7-mm": acquire(X, Y, gaps=TWO_THICKNESSES),
    "4-and-7-mm-tilted": acquire(
        X, [0, np.cos(np.radians(20)), np.sin(np.radians(20))], gaps=TWO_THICKNESSES, tilt_deg=20, size=(60, 40)
    ),
    "4-and-7-mm-coronal": acquire(X, -Z, gaps=TWO_THICKNESSES[::-1]),
    "jitter-oblique": acquire(*turned(25, 10, 5), gaps=np.random.default_rng(3).uniform(0.4, 2.5, 20)),
    "lost-slice": acquire(X, Y, gaps=np.array([2.0] * 5 + [4.0] + [2.0] * 5)),
}
ANY = {**STACKS, **IRREGULAR}
SPACINGS = [(1.0, 1.0, 1.0), (0.8, 0.45, 0.6), (2.1, 1.3, 1.5)]
ZOOMS = [(1.0, 0.5, 0.5), (0.7, 1.3, 0.8), (1.5, 1.0, 1.0), None]


@pytest.mark.parametrize(("name", "spacing"), each_once(list(ANY), SPACINGS), ids=str)
def test_by_spacing_every_voxel_holds_the_point_that_the_affine_gives(
    name: str, spacing: tuple[float, float, float]
) -> None:
    assert compare_by_spacing(ANY[name], spacing) > 300


@pytest.mark.parametrize(("name", "zoom"), each_once(list(STACKS), ZOOMS), ids=str)
def test_by_zoom_or_native_every_voxel_holds_the_point_that_the_affine_gives(
    name: str, zoom: tuple[float, float, float] | None
) -> None:
    compared = compare_by_zoom(STACKS[name], zoom)
    assert compared > 200
    assert zoom is not None or compared == 24 * 34 * 38


angles = st.floats(-180, 180)
tilts = st.just(0.0) | st.floats(0.5, 25) | st.floats(-25, -0.5)
shares = st.floats(0.4, 1.8)


stacks = st.builds(
    lambda turn, tilt, column_tilt, gap: acquire(
        *turned(*turn), tilt_deg=tilt, column_tilt_deg=column_tilt, gaps=np.full(11, gap), size=(14, 16)
    ),
    st.tuples(angles, angles, angles),
    tilts,
    tilts,
    st.floats(0.6, 2.5),
)
"""Regular stacks of 12 slices: any orientation, any tilt."""


@settings(deadline=None, max_examples=25)
@given(
    turn=st.tuples(angles, angles, angles),
    tilt=tilts,
    gaps=st.floats(0.6, 2.5).map(lambda gap: [gap] * 18) | st.lists(st.floats(0.4, 2.5), min_size=18, max_size=18),
    pixel=st.tuples(st.floats(0.5, 1.2), st.floats(0.5, 1.2)),
    share=st.tuples(shares, shares, shares),
    seed=st.integers(0, 99),
)
def test_any_stack_by_spacing_lies_where_the_affine_says(
    turn: tuple[float, ...],
    tilt: float,
    gaps: list[float],
    pixel: tuple[float, float],
    share: tuple[float, float, float],
    seed: int,
) -> None:
    stack = acquire(
        *turned(*turn), gaps=np.array(gaps), tilt_deg=tilt, row_spacing=pixel[0], column_spacing=pixel[1],
        size=(36, 32), seed=seed,
    )  # fmt: skip
    axis = make_grid(stack.layout(), spacing_mm=(1.0, 1.0, 1.0)).geometry.slice_axis
    spacing = [s * min(pixel) for s in share]
    spacing[axis] = share[axis] * float(np.median(gaps))
    assume(compare_by_spacing(stack, (spacing[0], spacing[1], spacing[2])) > 0)


@settings(deadline=None, max_examples=25)
@given(
    turn=st.tuples(angles, angles, angles),
    tilt=tilts,
    column_tilt=tilts,
    gap=st.floats(0.6, 2.5),
    pixel=st.tuples(st.floats(0.5, 1.2), st.floats(0.5, 1.2)),
    zoom=st.none() | st.tuples(shares, shares, shares),
    seed=st.integers(0, 99),
)
def test_any_stack_by_zoom_or_native_lies_where_the_affine_says(
    turn: tuple[float, ...],
    tilt: float,
    column_tilt: float,
    gap: float,
    pixel: tuple[float, float],
    zoom: tuple[float, float, float] | None,
    seed: int,
) -> None:
    stack = acquire(
        *turned(*turn), gaps=np.full(23, gap), tilt_deg=tilt, column_tilt_deg=column_tilt, row_spacing=pixel[0],
        column_spacing=pixel[1], size=(24, 26), seed=seed,
    )  # fmt: skip
    assert compare_by_zoom(stack, zoom) > 0


@pytest.mark.parametrize(
    "name", ["axial", "tilt+25", "tilt-25", "tilted-sagittal", "tilted-both-ways-oblique", *IRREGULAR]
)
def test_what_no_slice_reaches_is_air(name: str) -> None:
    stack = ANY[name]
    result = converted(stack, np.full(stack.pixels_lps().shape[:3], 40.0), spacing_mm=(1.0, 1.0, 1.0))
    hu = result.volume.astype(np.float64) * WIDTH + WINDOW[0]
    lps = voxels_lps(result)
    out = np.ones(hu.shape, bool)
    for contributes, row, column in contributions(stack, result, lps):
        near = (row > -0.51) & (row < stack.rows - 0.49) & (column > -0.51) & (column < stack.columns - 0.49)
        out &= ~(near & contributes)
    assert (hu[out] == WINDOW[0]).all()
    everywhere = inside_by_spacing(stack, result, lps, -0.49)
    # Constant up to the border of the field: what lies outside does not ring into it.
    assert np.abs(hu[everywhere] - 40).max() <= 0.01
    if "tilt" in name:
        assert out.sum() > 50


@given(stacks)
def test_axes_grow_to_superior_posterior_and_left_as_near_as_the_scan_allows(stack: Acquired) -> None:
    geometry = make_grid(stack.layout(), spacing_mm=(1.0, 1.0, 1.0)).geometry
    directions = geometry.affine_lps[:3, :3].T
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-9)
    wanted = np.array([Z, Y, X])
    achieved = float((directions * wanted).sum())
    for order in permutations(range(3)):
        for signs in product((-1, 1), repeat=3):
            other = directions[list(order)] * np.array(signs)[:, None]
            assert float((other * wanted).sum()) <= achieved + 1e-9


RIGHT_HANDED = [(a * s, b * t) for (a, b), s, t in pairwise(list(permutations(np.eye(3), 2)), (-1, 1), (-1, 1))]


@pytest.mark.parametrize(("to_columns", "to_rows"), RIGHT_HANDED, ids=[f"{c}{r}" for c, r in RIGHT_HANDED])
def test_native_axes_are_those_of_itk_in_lps_order(to_columns: Array, to_rows: Array) -> None:
    stack = acquire(to_columns, to_rows, gaps=np.full(4, 2.0), size=(7, 6))
    values = np.random.default_rng(1).uniform(-400, 400, (5, 7, 6)).astype(np.float32)
    oriented = sitk.DICOMOrient(itk_image(stack, values), "LPS")
    result = converted(stack, values)
    np.testing.assert_allclose(result.volume * WIDTH + WINDOW[0], sitk.GetArrayFromImage(oriented), atol=1e-3)
    np.testing.assert_allclose(result.geometry.affine_lps[:3, 3], oriented.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(result.geometry.spacing_mm, oriented.GetSpacing()[::-1], atol=1e-9)


def itk_image(stack: Acquired, values: NDArray[np.float32]) -> sitk.Image:
    """Give a regular, upright stack as ITK holds it: index (i, j, k), columns of the direction to match."""
    image = sitk.GetImageFromArray(values)
    gap = float(np.linalg.norm(stack.position[1] - stack.position[0]))
    image.SetSpacing((stack.column_spacing, stack.row_spacing, gap))
    image.SetOrigin(stack.position[0].tolist())
    image.SetDirection(np.stack([stack.to_columns, stack.to_rows, stack.normal], axis=1).ravel().tolist())
    return image


@pytest.mark.parametrize("name", ["axial", "axial-prone", "coronal", "sagittal", "oblique", "far-oblique"])
def test_between_slices_the_volume_is_itks_linear_resampling(name: str) -> None:
    """In plane the grids coincide, so only the interpolation along the normal is at work."""
    stack = STACKS[name]
    values = np.random.default_rng(2).uniform(-450, 450, stack.pixels_lps().shape[:3]).astype(np.float32)
    native = make_grid(stack.layout()).geometry
    spacing = list(native.spacing_mm)
    spacing[native.slice_axis] = 0.7
    result = converted(stack, values, spacing_mm=tuple(spacing))
    affine = result.geometry.affine_lps
    steps = affine[:3, 2::-1]
    resampled = sitk.Resample(
        itk_image(stack, values),
        result.volume.shape[::-1],
        sitk.Transform(),
        sitk.sitkLinear,
        affine[:3, 3].tolist(),
        result.geometry.spacing_mm[::-1],
        (steps / np.linalg.norm(steps, axis=0)).ravel().tolist(),
        -1024.0,
    )
    # A hundred thousandth of the range is what the banded spline may lose.
    np.testing.assert_allclose(result.volume * WIDTH + WINDOW[0], sitk.GetArrayFromImage(resampled), atol=0.01)


@pytest.mark.parametrize("zoom", [(1.0, 0.5, 0.5), (0.6, 1.4, 0.9)], ids=str)
def test_zoom_is_scipys_zoom_of_the_sorted_stack(zoom: tuple[float, float, float]) -> None:
    stack = acquire(X, Y)
    hu = np.random.default_rng(4).uniform(-1000, 2000, (24, 34, 38)).astype(np.float32)
    result = converted(stack, hu, zoom=zoom, window=(-1000, 2000), center="volume", precision_bits=13)
    expected = (np.clip(ndimage.zoom(hu.astype(np.float64), zoom, mode="nearest"), -1000, 2000) + 1000) / 3000
    expected -= expected.mean()
    assert result.volume.shape == expected.shape
    # Planes are added up in float32 where the zoom mixes slices; the article's does not.
    beyond_rounding_hu = 1e-4 if zoom[0] == 1 else 1e-3
    assert np.abs(result.volume - expected).max() <= 2.0**-14 + beyond_rounding_hu / 3000


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(12)))
def test_the_order_of_files_changes_no_byte(order: list[int]) -> None:
    sorted_stack = STACKS["tilt+25"]
    values = np.random.default_rng(6).uniform(-450, 450, (12, 34, 38))
    volumes = []
    for files in (tuple(range(12)), tuple(order)):
        stack = Acquired(**{**vars(sorted_stack), "position": sorted_stack.position[:12], "order": files})
        volumes.append(converted(stack, values, spacing_mm=(1.0, 2.0, 2.0)))
    assert volumes[0].volume.tobytes() == volumes[1].volume.tobytes()
    np.testing.assert_array_equal(volumes[0].geometry.affine_lps, volumes[1].geometry.affine_lps)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_the_field_of_view_keeps_its_center_and_the_first_plane_its_slice(
    spacing: tuple[float, float, float],
) -> None:
    stack = acquire(X, Y)
    geometry = make_grid(stack.layout(), spacing_mm=spacing).geometry
    extent = (34 * 0.7, 38 * 0.9)
    length = 23 * 1.6
    assert geometry.shape[1:] == tuple(round(e / s) for e, s in zip(extent, spacing[1:], strict=True))
    assert length - spacing[0] < (geometry.shape[0] - 1) * spacing[0] <= length + 1e-3 * spacing[0]
    assert geometry.spacing_mm == pytest.approx(spacing)
    middle = geometry.affine_lps @ [0, (geometry.shape[1] - 1) / 2, (geometry.shape[2] - 1) / 2, 1]
    pixels = stack.pixels_lps()[0]
    np.testing.assert_allclose(middle[:3], (pixels[0, 0] + pixels[-1, -1]) / 2, atol=1e-9)


@settings(max_examples=50)
@given(stacks | st.sampled_from(list(IRREGULAR.values())))
def test_by_spacing_the_volume_is_orthogonal_and_covers_every_pixel(stack: Acquired) -> None:
    spacing = (0.9, 0.8, 0.7)
    geometry = make_grid(stack.layout(), spacing_mm=spacing).geometry
    np.testing.assert_allclose(np.linalg.norm(geometry.affine_lps[:3, :3], axis=0), spacing, atol=1e-9)
    points = stack.pixels_lps().reshape(-1, 3)
    index = np.linalg.solve(geometry.affine_lps, np.c_[points, np.ones(len(points))].T)[:3]
    for axis, at in enumerate(index):
        # Whole voxels cover a field to half a voxel; the last plane lies not beyond the last slice.
        slack = 1.0 if axis == geometry.slice_axis else 0.25
        assert at.min() >= (-0.5 - slack)
        assert at.max() <= geometry.shape[axis] - 0.5 + slack


@settings(max_examples=50)
@given(stacks, st.tuples(*[st.floats(0.4, 1.8)] * 3))
def test_by_zoom_the_outer_voxels_are_the_outer_pixels(stack: Acquired, zoom: tuple[float, float, float]) -> None:
    geometry = make_grid(stack.layout(), zoom=zoom).geometry
    corners = np.array(list(product(*[(0, n - 1) for n in geometry.shape])))
    found = corners @ geometry.affine_lps[:3, :3].T + geometry.affine_lps[:3, 3]
    pixels = stack.pixels_lps()[np.ix_((0, -1), (0, -1), (0, -1))].reshape(-1, 3)
    for point in pixels:
        assert np.linalg.norm(found - point, axis=1).min() < 1e-6
    lengths = geometry.source_shape
    assert geometry.shape == tuple(round(n * f) for n, f in zip(lengths, zoom, strict=True))


def _axial(position: Array) -> Acquired:
    to_columns, to_rows = np.eye(3)[:2]
    return Acquired(position, to_columns, to_rows, 0.5, 0.5, 16, 16, tuple(range(len(position))))


@pytest.mark.parametrize("zoom", [(1.0, 0.5, 0.5), None], ids=str)
def test_gaps_that_add_up_to_another_place_are_no_even_spacing(zoom: tuple[float, float, float] | None) -> None:
    along = np.concatenate([[0], np.cumsum([0.99] * 100 + [1.01] * 100)])
    layout = _axial(np.outer(along, [0.0, 0.0, 1.0])).layout()
    assert layout.is_regular
    with pytest.raises(SeriesError, match=r"1\.000 mm off") as raised:
        make_grid(layout, zoom=zoom)
    assert raised.value.code == "inconsistent-slices"


def test_a_drift_too_small_for_a_tilt_still_stands_in_the_affine() -> None:
    along = np.arange(0, 601.0)
    stack = _axial(along[:, None] * [0.0, np.tan(np.radians(0.095)), 1.0])
    assert stack.layout().gantry_tilt_deg == 0
    last = make_grid(stack.layout()).geometry.affine_lps @ [600.0, 0, 0, 1]
    np.testing.assert_allclose(last[:3], stack.position[-1], atol=1e-6)


@pytest.mark.parametrize("zoom", [(0.04, 0.5, 0.5), (1.0, 0.03, 0.5)], ids=str)
def test_a_zoom_that_leaves_nothing_is_refused(zoom: tuple[float, float, float]) -> None:
    with pytest.raises(SeriesError, match="leaves nothing") as raised:
        make_grid(_axial(np.outer(np.arange(12.0), [0.0, 0.0, 1.0])).layout(), zoom=zoom)
    assert raised.value.code == "inconsistent-slices"


@settings(max_examples=50)
@given(stacks, st.sampled_from([{"spacing_mm": (1.0, 0.9, 0.8)}, {"zoom": (0.8, 0.7, 0.9)}, {}]))
@example(IRREGULAR["4-and-7-mm-tilted"], {"spacing_mm": (1.0, 0.9, 0.8)})
@example(IRREGULAR["jitter-oblique"], {"spacing_mm": (1.0, 0.9, 0.8)})
def test_slices_are_found_again_along_the_slice_axis(stack: Acquired, grid: dict[str, object]) -> None:
    result = converted(stack, np.zeros(stack.pixels_lps().shape[:3]), **grid)
    axis, affine = result.geometry.slice_axis, result.geometry.affine_lps
    direction = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
    if abs(direction @ stack.normal) > 1 - 1e-9:
        np.testing.assert_allclose(result.position_mm, stack.position @ direction, atol=1e-6)
    plane = (result.position_mm - direction @ affine[:3, 3]) / result.geometry.spacing_mm[axis]
    on_plane = affine[:3, 3] + plane[:, None] * affine[:3, axis]
    np.testing.assert_allclose(on_plane @ stack.normal, stack.position @ stack.normal, atol=1e-6)


@pytest.mark.parametrize("own_axis", [0, 1, 2], ids=["slices", "rows", "columns"])
def test_detail_finer_than_the_grid_does_not_alias_along_any_axis(own_axis: int) -> None:
    stack = acquire(X, Y, gaps=np.full(35, 1.0), row_spacing=1.0, column_spacing=1.0, size=(36, 36))
    alternating = np.where(np.indices((36, 36, 36))[own_axis] % 2, 100.0, -100.0)
    spacing = [1.0, 1.0, 1.0]
    spacing[own_axis] = 3.0
    result = converted(stack, alternating, spacing_mm=tuple(spacing))
    assert result.volume.shape[own_axis] == 12
    middle = (result.volume.astype(np.float64) * WIDTH + WINDOW[0]).take(range(4, 8), axis=own_axis)
    # A Gaussian of one sample passes 1.4 % of the finest detail; without one, all of it may stay.
    assert np.abs(middle).max() < 2


def test_the_geometry_tells_size_and_spacing_of_the_source_in_the_volumes_order() -> None:
    geometry = make_grid(acquire(Y, -Z).layout(), spacing_mm=(1.0, 1.0, 1.0)).geometry
    # Sagittal: rows run down, columns to the back, slices to a side.
    assert geometry.slice_axis == 2
    assert geometry.source_shape == (34, 38, 24)
    assert geometry.source_spacing_mm == pytest.approx((0.7, 0.9, 1.6))


def test_a_length_that_falls_short_by_a_printed_digit_loses_no_plane() -> None:
    stack = acquire(X, Y, gaps=np.full(10, 1.0 - 1e-7))
    assert make_grid(stack.layout(), spacing_mm=(1.0, 1.0, 1.0)).geometry.shape[0] == 11


@given(stacks)
def test_the_tilt_is_kept_with_the_volume(stack: Acquired) -> None:
    geometry = make_grid(stack.layout(), spacing_mm=(1.0, 1.0, 1.0)).geometry
    step = stack.position[1] - stack.position[0]
    expected = np.degrees(np.arccos(np.clip(step @ stack.normal / np.linalg.norm(step), -1, 1)))
    assert abs(geometry.gantry_tilt_deg) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("grid", [{"zoom": (1.0, 0.5, 0.5)}, {}], ids=["zoom", "native"])
@pytest.mark.parametrize(
    ("gaps", "code", "numbers"),
    [
        ([4.0] * 4 + [1.08] + [7.0] * 4, "inconsistent-slices", "1.080 to 7.000 mm"),
        ([5.0, 5.0, 10.0, 5.0], "missing-slices", "5.000 to 10.000 mm"),
    ],
)
def test_zoom_and_native_refuse_slices_at_unequal_distances(
    gaps: list[float], code: str, numbers: str, grid: dict[str, tuple[float, float, float]]
) -> None:
    with pytest.raises(SeriesError, match=numbers) as raised:
        make_grid(acquire(X, Y, gaps=np.array(gaps)).layout(), **grid)
    assert raised.value.code == code


def test_zoom_and_native_refuse_slices_that_jump_in_plane_and_spacing_takes_them() -> None:
    along = np.arange(12.0)
    layout = _axial(np.stack([np.where(along < 6, 0.0, 0.5), 0 * along, along], axis=1)).layout()
    for grid in ({"zoom": (1.0, 0.5, 0.5)}, {}):
        with pytest.raises(SeriesError, match="jump in plane") as raised:
            make_grid(layout, **grid)  # type: ignore[arg-type]
        assert raised.value.code == "inconsistent-slices"
    assert make_grid(layout, spacing_mm=(1.0, 0.5, 0.5)).geometry.shape[0] == 12


def test_positions_printed_with_two_decimals_move_no_voxel() -> None:
    exact = acquire(X, Y, gaps=np.full(23, 0.625))
    printed = Acquired(**{**vars(exact), "position": np.round(exact.position, 2)})
    for grid in ({"spacing_mm": (1.0, 1.0, 1.0)}, {"zoom": None}):
        one, two = (make_grid(stack.layout(), **grid).geometry for stack in (exact, printed))  # type: ignore[arg-type]
        assert one.shape == two.shape
        np.testing.assert_allclose(one.affine_lps, two.affine_lps, atol=0.006)
