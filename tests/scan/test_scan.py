"""What a scan finds in files; the oracle is pydicom's reading of them and what the phantom was told to be."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from series import scan, small_acquisition, small_series

from etl.phantom.files import write_enhanced, write_localizer, write_series
from etl.phantom.head import HeadPhantom

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG_ENDIAN, DEFLATED, RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"


write = partial(small_series, count=5, rows=16)
acquisition = partial(small_acquisition, count=5, rows=16)


def files_of(stack):
    return [Path(*location) for location in stack.slices.locations]


def test_a_series_is_one_stack_with_what_its_files_say(tmp_path):
    written = write(tmp_path / "p", series_number=7, slope=0.5, padding=-2000, kernel="BONE", rows=16, columns=20)
    result = scan(tmp_path)
    [stack] = result.stacks
    assert (result.files, result.ignored, result.unreadable) == (5, (), ())
    assert (stack.key.patient_id, stack.key.series_number, stack.key.modality) == ("P1", 7, "CT")
    assert (stack.key.rows, stack.key.columns, stack.convolution_kernel) == (16, 20, "BONE")
    by_uid = {one.sop_instance_uid: one for one in written}
    for i, path in enumerate(files_of(stack)):
        ds = pydicom.dcmread(path)
        assert stack.slices.sop_instance_uid[i].decode() == ds.SOPInstanceUID
        assert stack.slices.position_lps_mm[i].tolist() == pytest.approx(by_uid[ds.SOPInstanceUID].position_lps_mm)
        assert stack.slices.instance_number[i] == ds.InstanceNumber
        assert (stack.slices.slope[i], stack.slices.intercept[i]) == (0.5, -1024)
        assert stack.slices.padding[i, 0] == -2000
        assert stack.slices.file_bytes[i] == path.stat().st_size
    assert stack.key.orientation == (1, 0, 0, 0, 1, 0)
    assert stack.key.pixel_spacing_mm == pytest.approx((12.5, 10))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_remembered_offsets_point_at_the_pixel_bytes(tmp_path, syntax):
    write(tmp_path / "p", transfer_syntax_uid=syntax)
    [stack] = scan(tmp_path).stacks
    assert len(stack.slices) == 5
    for i, path in enumerate(files_of(stack)):
        offset, length = int(stack.slices.pixel_offset[i]), int(stack.slices.pixel_length[i])
        assert path.read_bytes()[offset : offset + length] == pydicom.dcmread(path).PixelData
    assert stack.formats[0].transfer_syntax_uid == syntax


def test_offsets_in_a_zip_are_those_in_the_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        write(lambda name, content: archive.writestr(f"deep/er/{name}", content))
    [stack] = scan(tmp_path).stacks
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        for i, (container, member) in enumerate(stack.slices.locations):
            assert container == str(tmp_path / "p.zip")
            content = archive.read(member)
            offset, length = int(stack.slices.pixel_offset[i]), int(stack.slices.pixel_length[i])
            assert content[offset : offset + length] == pydicom.dcmread(io.BytesIO(content)).PixelData
            assert stack.slices.file_bytes[i] == len(content)


def test_encapsulated_pixels_have_an_offset_and_no_length(tmp_path):
    write(tmp_path / "p", transfer_syntax_uid=RLE)
    [stack] = scan(tmp_path).stacks
    for i, path in enumerate(files_of(stack)):
        assert stack.slices.pixel_length[i] == -1
        offset = int(stack.slices.pixel_offset[i])
        assert path.read_bytes()[offset : offset + 4] == b"\xfe\xff\x00\xe0"  # the first item


def test_a_deflated_file_has_no_offset(tmp_path):
    write(tmp_path / "p", transfer_syntax_uid=DEFLATED)
    [stack] = scan(tmp_path).stacks
    assert (stack.slices.pixel_offset > 0).all()
    assert stack.key.has_pixels


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_files_without_preamble_and_meta_are_read(tmp_path, syntax):
    write(tmp_path / "whole" / "p", transfer_syntax_uid=syntax)
    for path in sorted((tmp_path / "whole" / "p").iterdir()):
        ds = pydicom.dcmread(path)
        meta_bytes = 144 + ds.file_meta.FileMetaInformationGroupLength
        bare = tmp_path / "bare" / "p" / path.name
        bare.parent.mkdir(parents=True, exist_ok=True)
        bare.write_bytes(path.read_bytes()[meta_bytes:])
    [whole] = scan(tmp_path / "whole").stacks
    result = scan(tmp_path / "bare")
    [bare] = result.stacks
    assert result.unreadable == ()
    assert bare.key == whole.key
    assert bare.slices.sop_instance_uid.tolist() == whole.slices.sop_instance_uid.tolist()
    for i, path in enumerate(files_of(bare)):
        offset, length = int(bare.slices.pixel_offset[i]), int(bare.slices.pixel_length[i])
        assert length == 512
        assert path.read_bytes()[offset:] == path.read_bytes()[-512:]
    assert bare.formats[0].transfer_syntax_uid == syntax


def test_what_a_file_is_called_does_not_matter(tmp_path):
    write(tmp_path / "p", file_names=lambda i: ["I0", "1.txt", "IM-2.IMA", ".3", "4"][i])
    [stack] = scan(tmp_path).stacks
    assert len(stack.slices) == 5


def test_what_is_no_dicom_is_ignored_and_listed(tmp_path):
    contents = {
        "empty": b"",
        "four letters": b"DICM",
        "text": b"a note to the radiologist\n" * 20,
        "odd text": b"\x08\x00" + b"what starts like an element and is none " * 10,
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(300),
        "zeros": bytes(4096),
        "utf-16.dcm": "https://example.org/scan.dcm".encode("utf-16"),
    }
    write(tmp_path / "p")
    for name, content in contents.items():
        (tmp_path / "p" / name).write_bytes(content)
    result = scan(tmp_path)
    assert sorted(location.member for location in result.ignored) == sorted(contents)
    assert result.unreadable == ()
    assert result.files == 5 + len(contents)
    assert [len(stack.slices) for stack in result.stacks] == [5]


@pytest.mark.parametrize("kept_bytes", [140, 200, 303, 500, 1000])
def test_a_file_that_ends_within_its_header_is_unreadable_and_stops_nothing(tmp_path, kept_bytes):
    write(tmp_path / "p", file_names=lambda i: f"{i}")
    path = tmp_path / "p" / "3"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    result = scan(tmp_path)
    assert [item.location.member for item in result.unreadable] == ["3"]
    assert result.unreadable[0].detail
    assert [len(stack.slices) for stack in result.stacks] == [4]


def test_a_file_cut_off_anywhere_stops_no_scan(tmp_path):
    written = write(tmp_path / "good" / "p", count=1)
    content = (tmp_path / "good" / "p" / written[0].path).read_bytes()
    (tmp_path / "bad").mkdir()
    lengths = range(128, len(content), 5)
    for length in lengths:
        (tmp_path / "bad" / f"{length}").write_bytes(content[:length])
    result = scan(tmp_path / "bad")
    found = sum(len(stack.slices) for stack in result.stacks) + len(result.ignored) + len(result.unreadable)
    assert result.files == found == len(lengths)


def test_no_file_of_random_bytes_stops_a_scan(tmp_path):
    """Files are whole, then one byte after the other is something else."""
    written = write(tmp_path / "good" / "p", count=1)
    content = (tmp_path / "good" / "p" / written[0].path).read_bytes()
    rng = np.random.default_rng(5)
    (tmp_path / "bad").mkdir()
    for n in range(150):
        spoilt = bytearray(content)
        for at in rng.integers(132, len(content) - 512, 4):
            spoilt[at] = rng.integers(256)
        (tmp_path / "bad" / f"{n}").write_bytes(spoilt)
    result = scan(tmp_path / "bad")
    found = sum(len(stack.slices) for stack in result.stacks) + len(result.ignored) + len(result.unreadable)
    assert result.files == 150
    assert found == 150


def test_a_broken_zip_is_unreadable_and_stops_nothing(tmp_path):
    write(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "q.zip", "w") as archive:
        write(archive.writestr, patient_id="P2")
    content = bytearray((tmp_path / "q.zip").read_bytes())
    content[400:500] = bytes(100)  # in the first member; the directory at the end is whole
    (tmp_path / "q.zip").write_bytes(content)
    result = scan(tmp_path)
    assert {stack.key.patient_id for stack in result.stacks} == {"P1", "P2"}
    assert len(result.unreadable) == 1
    assert sum(len(stack.slices) for stack in result.stacks) == 9


def test_a_series_in_two_folders_is_one_stack(tmp_path):
    write(tmp_path / "all", file_names=lambda i: f"{i}")
    for i in range(5):
        target = tmp_path / "split" / ("a" if i % 2 else "b")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "all" / f"{i}", target)
    whole, split = scan(tmp_path / "all").stacks, scan(tmp_path / "split").stacks
    assert len(whole) == len(split) == 1
    assert split[0].key == whole[0].key
    assert sorted(split[0].slices.sop_instance_uid) == sorted(whole[0].slices.sop_instance_uid)


def test_a_series_half_in_a_folder_and_half_in_a_zip_is_one_stack_with_its_formats(tmp_path):
    series = {"file_names": lambda i: f"{i}"}
    write(tmp_path / "a", **series)
    write(tmp_path / "b", transfer_syntax_uid=IMPLICIT, **series)
    (tmp_path / "in" / "x").mkdir(parents=True)
    for i in (0, 1):
        shutil.copy(tmp_path / "a" / f"{i}", tmp_path / "in" / "x")
    with zipfile.ZipFile(tmp_path / "in" / "y.zip", "w") as archive:
        for i in (2, 3, 4):
            archive.write(tmp_path / "b" / f"{i}", f"{i}")
    [stack] = scan(tmp_path / "in").stacks
    found = {
        location.member: stack.formats[stack.slices.format[i]].transfer_syntax_uid
        for i, location in enumerate(stack.slices.locations)
    }
    assert found == {"0": EXPLICIT, "1": EXPLICIT, "2": IMPLICIT, "3": IMPLICIT, "4": IMPLICIT}


def test_matrix_sizes_orientations_and_spacings_under_one_uid_are_separate_stacks(tmp_path):
    common = {"patient_id": "P1", "study_uid": "1.2.3", "series_uid": "1.2.3.4"}
    shapes = [
        {"rows": 16},
        {"rows": 24},
        {"rows": 16, "orientation": "coronal"},
        {"rows": 16, "pixel_spacing_mm": (3.0, 3.0)},
    ]
    for n, shape in enumerate(shapes):
        write_series(tmp_path / "p" / f"{n}", HeadPhantom(), acquisition(**shape), **common)
    stacks = scan(tmp_path).stacks
    assert sorted(len(stack.slices) for stack in stacks) == [5, 5, 5, 5]
    assert {stack.key.series_instance_uid for stack in stacks} == {"1.2.3.4"}
    assert len({stack.key for stack in stacks}) == 4


def test_cosines_and_spacings_that_differ_in_the_last_printed_digit_are_one_stack(tmp_path):
    def jitter(index, dataset):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 1e-6 * index]
        dataset.PixelSpacing = [12.5 + 1e-6 * index, 12.5]

    write(tmp_path / "p", edit=jitter)
    [stack] = scan(tmp_path).stacks
    assert len(stack.slices) == 5


@pytest.mark.parametrize("how", ["empty", "absent", "blank"])
@pytest.mark.parametrize("zipped", [False, True])
def test_without_patient_id_the_folder_or_zip_names_the_patient(tmp_path, how, zipped):
    def anonymous(_, dataset):
        if how == "absent":
            del dataset.PatientID
        else:
            dataset.PatientID = "" if how == "empty" else "  "

    if zipped:
        with zipfile.ZipFile(tmp_path / "CQ500CT7.zip", "w") as archive:
            write(lambda name, content: archive.writestr(f"study/series/{name}", content), edit=anonymous)
    else:
        write(tmp_path / "CQ500CT7" / "study" / "series", edit=anonymous)
    [stack] = scan(tmp_path).stacks
    assert stack.key.patient_id == "CQ500CT7"
    assert stack.key.patient_id_from_path


def test_without_series_uid_the_folder_tells_series_apart_and_its_name_is_not_told(tmp_path):
    for name in ("axial", "thin"):
        folder = tmp_path / "p" / "Doe John" / name
        write(folder)
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            del dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.SOPInstanceUID
            dataset.save_as(path, enforce_file_format=False)
    stacks = scan(tmp_path).stacks
    assert [len(stack.slices) for stack in stacks] == [5, 5]
    assert len({stack.key.series_instance_uid for stack in stacks}) == 2
    for stack in stacks:
        assert len(set(stack.slices.sop_instance_uid.tolist())) == 5
        assert pydicom.uid.UID(stack.key.series_instance_uid).is_valid
        assert "Doe" not in repr(stack.key)


def test_a_localizer_and_an_object_without_pixels_are_seen_as_such(tmp_path):
    def without_pixels(_, dataset):
        dataset.SOPClassUID = pydicom.uid.RawDataStorage
        del dataset.PixelData

    write(tmp_path / "p" / "volume")
    write_localizer(tmp_path / "p" / "scout", HeadPhantom(), rows=16, patient_id="P1", series_number=2)
    write(tmp_path / "p" / "report", count=1, series_number=3, edit=without_pixels)
    found = {s.key.series_number: (s.key.is_localizer, s.key.has_pixels) for s in scan(tmp_path).stacks}
    assert found == {1: (False, True), 2: (True, True), 3: (False, False)}


def test_frames_of_an_enhanced_file_are_slices_with_the_geometry_of_single_files(tmp_path):
    series = acquisition(intercept=(-1024.0, -1000.0, -1024.0, -900.0, -1024.0), orientation="sagittal")
    write_series(tmp_path / "single" / "p", HeadPhantom(), series, file_names="spatial")
    write_enhanced(tmp_path / "multi" / "p", HeadPhantom(), series)
    [single], [multi] = scan(tmp_path / "single").stacks, scan(tmp_path / "multi").stacks
    assert multi.slices.frame.tolist() == [0, 1, 2, 3, 4]
    # Slices come by UID, frames by number; the plan orders both by position.
    spatial = np.argsort(single.slices.position_lps_mm[:, 0])
    in_space = single.slices.take(spatial[:: -1 if multi.slices.position_lps_mm[0, 0] > 0 else 1])
    np.testing.assert_allclose(multi.slices.position_lps_mm, in_space.position_lps_mm, atol=1e-6)
    assert multi.slices.intercept.tolist() == in_space.intercept.tolist()
    assert sorted(multi.slices.intercept) == sorted(series.intercept)
    assert multi.key.orientation == single.key.orientation
    assert multi.key.pixel_spacing_mm == single.key.pixel_spacing_mm


def test_missing_numbers_are_nan_and_no_guess(tmp_path):
    def poor(_, dataset):
        for keyword in ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "SliceThickness"):
            delattr(dataset, keyword)
        del dataset.ImageOrientationPatient
        del dataset.PixelSpacing

    write(tmp_path / "p", edit=poor)
    [stack] = scan(tmp_path).stacks
    for column in (stack.slices.slope, stack.slices.intercept, stack.slices.thickness_mm, stack.slices.padding):
        assert np.isnan(column).all()
    assert np.isnan(stack.slices.position_lps_mm).all()
    assert (stack.key.orientation, stack.key.pixel_spacing_mm) == ((), ())


def test_only_allowed_attributes_are_kept(tmp_path):
    def tell(_, dataset):
        dataset.PatientName = "SECRET^NAME"
        dataset.SeriesDescription = "SECRET"

    write(tmp_path / "p", edit=tell)
    [stack] = scan(tmp_path).stacks
    assert stack.header.dicom["KVP"] == 120
    assert stack.header.dicom["Manufacturer"] == "SYNTHETIC"
    assert "SECRET" not in repr(stack.header.dicom)
    assert {"PatientName", "PatientID", "SeriesDescription", "AcquisitionDate"}.isdisjoint(stack.header.dicom)


def test_scans_can_be_sent_between_processes(tmp_path):
    write(tmp_path / "p")
    result = scan(tmp_path)
    [there] = pickle.loads(pickle.dumps(result)).stacks
    assert there.key == result.stacks[0].key
    assert np.array_equal(there.slices.position_lps_mm, result.stacks[0].slices.position_lps_mm)
