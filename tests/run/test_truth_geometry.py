"""Every voxel where it was in the patient, or the right refusal: phantoms as DICOM, pydicom and numpy to judge.

The judge reads the files with pydicom and samples them with numpy: bilinear in each slice, at the pixel that the
point has in *that* slice (PS3.3 C.7.6.2.1.1), then linear between the two slices around it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pairwise import each_once, pairwise
from pydicom.uid import UID

from etl.config import Config
from etl.entry import Entry
from etl.phantom.files import Acquisition, synthetic_uid, write_series
from etl.phantom.head import HeadPhantom
from etl.read.patients import Store, Volume, open_store
from etl.run.run import run

Array = NDArray[np.float64]
WINDOW_HU = (-1024, 3071)
OFFSETS_MM = (-0.6, 0.0, 0.6)
TISSUE_HU = (-200.0, 300.0)
SERIES_UID = synthetic_uid("truth")
HEAD = HeadPhantom(turn_deg=(4, -6, 5), shift_mm=(2, -3, 1.5))


# --- the pipeline, in this process ----------------------------------------------------------------------


@dataclass(frozen=True)
class Landed:
    """What became of a folder: the ledger's lines and what is in the store."""

    entries: tuple[Entry, ...]
    store: Store | None

    @property
    def outcomes(self) -> list[tuple[str, str | None]]:
        return sorted((e.outcome, e.reason) for e in self.entries)

    @property
    def written(self) -> list[Entry]:
        def order(entry: Entry) -> tuple[str, int]:
            # The stacks of a series in the order in which they were told apart.
            return entry.series_instance_uid, self.volume(entry).attributes["stack"]

        return sorted((e for e in self.entries if e.outcome == "written"), key=order)

    def volume(self, entry: Entry) -> Volume:
        assert self.store is not None
        return self.store[entry.patient_id][entry.series_key]

    def only(self) -> tuple[Entry, Volume]:
        [entry] = self.entries
        assert entry.outcome == "written", entry
        return entry, self.volume(entry)


def land(store: Path, *inputs: Path, **options: Any) -> Landed:
    """Run on the inputs in this process, without drawing the report."""
    grid = {} if {"native", "zoom"} & options.keys() else {"spacing_mm": (2.0, 2.0, 2.0)}
    fixed = {"window": WINDOW_HU, "precision_bits": "full", "workers": 0, "quiet": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etl.report.page.write_report", lambda *_, **__: None)
        entries = run(list(map(str, inputs)), str(store), Config(**{**grid, **fixed, **options})).entries
    assert not [entry for entry in entries if entry.reason == "internal-error"]
    has_volume = any(entry.outcome == "written" for entry in entries)
    return Landed(entries, open_store(store) if has_volume else None)


# --- the judge: pydicom and numpy -----------------------------------------------------------------------


class Slices:
    """Slices of one stack as their files describe them, along their normal."""

    def __init__(self, paths: Iterable[Path]) -> None:
        files = [pydicom.dcmread(path) for path in paths]
        first = files[0]
        self.to_columns, self.to_rows = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
        self.normal = np.cross(self.to_columns, self.to_rows)
        files.sort(key=lambda ds: float(np.array(ds.ImagePositionPatient, float) @ self.normal))
        self.position = np.array([ds.ImagePositionPatient for ds in files], float)
        self.spacing = np.array(first.PixelSpacing, float)
        self.uids = [str(ds.SOPInstanceUID) for ds in files]
        self.hu = np.stack(
            [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in files]
        ).astype(np.float32)
        self.along = self.position @ self.normal

    def __call__(self, points: Array) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Give HU at LPS points, and whether the two slices around each of them reach it."""
        at = points @ self.normal
        below = np.clip(np.searchsorted(self.along, at, side="right") - 1, 0, len(self.along) - 2)
        share = (at - self.along[below]) / np.diff(self.along)[below]
        low, low_inside = self._in_slice(points, below)
        high, high_inside = self._in_slice(points, below + 1)
        inside = low_inside & high_inside & (share >= -1e-6) & (share <= 1 + 1e-6)
        return np.asarray(low * (1 - share) + high * share, np.float32), inside

    def _in_slice(self, points: Array, k: NDArray[np.intp]) -> tuple[Array, NDArray[np.bool_]]:
        offset = points - self.position[k]
        rows, columns = offset @ self.to_rows / self.spacing[0], offset @ self.to_columns / self.spacing[1]
        _, height, width = self.hu.shape
        inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
        j = np.clip(np.floor(rows).astype(int), 0, height - 2)
        i = np.clip(np.floor(columns).astype(int), 0, width - 2)
        v, u = np.clip(rows - j, 0, 1), np.clip(columns - i, 0, 1)
        top = self.hu[k, j, i] * (1 - u) + self.hu[k, j, i + 1] * u
        bottom = self.hu[k, j + 1, i] * (1 - u) + self.hu[k, j + 1, i + 1] * u
        return top * (1 - v) + bottom * v, inside


@dataclass(frozen=True)
class Agreement:
    """How a volume compares with its slices."""

    shift_voxels: tuple[float, float, float]
    """Along (z, y, x): where the squared difference is least, in voxels."""
    tissue_hu: float
    """Median absolute difference where there is tissue."""


def compare(volume: Volume, truth: Slices, *, points: int = 20_000) -> Agreement:
    """Hold a volume against its slices at random voxels of it."""
    rng = np.random.default_rng(len(truth.uids))
    index = np.stack([rng.integers(0, n, points) for n in volume.shape], axis=1)
    affine = np.asarray(volume.affine_lps)
    centers = index @ affine[:3, :3].T + affine[:3, 3]
    stored = volume.to_hu()[tuple(index.T)]
    expected, inside = truth(centers)
    inside &= volume.validity()[tuple(index.T)] > 0
    steps = affine[:3, :3] / np.asarray(volume.spacing_mm)
    sampled = [[truth(centers + mm * step) for mm in OFFSETS_MM] for step in steps.T]
    for along_axis in sampled:
        for _, reached in along_axis:
            inside &= reached
    assert inside.sum() > 1500, "the volume hardly lies where its slices are"
    tissue = inside & (expected > TISSUE_HU[0]) & (expected < TISSUE_HU[1])
    assert tissue.sum() > 200
    shifts = []
    for axis, along_axis in enumerate(sampled):
        before, at, after = (float(np.mean((hu - stored)[inside].astype(float) ** 2)) for hu, _ in along_axis)
        assert at < min(before, after), f"axis {axis}: {before}, {at}, {after}"
        vertex_mm = OFFSETS_MM[2] * (before - after) / (2 * (before - 2 * at + after))
        shifts.append(vertex_mm / volume.spacing_mm[axis])
    z, y, x = shifts
    return Agreement((z, y, x), float(np.median(np.abs(stored - expected)[tissue])))


def assert_right(volume: Volume, truth: Slices, *, points: int = 20_000) -> None:
    """Hold that voxels, affine and source map are those of the slices."""
    found = compare(volume, truth, points=points)
    assert max(np.abs(found.shift_voxels)) < 0.1, found
    assert found.tissue_hu < 3, found
    affine = np.asarray(volume.affine_lps)[:3, :3]
    np.testing.assert_allclose(affine.T @ affine, np.diag(np.square(volume.spacing_mm)[[0, 1, 2]]), atol=1e-4)
    assert np.linalg.det(affine[:, ::-1]) > 0, "(x, y, z) must be right-handed"
    assert (affine[[2, 1, 0], [0, 1, 2]] > 0).all() or not _is_near_the_patients_axes(affine)
    _assert_source_map(volume, truth)


def _is_near_the_patients_axes(affine: Array) -> bool:
    steps = np.abs(affine / np.linalg.norm(affine, axis=0))
    return bool((steps.max(axis=0) > 0.8).all())


def _assert_source_map(volume: Volume, truth: Slices) -> None:
    """Plane to slice and back, against the distance along the normal."""
    affine, axis = np.asarray(volume.affine_lps), volume.slice_axis
    planes = affine[:3, 3] + np.outer(np.arange(volume.shape[axis]), affine[:3, axis])
    distance = np.abs((planes @ truth.normal)[:, None] - truth.along)
    for k, row in enumerate(distance):
        found = truth.uids.index(volume.nearest_source_slice(k).sop_instance_uid)
        assert row[found] <= row.min() + 1e-4
    for n, column in enumerate(distance.T):
        assert column[volume.nearest_plane(truth.uids[n])] <= column.min() + 1e-4
    assert [s.sop_instance_uid for s in volume.source_slices] in (truth.uids, truth.uids[::-1])


# --- phantoms -------------------------------------------------------------------------------------------


def acquire(**options: Any) -> Acquisition:
    """Scan the head coarsely: 2 mm pixels, 21 slices of 5 mm."""
    given = {"count": 21, "spacing_mm": 5.0, "rows": 112, "columns": 104, "pixel_spacing_mm": (2.0, 2.0)}
    return Acquisition.regular(**{**given, "supersample": 2, **options})


def write(folder: Path, acquisition: Acquisition, *, head: HeadPhantom = HEAD, **options: Any) -> list[Path]:
    """Write one series; give its files."""
    written = write_series(folder, head, acquisition, **options)
    return [folder / one.path for one in written]


def rotation(*angles_deg: float) -> tuple[float, ...]:
    """Cosines of a plane turned about x, then y, then z."""
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


WRITTEN: dict[str, Acquisition] = {
    "upright": acquire(),
    "reversed": acquire(spacing_mm=-5.0),
    "coronal": acquire(orientation="coronal", rows=96),
    "sagittal": acquire(orientation="sagittal", rows=96, columns=112),
    "oblique": acquire(orientation=rotation(25, -15, 20)),
    "oblique-beyond-45": acquire(orientation=rotation(65, 10, -30)),
    "feet-first": acquire(orientation=(-1, 0, 0, 0, 1, 0)),
    "prone": acquire(orientation=(-1, 0, 0, 0, -1, 0)),
    "unequal-pixels": acquire(rows=150, columns=90, pixel_spacing_mm=(1.4, 2.3)),
    "odd-matrix": acquire(count=9, rows=511, columns=511, pixel_spacing_mm=(0.45, 0.45), supersample=1),
    "overlapping-slices": acquire(count=41, spacing_mm=2.5, thickness_mm=5.0),
    "per-slice-intercept": acquire(
        intercept=(-1024.0,) * 14 + (-2040.0,) * 7, bits_stored=12, pixel_representation=0
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_voxels_lie_where_the_slices_say(name: str, tmp_path: Path) -> None:
    truth = Slices(write(tmp_path / "in", WRITTEN[name]))
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in").only()
    assert entry.slices == len(truth.uids)
    assert not {"gantry-tilt", "irregular-spacing", "missing-slice", "duplicates-dropped"} & set(entry.warnings)
    assert volume.attributes["geometry"]["gantry_tilt_deg"] == 0
    assert_right(volume, truth)


@pytest.mark.parametrize(
    ("tilt_deg", "orientation", "has_tag"), pairwise([-25.0, -3.0, 25.0], ["axial", "oblique"], [True, False])
)
def test_a_tilted_gantry_is_undone_and_told(
    tilt_deg: float, orientation: str, has_tag: bool, tmp_path: Path
) -> None:
    cosines = rotation(8, -12, 15) if orientation == "oblique" else orientation
    acquisition = acquire(gantry_tilt_deg=tilt_deg, orientation=cosines, rows=124)
    edit = None if has_tag else lambda _, ds: delattr(ds, "GantryDetectorTilt")
    truth = Slices(write(tmp_path / "in", acquisition, edit=edit))
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in").only()
    assert "gantry-tilt" in entry.warnings
    assert volume.attributes["geometry"]["gantry_tilt_deg"] == pytest.approx(tilt_deg, abs=0.01)
    assert volume.attributes["geometry"]["source_spacing_mm"][0] == pytest.approx(
        5 * np.cos(np.radians(tilt_deg)), abs=1e-3
    )
    assert_right(volume, truth)


def test_a_tilt_tag_that_the_geometry_denies_changes_nothing(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", acquire())
    write(tmp_path / "tagged", acquire(), edit=lambda _, ds: setattr(ds, "GantryDetectorTilt", "12"))
    (_, one), (entry, two) = (land(tmp_path / f"{n}.zarr", tmp_path / n).only() for n in ("plain", "tagged"))
    assert "gantry-tilt" not in entry.warnings
    np.testing.assert_array_equal(one.to_hu(), two.to_hu())
    assert_right(two, Slices(plain))


IRREGULAR = {
    "joint-0.73": [4.0] * 11 + [0.73] + [7.0] * 8,
    "joint-0.52": [4.0] * 11 + [0.52] + [7.0] * 8,
    "joint-1.08": [4.0] * 11 + [1.08] + [7.0] * 8,
    "no-joint": [4.0] * 11 + [7.0] * 8,
    "thick-at-the-base": [7.0] * 8 + [0.73] + [4.0] * 11,
}


@pytest.mark.parametrize(("name", "tilt_deg"), each_once([*IRREGULAR, "no-joint"], [0.0, 16.0]))
def test_irregular_but_complete_stacks_are_interpolated_from_where_the_slices_are(
    name: str, tilt_deg: float, tmp_path: Path
) -> None:
    gaps = IRREGULAR[name]
    thick = ["4" if 4.0 in (gaps[max(0, k - 1)], *gaps[k : k + 1]) else "7" for k in range(len(gaps) + 1)]
    acquisition = acquire(gaps_mm=gaps, gantry_tilt_deg=tilt_deg, rows=124)
    truth = Slices(write(tmp_path / "in", acquisition, edit=lambda k, ds: setattr(ds, "SliceThickness", thick[k])))
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in").only()
    assert "irregular-spacing" in entry.warnings
    assert "missing-slice" not in entry.warnings
    assert 2 not in volume.validity()
    assert_right(volume, truth)


# --- a missing slice ------------------------------------------------------------------------------------


def test_a_missing_slice_below_the_limit_is_interpolated_and_flagged(tmp_path: Path) -> None:
    paths = write(tmp_path / "in", acquire(count=60, spacing_mm=1.25, thickness_mm=1.25))
    paths.pop(31).unlink()
    truth = Slices(paths)
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in", spacing_mm=(0.5, 2.0, 2.0)).only()
    assert "missing-slice" in entry.warnings
    assert "missing-slice" in volume.attributes["qc"]["warnings"]
    assert_right(volume, truth)
    at = volume.affine_lps[2, 3] + volume.spacing_mm[0] * np.arange(volume.shape[0])
    between = (at > truth.along[30] + 1e-3) & (at < truth.along[31] - 1e-3)
    assert between.sum() == 4
    assert np.diff(truth.along).max() == pytest.approx(2.5)
    validity = volume.validity()
    assert (validity[between] == 2).all()
    assert (validity[~between] == 1).all()


@pytest.mark.parametrize("lost", [1, 2])
def test_missing_slices_above_the_limit_are_refused_with_the_numbers(lost: int, tmp_path: Path) -> None:
    paths = write(tmp_path / "in", acquire())
    for path in paths[9 : 9 + lost]:
        path.unlink()
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    [entry] = landed.entries
    assert (entry.outcome, entry.reason) == ("failed", "missing-slices")
    for number in (f"{5 * (lost + 1)}.000 mm", "5.000 mm", "2.5"):
        assert number in str(entry.detail)
    assert landed.store is None


def test_the_limit_of_a_missing_slice_is_the_persons_choice(tmp_path: Path) -> None:
    paths = write(tmp_path / "in", acquire())
    paths.pop(9).unlink()
    wide = land(tmp_path / "wide.zarr", tmp_path / "in", max_gap_mm=10.0)
    entry, volume = wide.only()
    assert "missing-slice" in entry.warnings
    assert_right(volume, Slices(paths))
    narrow = land(tmp_path / "narrow.zarr", tmp_path / "in", max_gap_mm=9.9)
    assert narrow.outcomes == [("failed", "missing-slices")]


@pytest.mark.parametrize("grid", [{"native": True}, {"zoom": (1.0, 0.5, 0.5)}], ids=["native", "zoom"])
def test_a_missing_slice_is_never_stretched_on_the_scanners_own_grid(grid: dict[str, Any], tmp_path: Path) -> None:
    paths = write(tmp_path / "in", acquire(count=30, spacing_mm=1.25, thickness_mm=1.25))
    paths.pop(12).unlink()
    landed = land(tmp_path / "s.zarr", tmp_path / "in", **grid)
    assert landed.outcomes == [("failed", "missing-slices")]


# --- duplicates -----------------------------------------------------------------------------------------


def test_identical_copies_are_dropped_and_told(tmp_path: Path) -> None:
    paths = write(tmp_path / "once", acquire())
    shutil.copytree(tmp_path / "once", tmp_path / "twice" / "export 1")
    for path in paths[3:8]:
        shutil.copy(path, tmp_path / "twice" / f"copy of {path.name}")
    _, once = land(tmp_path / "once.zarr", tmp_path / "once").only()
    entry, twice = land(tmp_path / "twice.zarr", tmp_path / "twice").only()
    assert "duplicates-dropped" in entry.warnings
    assert entry.slices == len(paths)
    np.testing.assert_array_equal(once.to_hu(), twice.to_hu())
    np.testing.assert_array_equal(once.affine_lps, twice.affine_lps)


def _phase(attribute: str, value: object, part: int) -> Callable[[int, pydicom.Dataset], None]:
    def edit(index: int, ds: pydicom.Dataset) -> None:
        ds.SOPInstanceUID = synthetic_uid("phase", part, index)
        setattr(ds, attribute, value)

    return edit


REPEATS: dict[str, Callable[[int], tuple[str, object]]] = {
    "time-point": lambda part: ("TemporalPositionIdentifier", part + 1),
    "acquisition": lambda part: ("AcquisitionNumber", part + 4),
    "phase-of-the-cycle": lambda part: ("NominalPercentageOfCardiacPhase", 25.0 * part),
    "trigger-time": lambda part: ("TriggerTime", str(210.5 * part)),
}


@pytest.mark.parametrize("name", REPEATS)
def test_repeated_positions_become_complete_stacks_each_with_its_own_voxels(name: str, tmp_path: Path) -> None:
    heads = [HEAD, replace(HEAD, bleed_center_mm=(-25, -30, 5)), replace(HEAD, shift_mm=(-5, 9, -4))]
    parts = []
    for part, head in enumerate(heads):
        attribute, value = REPEATS[name](part)
        parts.append(
            write(
                tmp_path / "in",
                acquire(count=12),
                head=head,
                series_uid=SERIES_UID,
                file_names=lambda index, part=part: f"{index}-{part}",
                edit=_phase(attribute, value, part),
            )
        )
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    first, *further = (entry.series_key for entry in landed.written)
    assert all(re.fullmatch(rf"{first}-[0-9a-f]{{8}}", key) for key in further)
    assert landed.outcomes == [("written", None)] * 3
    for entry, paths in zip(landed.written, parts, strict=True):
        truth = Slices(paths)
        volume = landed.volume(entry)
        assert {s.sop_instance_uid for s in volume.source_slices} == set(truth.uids)
        assert_right(volume, truth)


def test_a_part_that_was_scanned_again_is_a_stack_of_its_own(tmp_path: Path) -> None:
    whole = write(tmp_path / "in", acquire(), series_uid=SERIES_UID)
    again = acquire(count=5, acquisition_number=2)
    write(tmp_path / "in", again, series_uid=SERIES_UID, file_names="spatial")
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    assert landed.outcomes == [("excluded", "too-few-slices"), ("written", None)]
    assert_right(landed.volume(landed.written[0]), Slices(whole))


def test_equal_images_that_were_exported_again_under_other_uids_are_copies(tmp_path: Path) -> None:
    write(tmp_path / "in", acquire(), series_uid=SERIES_UID)
    edit = _phase("InstanceNumber", 1, 1)
    write(tmp_path / "in", acquire(), series_uid=SERIES_UID, file_names="spatial", edit=edit)
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    [entry] = landed.entries
    assert (entry.outcome, entry.slices) == ("written", 21)
    assert "duplicates-dropped" in entry.warnings


def test_duplicates_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    for part, head in enumerate([HEAD, replace(HEAD, shift_mm=(-5, 9, -4))]):
        edit = _phase("InstanceNumber", 1, part)
        names = f"{part}-{{}}".format
        write(tmp_path / "in", acquire(), head=head, series_uid=SERIES_UID, file_names=names, edit=edit)
    [entry] = land(tmp_path / "s.zarr", tmp_path / "in").entries
    assert (entry.outcome, entry.reason) == ("failed", "duplicate-positions")
    for name in ("Study Instance UID", "Convolution Kernel", "Slice Thickness", "KVP"):
        assert name in str(entry.detail)


def test_one_slice_that_is_there_twice_with_other_pixels_is_refused(tmp_path: Path) -> None:
    [*_, last] = write(tmp_path / "in", acquire(), series_uid=SERIES_UID)
    ds = pydicom.dcmread(last)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(synthetic_uid("another"))
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(tmp_path / "in" / "another")
    assert land(tmp_path / "s.zarr", tmp_path / "in").outcomes == [("failed", "duplicate-positions")]


@pytest.mark.parametrize("further_mm", [0.03, 2.5])
def test_a_time_point_that_lies_a_little_further_on_is_a_stack_of_its_own(
    further_mm: float, tmp_path: Path
) -> None:
    parts = [
        write(
            tmp_path / "in",
            acquire(count=12, spacing_mm=5.0, thickness_mm=5.0, center_lps_mm=(0, 0, further_mm * part)),
            head=replace(HEAD, shift_mm=(9.0 * part, -3, 1.5)),
            series_uid=SERIES_UID,
            file_names=lambda index, part=part: f"{index}-{part}",
            edit=_phase("TemporalPositionIdentifier", part + 1, part),
        )
        for part in range(2)
    ]
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    assert landed.outcomes == [("written", None)] * 2
    for entry, paths in zip(landed.written, parts, strict=True):
        assert_right(landed.volume(entry), Slices(paths))


def test_two_scans_in_each_other_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    for part in range(2):
        write(
            tmp_path / "in",
            acquire(count=12, center_lps_mm=(0, 0, 0.03 * part)),
            series_uid=SERIES_UID,
            file_names=lambda index, part=part: f"{index}-{part}",
            edit=_phase("InstanceNumber", 1, part),
        )
    assert land(tmp_path / "s.zarr", tmp_path / "in").outcomes == [("failed", "duplicate-positions")]


def _other_rescale(ds: pydicom.Dataset) -> None:
    ds.RescaleIntercept = 0


def _other_pixels(ds: pydicom.Dataset) -> None:
    ds.PixelData = bytes(len(ds.PixelData))


def _other_pixels_compressed(ds: pydicom.Dataset) -> None:
    _other_pixels(ds)
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)


@pytest.mark.parametrize("edit", [_other_rescale, _other_pixels, _other_pixels_compressed])
def test_an_instance_that_is_there_twice_and_not_the_same_is_refused(
    edit: Callable[[pydicom.Dataset], None], tmp_path: Path
) -> None:
    paths = write(tmp_path / "in", acquire())
    ds = pydicom.dcmread(paths[7])
    edit(ds)
    ds.save_as(tmp_path / "in" / "again")
    assert land(tmp_path / "s.zarr", tmp_path / "in").outcomes == [("failed", "duplicate-positions")]


@pytest.mark.parametrize("name", ["0-before-all", "zzz-after-all"])
def test_of_copies_the_one_that_is_whole_is_kept(name: str, tmp_path: Path) -> None:
    paths = write(tmp_path / "in", acquire())
    content = paths[7].read_bytes()
    (tmp_path / "in" / name).write_bytes(content[:-1000])
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in").only()
    assert "duplicates-dropped" in entry.warnings
    assert_right(volume, Slices(paths))


# --- several stacks under one Series Instance UID -------------------------------------------------------

MIXED: dict[str, tuple[Acquisition, ...]] = {
    "orientations": (
        acquire(),
        acquire(orientation="coronal", rows=96, count=19),
        acquire(gantry_tilt_deg=20, count=17),
    ),
    "matrix-sizes": (acquire(), acquire(rows=96, columns=96, count=19)),
    "pixel-spacings": (acquire(), acquire(pixel_spacing_mm=(1.9, 1.9), count=19)),
}


@pytest.mark.parametrize("name", MIXED)
def test_stacks_of_one_series_are_told_apart_and_all_right(name: str, tmp_path: Path) -> None:
    parts = [
        write(tmp_path / "in", part, series_uid=SERIES_UID, file_names=lambda k, n=n: f"{k:02d}-{n}")
        for n, part in enumerate(MIXED[name])
    ]
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    assert landed.outcomes == [("written", None)] * len(parts)
    assert [e.slices for e in landed.written] == [len(paths) for paths in parts]
    for entry, paths in zip(landed.written, parts, strict=True):
        assert_right(landed.volume(entry), Slices(paths))


def test_each_stack_of_a_series_is_judged_alone(tmp_path: Path) -> None:
    whole = write(tmp_path / "in", acquire(count=12, orientation="coronal", rows=96), series_uid=SERIES_UID)
    holed = write(tmp_path / "in", acquire(), series_uid=SERIES_UID, file_names="spatial")
    holed[8].unlink()
    single = acquire(count=1, orientation="sagittal")
    write(tmp_path / "in", single, series_uid=SERIES_UID, file_names=lambda _: "single")
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    assert landed.outcomes == [("excluded", "too-few-slices"), ("failed", "missing-slices"), ("written", None)]
    [entry] = landed.written
    assert_right(landed.volume(entry), Slices(whole))


def test_cosines_and_spacings_that_differ_in_the_last_digit_are_one_stack(tmp_path: Path) -> None:
    def edit(index: int, ds: pydicom.Dataset) -> None:
        ds.ImageOrientationPatient = [1, (index % 3) * 1e-5, 0, 0, 1, 0]
        ds.PixelSpacing = [2.0 + (index % 2) * 1e-6, 2.0]

    truth = Slices(write(tmp_path / "in", acquire(), edit=edit))
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in").only()
    assert entry.slices == 21
    assert_right(volume, truth)


# --- what has no geometry -------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_series_without_geometry_is_refused(keyword: str, tmp_path: Path) -> None:
    write(tmp_path / "in", acquire(count=9), edit=lambda _, ds: delattr(ds, keyword))
    assert land(tmp_path / "s.zarr", tmp_path / "in").outcomes == [("failed", "missing-geometry")]


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("ImageOrientationPatient", None, "missing-geometry"),
        ("PixelSpacing", None, "missing-geometry"),
        ("RescaleType", "US", "missing-rescale"),
        ("Modality", None, "inconsistent-slices"),
    ],
)
@pytest.mark.parametrize("at", [0, 10])
def test_a_slice_that_lacks_what_the_others_have_is_no_hole_in_their_volume(
    keyword: str, value: str | None, reason: str, at: int, tmp_path: Path
) -> None:
    def edit(index: int, ds: pydicom.Dataset) -> None:
        if index == at:
            setattr(ds, keyword, value)

    write(tmp_path / "in", acquire(), edit=edit)
    landed = land(tmp_path / "s.zarr", tmp_path / "in")
    assert {(entry.outcome, entry.reason) for entry in landed.entries} == {("failed", reason)}
    assert all("1 of 21" in str(entry.detail) for entry in landed.entries)


def test_the_case_of_rescale_type_tells_no_stacks_apart(tmp_path: Path) -> None:
    def edit(index: int, ds: pydicom.Dataset) -> None:
        ds.RescaleType = ("HU", "hu")[index % 2]

    truth = Slices(write(tmp_path / "in", acquire(), edit=edit))
    entry, volume = land(tmp_path / "s.zarr", tmp_path / "in").only()
    assert entry.slices == 21
    assert_right(volume, truth)


def test_slices_without_instance_number_location_or_thickness_are_right_all_the_same(tmp_path: Path) -> None:
    def edit(_: int, ds: pydicom.Dataset) -> None:
        del ds.SliceThickness, ds.SliceLocation
        ds.InstanceNumber, ds.SpacingBetweenSlices = 1, "-21.893"

    truth = Slices(write(tmp_path / "in", acquire(), edit=edit))
    _, volume = land(tmp_path / "s.zarr", tmp_path / "in").only()
    assert_right(volume, truth)
