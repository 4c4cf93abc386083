"""The phantom is the oracle of other tests; its own are pydicom, SimpleITK and the standard's formulas."""

from __future__ import annotations

import zipfile
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from etl.errors import UsageError
from etl.phantom.cohort import write_benchmark, write_cohort
from etl.phantom.files import Acquisition, synthetic_uid, write_enhanced, write_localizer, write_series
from etl.phantom.head import HeadPhantom

HEAD = HeadPhantom.for_patient(7)
SMALL = {"rows": 40, "columns": 48, "pixel_spacing_mm": (5.5, 4.5)}
OBLIQUE = tuple(np.linalg.qr(np.array([[0.9, 0.1, 0.3], [-0.2, 0.8, 0.5]]).T)[0].T.ravel())


@pytest.fixture(autouse=True)
def strict_reading(monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)


def pixel_positions(position, orientation, spacing, shape):
    """Map every pixel to patient space as PS3.3 C.7.6.2.1.1 writes it, equation C.7.6.2.1-1."""
    sx, sy, sz = (float(v) for v in position)
    xx, xy, xz, yx, yy, yz = (float(v) for v in orientation)
    delta_j, delta_i = (float(v) for v in spacing)
    matrix = np.array(
        [
            [xx * delta_i, yx * delta_j, 0, sx],
            [xy * delta_i, yy * delta_j, 0, sy],
            [xz * delta_i, yz * delta_j, 0, sz],
            [0, 0, 0, 1],
        ]
    )
    j, i = np.indices(shape)
    return (np.stack([i, j, 0 * i, 1 + 0 * i], axis=-1) @ matrix.T)[..., :3]


def read_slice(path):
    """Read a file with pydicom: dataset, HU and the LPS mm of each pixel."""
    ds = pydicom.dcmread(path)
    hu = apply_modality_lut(ds.pixel_array, ds)
    points = pixel_positions(
        ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, (ds.Rows, ds.Columns)
    )
    return ds, hu, points


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_average_head_has_known_hu():
    known = [
        ((0, 0, -160), -1000),
        ((0, 93, 0), 40),
        ((0, -105, -35), 40),
        ((0, 105, -35), -1000),
        ((0, 30, -120), 40),
        ((0, 30, 120), -1000),
        ((66, 0, 0), 900),
        ((0, 0, 79), 900),
        ((57, 0, 0), 37),
        ((0, 30, 0), 28),
        ((11, 0, 14), 5),
        ((30, -8, 20), 70),
        ((-30, -8, 20), 28),
        ((-28, 42, 18), 400),
        ((28, 42, 18), 28),
        ((4, -72, -38), -1000),
        ((-12, 6, 74), 1300),
        ((-12, 6, -74), 37),
    ]
    points, hu = zip(*known, strict=True)
    assert HeadPhantom().hu(np.array(points, float)).tolist() == list(hu)


def test_no_flip_or_swap_of_axes_maps_a_head_onto_itself():
    axis = np.arange(-110.0, 111.0, 5.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    expected = HEAD.hu(points)
    same = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        moved = HEAD.hu(points[..., list(order)] * np.array(signs))
        same.append(((moved != expected).sum(), order, signs))
    same.sort()
    assert same[0] == (0, (0, 1, 2), (1, 1, 1))
    assert same[1][0] > 100


def test_heads_repeat_with_the_seed_and_differ_between_patients():
    assert HeadPhantom.for_patient(3) == HeadPhantom.for_patient(3)
    heads = [HeadPhantom.for_patient(seed) for seed in range(20)]
    assert len(set(heads)) == 20
    for head in heads:
        bleed = head.structures[-1]
        assert bleed.name == "bleed"
        assert bleed.center_lps_mm[0] > 15
        assert head.hu(bleed.center_lps_mm) == 70


def test_smooth_means_that_no_edge_is_within_the_margin():
    rng = np.random.default_rng(1)
    points = rng.uniform(-110, 110, (4000, 3))
    smooth = points[HEAD.is_smooth(points, 4.0)]
    assert 0.4 < len(smooth) / len(points) < 0.95
    offsets = rng.standard_normal((300, 3))
    offsets *= 4.0 * rng.uniform(0, 1, (300, 1)) / np.linalg.norm(offsets, axis=1, keepdims=True)
    around = HEAD.hu(smooth[:, None] + offsets)
    assert (around == HEAD.hu(smooth)[:, None]).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_plane_of_any_position_equals_the_head_at_its_points(seed):
    rng = np.random.default_rng(seed)
    origin = rng.uniform(-90, 90, 3)
    down, along = rng.uniform(-4, 4, (2, 3))
    rows, columns = rng.integers(1, 60, 2)
    points = origin + np.arange(rows)[:, None, None] * down + np.arange(columns)[None, :, None] * along
    plane = HEAD.hu_on_plane(origin, down, along, (rows, columns))
    assert plane.shape == (rows, columns)
    assert plane.dtype == np.float32
    clear = HEAD.is_smooth(points, 1e-6)
    np.testing.assert_array_equal(plane[clear], HEAD.hu(points)[clear])


ACQUISITIONS = {
    "axial": {},
    "axial, feet last": {"spacing_mm": -9.0},
    "axial, flipped": {"orientation": (-1, 0, 0, 0, -1, 0)},
    "coronal": {"orientation": "coronal"},
    "sagittal": {"orientation": "sagittal"},
    "oblique": {"orientation": OBLIQUE},
    "tilted": {"gantry_tilt_deg": 17.0},
    "tilted back": {"gantry_tilt_deg": -23.0},
    "irregular": {"gaps_mm": [3.0, 3.0, 7.0, 11.5]},
    "unsigned 12 bit": {"bits_stored": 12, "pixel_representation": 0},
    "signed 12 bit": {"bits_stored": 12, "pixel_representation": 1, "intercept": 0.0},
    "unsigned 16 bit": {"bits_stored": 16, "pixel_representation": 0},
    "slope": {"slope": 0.5, "intercept": -1000.0},
    "intercept by slice": {"intercept": (-1024.0, -1024.0, -2040.0, -1000.0, 0.0)},
    "implicit": {"transfer_syntax_uid": ImplicitVRLittleEndian},
    "big endian": {"transfer_syntax_uid": ExplicitVRBigEndian},
    "deflated": {"transfer_syntax_uid": DeflatedExplicitVRLittleEndian},
    "RLE": {"transfer_syntax_uid": RLELossless},
}


@pytest.mark.parametrize("options", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_files_hold_the_head_where_the_standard_says(tmp_path, options):
    acquisition = Acquisition.regular(**{"count": 5, "spacing_mm": 9.0, **SMALL, **options})
    written = write_series(tmp_path, HEAD, acquisition)
    assert len(written) == 5
    tissues = set()
    for one in written:
        ds, hu, points = read_slice(tmp_path / one.path)
        assert ds.file_meta.TransferSyntaxUID == options.get("transfer_syntax_uid", ExplicitVRLittleEndian)
        assert ds.SOPInstanceUID == one.sop_instance_uid
        assert ds.BitsStored == options.get("bits_stored", 16)
        assert ds.HighBit == ds.BitsStored - 1
        np.testing.assert_allclose(ds.ImagePositionPatient, one.position_lps_mm, atol=1e-9)
        clear = HEAD.is_smooth(points, 1e-6)
        np.testing.assert_array_equal(hu[clear], HEAD.hu(points)[clear])
        tissues |= set(np.unique(hu))
    assert {-1000, 28, 40, 900} <= tissues


def test_a_tilted_gantry_turns_the_image_while_the_table_moves_along_z(tmp_path):
    written = write_series(tmp_path, HEAD, Acquisition.regular(count=4, gantry_tilt_deg=15.0, **SMALL))
    steps = np.diff([one.position_lps_mm for one in written], axis=0)
    np.testing.assert_allclose(steps, [[0, 0, 5]] * 3, atol=1e-9)
    ds = pydicom.dcmread(tmp_path / written[0].path)
    normal = np.cross(ds.ImageOrientationPatient[:3], ds.ImageOrientationPatient[3:])
    assert np.degrees(np.arccos(normal[2])) == pytest.approx(15.0)
    assert ds.ImageOrientationPatient[5] == pytest.approx(np.sin(np.radians(15.0)))
    assert ds.GantryDetectorTilt == 15.0


def test_a_stack_lies_around_its_center():
    acquisition = Acquisition.regular(
        count=4, gaps_mm=[2, 3, 5], center_lps_mm=(10, -20, 30), rows=11, columns=21, pixel_spacing_mm=(2, 1)
    )
    np.testing.assert_allclose(
        acquisition.positions_lps_mm, [[0, -30, 25], [0, -30, 27], [0, -30, 30], [0, -30, 35]]
    )


@pytest.mark.parametrize(
    ("representation", "padding", "stored_as"),
    [(1, -2000, -2000), (0, -2000, 63536), (0, 63536, 63536), (1, -32768, -32768)],
)
def test_padding_fills_what_lies_outside_the_circle(tmp_path, representation, padding, stored_as):
    acquisition = Acquisition.regular(
        count=1, padding=padding, pixel_representation=representation, rows=40, columns=60
    )
    (one,) = write_series(tmp_path, HEAD, acquisition)
    ds = pydicom.dcmread(tmp_path / one.path)
    assert ds.PixelPaddingValue == stored_as
    expected_vr = "SS" if representation else "US"
    assert expected_vr == ds["PixelPaddingValue"].VR
    row, column = np.indices((40, 60))
    outside = np.hypot(row - 19.5, column - 29.5) > 20
    np.testing.assert_array_equal(ds.pixel_array == stored_as, outside)


def test_padding_may_go_unmentioned(tmp_path):
    acquisition = Acquisition.regular(count=1, padding=-2000, padding_attribute=False, **SMALL)
    (one,) = write_series(tmp_path, HEAD, acquisition)
    ds = pydicom.dcmread(tmp_path / one.path)
    assert "PixelPaddingValue" not in ds
    assert ds.pixel_array[0, 0] == -2000


def test_padding_that_the_stored_bits_cannot_hold_is_refused():
    with pytest.raises(UsageError, match=r"padding -2000: allowed is 0 to 4095 in 12 bits"):
        Acquisition.regular(padding=-2000, bits_stored=12, pixel_representation=0)


def test_an_orientation_that_is_not_orthonormal_is_refused():
    with pytest.raises(UsageError, match="two orthonormal vectors"):
        Acquisition.regular(orientation=(1, 0, 0, 0.5, 1, 0))


def test_values_beyond_the_stored_bits_are_clipped(tmp_path):
    acquisition = Acquisition.regular(count=1, bits_stored=10, pixel_representation=0, **SMALL)
    (one,) = write_series(tmp_path, HEAD, acquisition)
    _, hu, points = read_slice(tmp_path / one.path)
    clear = HEAD.is_smooth(points, 1e-6)
    np.testing.assert_array_equal(hu[clear], np.minimum(HEAD.hu(points), 1023 - 1024)[clear])


def test_a_high_bit_of_15_shifts_the_value_to_the_top(tmp_path):
    options = {"count": 1, "bits_stored": 12, "pixel_representation": 0, **SMALL}
    (plain,) = write_series(tmp_path / "plain", HEAD, Acquisition.regular(**options))
    (shifted,) = write_series(tmp_path / "shifted", HEAD, Acquisition.regular(high_bit=15, **options))
    low = np.frombuffer(pydicom.dcmread(tmp_path / "plain" / plain.path).PixelData, "<u2")
    ds = pydicom.dcmread(tmp_path / "shifted" / shifted.path)
    assert ds.HighBit == 15
    np.testing.assert_array_equal(np.frombuffer(ds.PixelData, "<u2"), low * 16)


def test_noise_has_the_stated_deviation_and_no_bias(tmp_path):
    acquisition = Acquisition.regular(count=3, noise_hu=20.0, rows=200, columns=200)
    errors = []
    for one in write_series(tmp_path, HEAD, acquisition):
        _, hu, points = read_slice(tmp_path / one.path)
        errors.append(hu - HEAD.hu(points))
    assert np.std(errors) == pytest.approx(20.0, rel=0.02)
    assert np.mean(errors) == pytest.approx(0.0, abs=0.3)
    assert abs(np.corrcoef(errors[0].ravel(), errors[1].ravel())[0, 1]) < 0.02


def test_supersampling_averages_over_the_pixel(tmp_path):
    acquisition = Acquisition.regular(count=1, orientation=OBLIQUE, supersample=3, **SMALL)
    (one,) = write_series(tmp_path, HEAD, acquisition)
    ds, hu, points = read_slice(tmp_path / one.path)
    row = np.array(ds.ImageOrientationPatient[:3], float) * 4.5
    column = np.array(ds.ImageOrientationPatient[3:], float) * 5.5
    thirds = (-1 / 3, 0, 1 / 3)
    mean = np.mean([HEAD.hu(points + u * row + v * column) for u, v in product(thirds, thirds)], axis=0)
    assert len(np.unique(hu)) > 20
    assert (np.abs(hu - mean) <= 0.51).mean() > 0.999


# PS3.3 A.3: type 1 has a value, type 2 is at least present.
TYPE_1 = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImageType",
    "InstanceNumber",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "PixelData",
    "PatientPosition",
]
TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "SeriesNumber",
    "PositionReferenceIndicator",
    "Manufacturer",
    "SliceThickness",
    "KVP",
    "AcquisitionNumber",
]


def test_every_file_has_the_attributes_that_the_standard_demands(tmp_path):
    for one in write_series(tmp_path, HEAD, Acquisition.regular(count=2, temporal_position=2, **SMALL)):
        ds = pydicom.dcmread(tmp_path / one.path)
        assert [name for name in TYPE_1 if ds.get(name) in (None, "")] == []
        assert [name for name in TYPE_2 if name not in ds] == []
        assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == CTImageStorage
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        assert ds.RescaleType == "HU"
        assert ds.TemporalPositionIdentifier == 2
        for element in ds.iterall():
            if element.VR == "UI":
                assert element.value.is_valid
                assert len(element.value) <= 64


def test_stacks_of_one_series_share_its_uid_and_no_instance_uid(tmp_path):
    uids = []
    changes = {"base": {}, "later": {"acquisition_number": 2}, "elsewhere": {"center_lps_mm": (0, 0, 2)}}
    for name, change in changes.items():
        stack = Acquisition.regular(count=3, **change, **SMALL)
        for one in write_series(tmp_path / name, HEAD, stack, series_uid="1.2.3"):
            ds = pydicom.dcmread(tmp_path / name / one.path)
            assert ds.SeriesInstanceUID == "1.2.3"
            uids.append(ds.SOPInstanceUID)
    assert len(set(uids)) == 9


def test_equal_arguments_give_equal_bytes_and_another_seed_other_ones(tmp_path):
    acquisition = Acquisition.regular(count=3, noise_hu=5.0, padding=-2000, **SMALL)
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        write_series(tmp_path / name, HEAD, acquisition, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a").values()).isdisjoint(contents(tmp_path / "c").values())


def test_shuffled_names_hide_the_order_and_spatial_names_show_it(tmp_path):
    acquisition = Acquisition.regular(count=20, rows=16, columns=16)
    shuffled = [one.path for one in write_series(tmp_path / "a", HEAD, acquisition)]
    assert sorted(shuffled) == sorted(f"I{n}" for n in range(1, 21))
    assert sorted(shuffled, key=lambda name: int(name[1:])) != shuffled
    spatial = [one.path for one in write_series(tmp_path / "b", HEAD, acquisition, file_names="spatial")]
    assert sorted(spatial) == spatial


def test_an_edit_changes_only_its_own_file(tmp_path):
    def edit(index, ds):
        if index == 1:
            del ds.RescaleSlope
            ds.PixelSpacing[0] = 9

    written = write_series(tmp_path, HEAD, Acquisition.regular(count=3, **SMALL), edit=edit)
    read = [pydicom.dcmread(tmp_path / one.path) for one in written]
    assert ["RescaleSlope" in ds for ds in read] == [True, False, True]
    assert [ds.PixelSpacing[0] for ds in read] == [5.5, 9, 5.5]


@pytest.mark.parametrize("orientation", ["axial", "coronal", "sagittal", OBLIQUE])
def test_simpleitk_reads_the_same_geometry_and_values(tmp_path, orientation):
    acquisition = Acquisition.regular(count=5, spacing_mm=4.0, orientation=orientation, **SMALL)
    written = write_series(tmp_path, HEAD, acquisition, file_names="spatial")
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = SimpleITK.ReadImage(names)
    row, column = np.reshape(acquisition.orientation, (2, 3))
    np.testing.assert_allclose(image.GetOrigin(), written[0].position_lps_mm, atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing(), (4.5, 5.5, 4.0), atol=1e-6)
    direction = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction, np.stack([row, column, np.cross(row, column)], axis=1), atol=1e-6)
    hu = SimpleITK.GetArrayFromImage(image)
    for index in np.random.default_rng(2).integers(0, hu.shape, (200, 3)):
        point = np.array(image.TransformIndexToPhysicalPoint([int(v) for v in index[::-1]]))
        assert hu[tuple(index)] == HEAD.hu(point) or not HEAD.is_smooth(point, 1e-3)


@pytest.mark.parametrize("intercept", [-1024.0, (-1024.0, -1000.0, -2040.0)])
def test_an_enhanced_file_holds_the_same_frames(tmp_path, intercept):
    acquisition = Acquisition.regular(
        count=3, spacing_mm=20.0, intercept=intercept, orientation=OBLIQUE, noise_hu=3.0, **SMALL
    )
    single = write_series(tmp_path, HEAD, acquisition)
    one = write_enhanced(tmp_path, HEAD, acquisition)
    ds = pydicom.dcmread(tmp_path / one.path)
    assert ds.SOPClassUID == EnhancedCTImageStorage
    assert ds.NumberOfFrames == 3
    assert "ImagePositionPatient" not in ds
    (shared,) = ds.SharedFunctionalGroupsSequence
    for index, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        source = frame if isinstance(intercept, tuple) else shared
        hu = apply_modality_lut(ds.pixel_array[index], source.PixelValueTransformationSequence[0])
        other, expected, _ = read_slice(tmp_path / single[index].path)
        np.testing.assert_array_equal(hu, expected)
        plane = frame.PlanePositionSequence[0]
        assert plane.ImagePositionPatient == other.ImagePositionPatient
        assert shared.PixelMeasuresSequence[0].PixelSpacing == other.PixelSpacing
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert orientation == other.ImageOrientationPatient


def test_a_localizer_says_so(tmp_path):
    (one,) = write_localizer(tmp_path, HEAD, rows=32, patient_id="P")
    ds, hu, points = read_slice(tmp_path / one.path)
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    clear = HEAD.is_smooth(points, 1e-6)
    np.testing.assert_array_equal(hu[clear], HEAD.hu(points)[clear])


def test_synthetic_uids_are_version_5_uuids():
    value = int(synthetic_uid("a", 1).removeprefix("2.25."))
    assert value >> 76 & 0xF == 5
    assert synthetic_uid("a", 1) != synthetic_uid("a", 2)


TINY = {"rows": 32, "thin_slices": 10}


def test_a_cohort_holds_what_it_says_as_folders_and_zips(tmp_path):
    written = write_cohort(tmp_path, patients=3, **TINY)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "PHANTOM-0001",
        "PHANTOM-0002.zip",
        "PHANTOM-0003",
        "README.txt",
    ]
    assert [(s.patient_id[-1], s.kind, len(s.slices)) for s in written] == [
        (patient, kind, count)
        for patient in "123"
        for kind, count in (("thin", 10), ("thick", 30), ("localizer", 1))
    ]
    assert len({s.series_instance_uid for s in written}) == 9
    assert len({s.study_instance_uid for s in written}) == 3
    assert len({s.phantom for s in written}) == 3
    assert len({one.sop_instance_uid for s in written for one in s.slices}) == 3 * 41
    for series in written:
        for one in series.slices:
            if series.container.suffix == ".zip":
                with zipfile.ZipFile(series.container) as archive, archive.open(one.path) as file:
                    ds = pydicom.dcmread(file)
            else:
                ds = pydicom.dcmread(series.container / one.path)
            assert ds.PatientID == series.patient_id
            assert ds.SeriesInstanceUID == series.series_instance_uid
            assert ds.StudyInstanceUID == series.study_instance_uid
            assert ds.SeriesNumber == series.series_number
            assert ds.SOPInstanceUID == one.sop_instance_uid
            assert ds.pixel_array.shape == (32, 32)


def test_a_cohort_has_a_tilted_series_and_one_of_two_distances(tmp_path):
    thick = [s for s in write_cohort(tmp_path, patients=3, **TINY) if s.kind == "thick"]
    assert [s.gantry_tilt_deg for s in thick] == [14.0, 0.0, 0.0]
    gaps = [np.diff([one.position_lps_mm for one in s.slices], axis=0)[:, 2] for s in thick]
    np.testing.assert_allclose(gaps[0], 5.0)
    np.testing.assert_allclose(gaps[1], 5.0)
    assert set(gaps[2].round(9)) == {4.0, 6.0}
    path = tmp_path / "PHANTOM-0001" / thick[0].slices[0].path
    np.testing.assert_allclose(pydicom.dcmread(path).ImageOrientationPatient[5], np.sin(np.radians(14)))


def test_everything_else_in_a_cohort_is_not_dicom(tmp_path):
    written = write_cohort(tmp_path, patients=1, **TINY)
    slices = {f"PHANTOM-0001/{one.path}" for series in written for one in series.slices}
    others = {name: data for name, data in contents(tmp_path).items() if name not in slices}
    assert set(others) == {"README.txt", "PHANTOM-0001/desktop.ini", "PHANTOM-0001/thin/I11"}
    assert all(data[128:132] != b"DICM" for data in others.values())
    assert not any(others["PHANTOM-0001/thin/I11"][:132])
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(tmp_path / "PHANTOM-0001" / "thin" / "I11")


def test_thin_series_of_a_cohort_are_padded_signed_or_unsigned(tmp_path):
    thin = [s for s in write_cohort(tmp_path, patients=2, **TINY) if s.kind == "thin"]
    ds = pydicom.dcmread(thin[0].container / thin[0].slices[0].path)
    assert ds.PixelPaddingValue == ds.pixel_array[0, 0] == -2000
    with zipfile.ZipFile(thin[1].container) as archive, archive.open(thin[1].slices[0].path) as file:
        ds = pydicom.dcmread(file)
    assert ds.PixelPaddingValue == ds.pixel_array[0, 0] == 63536


def test_equal_seeds_give_equal_cohorts_down_to_the_zip(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_cohort(tmp_path / name, patients=2, seed=seed, **TINY)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    zips = [(tmp_path / name / "PHANTOM-0002.zip").read_bytes() for name in "ac"]
    assert zips[0] != zips[1]


def test_fewer_series_a_patient_leave_out_the_last_kinds(tmp_path):
    for count in (1, 2):
        written = write_cohort(tmp_path / str(count), patients=1, series_per_patient=count, **TINY)
        assert [s.kind for s in written] == ["thin", "thick"][:count]


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"rows": 8}, {"thin_slices": 1}, {"series_per_patient": 4}])
def test_a_number_out_of_range_is_refused_before_anything_is_written(tmp_path, wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"{name} {wrong[name]}: allowed is"):
        write_cohort(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_a_benchmark_is_exactly_its_slices(tmp_path):
    written = write_benchmark(tmp_path, series=2, slices=12, rows=32)
    assert [len(s.slices) for s in written] == [12, 12]
    assert len(contents(tmp_path)) == 24
    ds, hu, points = read_slice(Path(written[1].container) / written[1].slices[6].path)
    inside = written[1].phantom.is_smooth(points, 1e-3) & (ds.pixel_array != -2000)
    error = (hu - written[1].phantom.hu(points))[inside]
    assert 4 < error.std() < 8
