"""Any acquisition that a scanner may make: the volume holds the phantom's HU, and says which voxels it measured.

Hypothesis draws the geometry, the gaps, the order, the tilt and how values are stored; the truth is the formula
of the phantom, and, for validity, the pixel that a voxel has in each slice by PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.config
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from etl.config import Config
from etl.dicom.sources import find_sources
from etl.phantom.files import PLANES, Acquisition, write_enhanced, write_series
from etl.phantom.head import Ellipsoid, HeadPhantom
from etl.plan.plan import SeriesTask, make_plan
from etl.process.read_hu import convert_task
from etl.scan.scan import merge_scans, scan_source
from etl.volume.convert import Converted

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
WINDOW_HU = (-1024, 3071)
BODY_HU, BLEED_HU = 40.0, 310.0
HU_RANGE = (-1000, 310)
# A cubic spline rings by 0.27 a pixel: after four, 1300 HU across an averaged edge are below 1 HU.
RING_PIXELS = 4.5
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.2"


class Blocks(HeadPhantom):
    """Two large bodies without any symmetry between them, so that most points are far from an edge."""

    @cached_property
    def structures(self) -> tuple[Ellipsoid, ...]:
        return (
            Ellipsoid("body", BODY_HU, np.array([6.0, -9.0, 4.0]), np.diag([1 / 88, 1 / 96, 1 / 92]), 88.0),
            Ellipsoid("bleed", BLEED_HU, np.array([31.0, 17.0, -11.0]), np.diag([1 / 42, 1 / 40, 1 / 44]), 40.0),
        )


PHANTOM = Blocks()


@dataclass(frozen=True)
class Scan:
    """What was drawn: the acquisition, and how its files lie about it or hide it."""

    acquisition: Acquisition
    order: tuple[int, ...]
    junk: int
    wrong_sign: bool
    lost: int | None

    @property
    def is_padded(self) -> bool:
        return self.acquisition.padding is not None


def rotation(angles_deg: tuple[float, float, float]) -> tuple[float, ...]:
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[one, two, one, two], [one, two, two, one]] = (
            np.cos(angle),
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
        )
        turned = turn @ turned
    return (*turned[:, 0].tolist(), *turned[:, 1].tolist())


@st.composite
def gaps_mm(draw: st.DrawFn) -> list[float]:
    """Equal gaps of either direction, or two thicknesses with or without an overlapping joint."""
    low = draw(st.sampled_from([2.0, 2.5, 3.7, 5.0]))
    if draw(st.booleans()):
        return [low * draw(st.sampled_from([1, -1]))] * draw(st.integers(9, 15))
    joint = draw(st.sampled_from([[], [0.52], [0.73], [1.08]]))
    high = draw(st.sampled_from([6.0, 7.0]))
    return [low] * draw(st.integers(4, 7)) + joint + [high] * draw(st.integers(3, 5))


@st.composite
def storage(draw: st.DrawFn, count: int) -> dict[str, Any]:
    """How values become stored ones: bits, sign, slope, intercept and padding, such that all HU fit."""
    representation = draw(st.sampled_from([0, 1]))
    bits = draw(st.sampled_from([12, 13, 14, 16]))
    slope = draw(st.sampled_from([1.0, 0.5])) if bits > 12 else 1.0
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if representation else (0, (1 << bits) - 1)
    lowest, highest = int(np.ceil(HU_RANGE[1] - slope * high)), int(HU_RANGE[0] - slope * (low + 1))
    an_intercept = st.integers(max(lowest, -2100), min(highest, 500)).map(float)
    same = draw(st.booleans())
    intercepts = [draw(an_intercept)] * count if same else [draw(an_intercept) for _ in range(count)]
    padding = None
    if draw(st.booleans()):
        first_hu = min((HU_RANGE[0] - intercept) / slope for intercept in intercepts)
        last_hu = max((HU_RANGE[1] - intercept) / slope for intercept in intercepts)
        free = [v for v in (low, -2000, -1500, 63536, high) if low <= v <= high and not first_hu <= v <= last_hu]
        padding = draw(st.sampled_from(free)) if free else None
    return {
        "pixel_representation": representation,
        "bits_stored": bits,
        "slope": slope,
        "intercept": intercepts[0] if same else tuple(intercepts),
        "padding": padding,
    }


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    gaps = draw(gaps_mm())
    count = len(gaps) + 1
    turn = st.floats(-30, 30).map(lambda v: round(v, 2))
    plane: str | tuple[float, ...] = draw(
        st.one_of(st.sampled_from(sorted(PLANES)), st.tuples(turn, turn, turn).map(rotation))
    )
    # Neither side of the 0.1 degrees from which a tilt is told; voxels are held to be right at any.
    tilt = draw(st.one_of(st.sampled_from([0.0, 0.05, -0.2]), st.floats(-25, 25).filter(lambda v: abs(v) > 0.15)))
    pixel = st.sampled_from([3.0, 3.4, 4.1])
    acquisition = Acquisition.regular(
        gaps_mm=gaps,
        orientation=plane,
        gantry_tilt_deg=round(tilt, 2),
        rows=draw(st.integers(53, 64)),
        columns=draw(st.integers(53, 64)),
        pixel_spacing_mm=(draw(pixel), draw(pixel)),
        thickness_mm=abs(gaps[-1]),
        supersample=2,
        **draw(storage(count)),
    )
    # As printed: pydicom's decimal string of 9.999999999999998 has a character too many.
    acquisition = replace(acquisition, positions_lps_mm=np.round(acquisition.positions_lps_mm, 6))
    regular = len(set(gaps)) == 1
    unused = 16 - acquisition.bits_stored
    return Scan(
        acquisition=acquisition,
        order=tuple(draw(st.permutations(range(count)))),
        junk=draw(st.integers(0, (1 << unused) - 1)) if unused else 0,
        wrong_sign=draw(st.booleans()),
        lost=draw(st.one_of(st.none(), st.integers(2, count - 3))) if regular else None,
    )


def write(folder: Path, scan: Scan) -> list[Path]:
    """Write the files; give them along the acquisition."""
    acquisition = scan.acquisition

    def edit(index: int, ds: pydicom.Dataset) -> None:
        words = np.frombuffer(ds.PixelData, "<u2")
        unused = 0xFFFF << acquisition.bits_stored & 0xFFFF
        if scan.junk:
            ds.PixelData = (
                (words & ~np.uint16(unused) | scan.junk << acquisition.bits_stored).astype("<u2").tobytes()
            )
        if scan.is_padded and scan.wrong_sign:
            value = int(ds.PixelPaddingValue)
            vr, other = ("SS", value - 65536) if value > 32767 else ("US", value % 65536)
            ds.add_new("PixelPaddingValue", vr, other)
        ds.InstanceNumber = 1

    written = write_series(
        folder, PHANTOM, acquisition, edit=edit, file_names=lambda index: f"I{scan.order[index] * 10}"
    )
    paths = [folder / one.path for one in written]
    if scan.lost is not None:
        paths.pop(scan.lost).unlink()
    return paths


def convert(folder: Path, spacing_mm: tuple[float, float, float]) -> tuple[SeriesTask, Converted]:
    config = Config(spacing_mm=spacing_mm, window=WINDOW_HU, precision_bits="full", max_gap_mm=11.0)
    plan = make_plan(merge_scans(map(scan_source, find_sources([str(folder)]))), config)
    assert not plan.settled
    [task] = plan.tasks
    return task, convert_task(task, config)[0]


def stored_hu(converted: Converted) -> Array:
    low, high = converted.normalization.window_hu
    return converted.volume.astype(float) * (high - low) + low


def validity_of(converted: Converted) -> NDArray[np.uint8]:
    absent = np.ones(converted.volume.shape, np.uint8)
    return absent if converted.validity is None else converted.validity


def centers_of(converted: Converted) -> Array:
    index = np.moveaxis(np.indices(converted.volume.shape), 0, -1)
    affine = converted.geometry.affine_lps
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])


@dataclass(frozen=True)
class Seen:
    """What the slices saw of points, by the files' own words."""

    measured: Bools
    """Both slices around have the pixel, and neighbors, none of them padding."""
    outside: Bools
    """Both slices around miss the point or have padding there, and for a pixel and a half about it."""
    across_a_loss: Bools
    unsure: Bools
    """On a slice beside a loss: on which side is a matter of rounding."""


def look(paths: list[Path], points: Array, scan: Scan) -> Seen:
    with pydicom.config.disable_value_validation():
        files = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        position = np.array([ds.ImagePositionPatient for ds in files], float)
    to_columns, to_rows = np.array(files[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(to_columns, to_rows)
    position = position[np.argsort(position @ normal)]
    along = position @ normal
    height, width = scan.acquisition.pixel_spacing_mm
    at = points @ normal
    below = np.clip(np.searchsorted(along, at + 1e-6) - 1, 0, len(along) - 2)
    measured, outside = np.ones(at.shape, bool), np.ones(at.shape, bool)
    for k in (below, below + 1):
        offset = points - position[k]
        # From the middle of the image, which is also the middle of the circle that padding leaves free.
        v = offset @ to_rows - (scan.acquisition.rows - 1) / 2 * height
        u = offset @ to_columns - (scan.acquisition.columns - 1) / 2 * width
        margin = 1.5 * max(height, width)
        half_v, half_u = scan.acquisition.rows * height / 2, scan.acquisition.columns * width / 2
        within = (np.abs(v) < half_v - margin) & (np.abs(u) < half_u - margin)
        beyond = (np.abs(v) > half_v + margin) | (np.abs(u) > half_u + margin)
        if scan.is_padded:
            radius = np.hypot(u, v)
            within &= radius < min(half_u, half_v) - margin
            beyond |= radius > min(half_u, half_v) + margin
        measured &= within
        outside &= beyond
    gap = np.diff(along)[below]
    on_a_slice = (np.abs(at - along[below]) < 0.01) | (np.abs(at - along[below + 1]) < 0.01)
    beside_a_loss = (scan.lost is not None) & (gap > 1.5 * np.median(np.diff(along)))
    return Seen(measured, outside, beside_a_loss, beside_a_loss & on_a_slice)


@settings(max_examples=25, deadline=None)
@given(scan=scans(), spacing=st.tuples(*[st.sampled_from([2.5, 3.5, 4.0])] * 3))
def test_volumes_hold_the_phantom_and_say_what_they_measured(
    scan: Scan, spacing: tuple[float, float, float]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        paths = write(folder, scan)
        task, converted = convert(folder, spacing)
        points = centers_of(converted)
        seen = look(paths, points, scan)
    hu, truth = stored_hu(converted), PHANTOM.hu(points)
    gap = float(max(np.abs(np.diff(task.layout.offset_mm[:, 0])))) + float(np.abs(spacing).max())
    margin = RING_PIXELS * max(*scan.acquisition.pixel_spacing_mm, *spacing) + gap
    clear = PHANTOM.is_smooth(points, margin) & seen.measured
    assert clear.sum() > 50
    assert np.abs(hu - truth)[clear].max() <= 1.0 + scan.acquisition.slope / 2

    validity = validity_of(converted)
    assert (validity[seen.measured & ~seen.across_a_loss & ~seen.unsure] == 1).all()
    assert (validity[seen.measured & seen.across_a_loss & ~seen.unsure] == 2).all()
    assert (validity[seen.outside] == 0).all()
    assert (hu[seen.outside] == WINDOW_HU[0]).all()
    assert converted.validity is None or (converted.validity != 1).any()

    expected = {
        "gantry-tilt": abs(scan.acquisition.gantry_tilt_deg) >= 0.1,
        "missing-slice": scan.lost is not None,
    }
    assert {code: code in task.entry.warnings for code in expected} == expected
    tilt = scan.acquisition.gantry_tilt_deg if expected["gantry-tilt"] else 0.0
    assert abs(converted.geometry.gantry_tilt_deg - tilt) < 0.02


@settings(max_examples=12, deadline=None)
@given(scan=scans())
def test_the_order_of_files_and_their_numbers_change_nothing(scan: Scan) -> None:
    with tempfile.TemporaryDirectory() as name:
        one, other = Path(name) / "one", Path(name) / "other"
        write(one, scan)
        reverse = Scan(scan.acquisition, scan.order[::-1], 0, wrong_sign=False, lost=scan.lost)
        write(other, reverse)
        (_, first), (_, second) = (convert(folder, (4.0, 4.0, 4.0)) for folder in (one, other))
    np.testing.assert_array_equal(first.volume, second.volume)
    np.testing.assert_array_equal(first.geometry.affine_lps, second.geometry.affine_lps)
    np.testing.assert_array_equal(validity_of(first), validity_of(second))


@settings(max_examples=10, deadline=None)
@given(scan=scans(), sop_class=st.sampled_from([ENHANCED_CT, LEGACY_CONVERTED_ENHANCED_CT]))
def test_a_multi_frame_file_gives_the_volume_of_its_slices_one_by_one(scan: Scan, sop_class: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        single, multi = Path(name) / "single", Path(name) / "multi"
        write_series(single, PHANTOM, scan.acquisition)
        written = write_enhanced(multi, PHANTOM, scan.acquisition)
        path = multi / written.path
        path.write_bytes(path.read_bytes().replace(ENHANCED_CT.encode(), sop_class.encode()))
        (_, one), (task, other) = (convert(folder, (4.0, 4.0, 4.0)) for folder in (single, multi))
    assert task.entry.slices == len(scan.order)
    np.testing.assert_array_equal(one.volume, other.volume)
    np.testing.assert_allclose(one.geometry.affine_lps, other.geometry.affine_lps, atol=1e-12)
    np.testing.assert_array_equal(validity_of(one), validity_of(other))
