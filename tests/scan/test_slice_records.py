"""Headers as hospitals write them: what is absent, wrong or not ASCII, and what then becomes of the series.

Files are phantoms, edited; the truth is what they were told to be.
"""

from __future__ import annotations

import io
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from series import Edit, one_stack, scan, small_acquisition, small_series

from etl.config import Config
from etl.entry import Entry
from etl.phantom.files import Acquisition, synthetic_uid, write_enhanced
from etl.phantom.head import HeadPhantom
from etl.plan.plan import Plan, make_plan
from etl.read.patients import Store, open_store
from etl.run.run import run

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
HEAD = HeadPhantom()
CONFIG = Config(spacing_mm=(5.0, 8.0, 8.0), min_slices=2, workers=0, quiet=True)


def plan(*inputs: Path) -> Plan:
    return make_plan(scan(*inputs), CONFIG)


def entries(*inputs: Path) -> list[Entry]:
    found = plan(*inputs)
    return sorted(
        [*found.settled, *(task.entry for task in found.tasks)], key=lambda e: (e.patient_id, e.series_key)
    )


def land(store: Path, *inputs: Path) -> tuple[list[Entry], Store]:
    """Run on the inputs in this process, without drawing the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etl.report.page.write_report", lambda *_, **__: None)
        found = run(list(map(str, inputs)), str(store), CONFIG).entries
    assert not [entry for entry in found if entry.reason == "internal-error"]
    return list(found), open_store(store)


def write(folder: Path, **options: Any) -> list[Path]:
    """Write a small series; give its files."""
    written = small_series(
        folder, **{"count": 4, "rows": 20, "pixel_spacing_mm": (12.0, 12.0), "file_names": "spatial", **options}
    )
    return [folder / one.path for one in written]


def without(*keywords: str) -> Edit:
    def edit(_: int, ds: Dataset) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return edit


def setting(**values: Any) -> Edit:
    def edit(_: int, ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return edit


def only(slices: set[int], change: Edit) -> Edit:
    """Change some of the slices."""
    return lambda index, ds: change(index, ds) if index in slices else None


def replace_value(path: Path, before: bytes, after: bytes) -> None:
    """Change the bytes of a value that pydicom would not write; its length stays."""
    content = path.read_bytes()
    assert content.count(before) >= 1
    assert len(before) == len(after)
    path.write_bytes(content.replace(before, after, 1))


# --- files without their beginning ----------------------------------------------------------------------


def strip(path: Path, *, meta: bool) -> None:
    """Leave out preamble and magic, and with `meta` False the file meta information too."""
    content = path.read_bytes()
    start = 132
    if not meta:
        stream = io.BytesIO(content)
        start = 132 + 12 + int.from_bytes(content[140:144], "little")
        assert pydicom.dcmread(stream).file_meta.FileMetaInformationGroupLength == start - 144
    path.write_bytes(content[start:])


@pytest.mark.parametrize("meta", [True, False], ids=["meta", "no-meta"])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_files_without_preamble_or_meta_give_the_same_volume(syntax: str, meta: bool, tmp_path: Path) -> None:
    write(tmp_path / "whole" / "p", transfer_syntax_uid=syntax)
    for path in write(tmp_path / "stripped" / "p", transfer_syntax_uid=syntax):
        strip(path, meta=meta)
    volumes = []
    for name in ("whole", "stripped"):
        [entry], store = land(tmp_path / f"{name}.zarr", tmp_path / name)
        assert entry.outcome == "written"
        volumes.append(store["P1"].default)
    np.testing.assert_array_equal(volumes[0].to_hu(), volumes[1].to_hu())
    assert volumes[0].source_slices == volumes[1].source_slices


# --- identity -------------------------------------------------------------------------------------------


def test_two_studies_of_a_patient_land_under_one_patient(tmp_path: Path) -> None:
    for study in "12":
        uid = synthetic_uid("study", study)
        write(tmp_path / "in" / study, study_uid=uid, series_number=int(study))
    written, store = land(tmp_path / "s.zarr", tmp_path / "in")
    assert [entry.outcome for entry in written] == ["written", "written"]
    assert list(store) == ["P1"]
    assert len({volume.attributes["study_instance_uid"] for volume in store["P1"].values()}) == 2


def test_two_series_with_one_number_have_keys_of_their_own(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "in" / name, series_uid=synthetic_uid("series", name), series_number=3)
    first, second = entries(tmp_path / "in")
    assert first.series_number == second.series_number == 3
    assert first.series_key != second.series_key
    assert {key[:5] for key in (first.series_key, second.series_key)} == {"0003-"}


ALL_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@pytest.mark.parametrize(
    "keywords", [("SeriesInstanceUID",), ("StudyInstanceUID",), ("SOPInstanceUID",), ALL_UIDS]
)
def test_missing_uids_are_made_from_the_folder(keywords: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("CT1", "CT2"):
        made = write(tmp_path / "in" / "p" / name, series_uid=synthetic_uid(name))
        for path in made:
            ds = pydicom.dcmread(path)
            without(*keywords)(0, ds)
            ds.save_as(path)
    stacks = scan(tmp_path / "in").stacks
    assert len(stacks) == 2
    assert len({stack.key.series_instance_uid for stack in stacks}) == 2
    assert len({stack.key.study_instance_uid for stack in stacks}) == 1
    uids = [uid for stack in stacks for uid in stack.slices.sop_instance_uid.tolist()]
    assert len(set(uids)) == 8
    for stack in stacks:
        for uid in (stack.key.study_instance_uid, stack.key.series_instance_uid, *map(bytes.decode, uids)):
            assert UID(uid).is_valid
            assert "CT1" not in uid


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_top_level_folders_and_zips_tell_series_without_uids_apart(zipped: bool, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("first", "second"):
        paths = write(
            tmp_path / "made" / name, edit=without("SeriesInstanceUID", "StudyInstanceUID"), seed=ord(name[0])
        )
        if zipped:
            with zipfile.ZipFile(tmp_path / "in" / f"{name}.zip", "w") as archive:
                for path in paths:
                    archive.write(path, path.name)
        else:
            (tmp_path / "made" / name).rename(tmp_path / "in" / name)
    found = entries(tmp_path / "in")
    assert [(entry.outcome, entry.reason, entry.slices) for entry in found] == [("written", None, 4)] * 2
    assert len({entry.series_instance_uid for entry in found}) == 2


def test_series_without_uids_in_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    for day in ("day1", "day2"):
        for path in write(tmp_path / day / "IMG", seed=ord(day[-1])):
            ds = pydicom.dcmread(path)
            without(*ALL_UIDS)(0, ds)
            ds.save_as(path)
    [entry] = entries(tmp_path / "day1", tmp_path / "day2")
    assert (entry.outcome, entry.reason, entry.slices) == ("failed", "inconsistent-slices", 8)
    assert "Series Instance UID" in str(entry.detail)


def test_series_numbers_tell_series_without_uids_in_one_folder_apart(tmp_path: Path) -> None:
    for number in (2, 3):
        for path in write(tmp_path / "in" / "p", series_number=number, file_names=lambda k, n=number: f"{n}-{k}"):
            ds = pydicom.dcmread(path)
            without(*ALL_UIDS)(0, ds)
            ds.save_as(path)
    found = entries(tmp_path / "in")
    assert [(entry.outcome, entry.slices, entry.series_number) for entry in found] == [
        ("written", 4, 2),
        ("written", 4, 3),
    ]


@pytest.mark.parametrize("patient_id", ["P1", ""])
def test_made_up_uids_stay_when_the_input_moves(patient_id: str, tmp_path: Path) -> None:
    edit = without("SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID")

    def unnamed(index: int, ds: Dataset) -> None:
        edit(index, ds)

    before = tmp_path / "before" / "in"
    for path in write(before / "patient" / "CT", patient_id=patient_id):
        ds = pydicom.dcmread(path)
        unnamed(0, ds)
        ds.save_as(path)
    first = one_stack(before)
    after = tmp_path / "somewhere" / "else"
    after.parent.mkdir()
    before.rename(after)
    second = one_stack(after)
    assert first.key == second.key
    np.testing.assert_array_equal(first.slices.sop_instance_uid, second.slices.sop_instance_uid)
    assert make_plan(scan(after), CONFIG).tasks[0].entry.series_key.startswith("0001-")


@pytest.mark.parametrize("patient_id", ["", " ", "\0 "])
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_an_empty_patient_id_is_the_top_level_folder_or_zip(patient_id: str, zipped: bool, tmp_path: Path) -> None:
    for name in ("north", "south"):
        paths = write(tmp_path / "in" / name / "deep" / "er", patient_id=patient_id or "x", seed=ord(name[0]))
        for path in paths:
            ds = pydicom.dcmread(path)
            ds.PatientID = patient_id
            ds.save_as(path)
        if zipped:
            with zipfile.ZipFile(tmp_path / "in" / f"{name}.zip", "w") as archive:
                for path in paths:
                    archive.write(path, f"deep/er/{path.name}")
                    path.unlink()
            for folder in ("deep/er", "deep", ""):
                (tmp_path / "in" / name / folder).rmdir()
    found = entries(tmp_path / "in")
    assert [entry.patient_id for entry in found] == ["north", "south"]
    assert all("no-patient-id" in entry.warnings for entry in found)


def test_a_file_without_patient_is_of_the_patient_whom_its_series_names(tmp_path: Path) -> None:
    write(tmp_path / "in" / "folder", edit=lambda k, ds: setattr(ds, "PatientID", "P1" if k else ""))
    assert {entry.patient_id: entry.slices for entry in entries(tmp_path / "in")} == {"P1": 4}


# --- character sets -------------------------------------------------------------------------------------

NAMES = {
    "utf-8": (["ISO_IR 192"], "患者-Ünï-42"),
    "latin-1": (["ISO_IR 100"], "Jürgen-42"),
    "cyrillic": (["ISO_IR 144"], "Шишкинъ-Ждёт"),
    "greek": (["ISO_IR 126"], "Διονυσιος"),
    "japanese": (["", "ISO 2022 IR 87"], "山田"),
    "korean": (["", "ISO 2022 IR 149"], "김희중"),
    "gb18030": (["GB18030"], "王小东"),
}


@pytest.mark.parametrize("name", NAMES)
def test_attributes_in_any_character_set_reach_the_store_as_they_are(name: str, tmp_path: Path) -> None:
    charset, text = NAMES[name]
    edit = setting(
        SpecificCharacterSet=charset, PatientID=text, ConvolutionKernel="SOFT", ManufacturerModelName=text
    )
    write(tmp_path / "in" / "p", edit=edit)
    [entry], store = land(tmp_path / "s.zarr", tmp_path / "in")
    assert (entry.outcome, entry.patient_id) == ("written", text)
    assert entry.patient_key.isascii()
    assert list(store) == [text]
    assert store[text].default.dicom["ManufacturerModelName"] == text


def test_text_that_its_character_set_cannot_hold_stops_nothing(tmp_path: Path) -> None:
    for path in write(tmp_path / "in" / "p", patient_id="ABCDEF", edit=setting(SpecificCharacterSet="ISO_IR 192")):
        replace_value(path, b"ABCDEF", b"AB\xff\xfeEF")
    [entry], store = land(tmp_path / "s.zarr", tmp_path / "in")
    assert entry.outcome == "written"
    assert entry.patient_id.startswith("AB")
    assert len(store) == 1


def test_a_character_set_that_nobody_knows_stops_nothing(tmp_path: Path) -> None:
    for path in write(tmp_path / "in" / "p"):
        replace_value(path, b"ISO_IR 100", b"ISO_IR 999")
    assert [entry.outcome for entry in entries(tmp_path / "in")] == ["written"]


@pytest.mark.skipif(sys.platform in {"darwin", "win32"}, reason="this file system keeps names in Unicode")
def test_file_and_folder_names_that_are_no_utf_8_are_read(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"in", b"M\xfcller \xff", b"CT \xe9")
    os.makedirs(folder)
    for path in write(tmp_path / "made", patient_id=""):
        os.rename(path, os.path.join(folder, os.fsencode(path.name) + b"\xe4\xf6.dcm"))
    [entry], store = land(tmp_path / "s.zarr", tmp_path / "in")
    assert entry.outcome == "written"
    assert "no-patient-id" in entry.warnings
    assert entry.patient_key.isascii()
    assert [len(patient) for patient in store.values()] == [1]


@pytest.mark.skipif(sys.platform in {"darwin", "win32"}, reason="this file system keeps names in Unicode")
def test_identity_from_a_folder_whose_name_is_no_utf_8_is_stable(tmp_path: Path) -> None:
    found = []
    for where in ("one", "two"):
        folder = os.path.join(os.fsencode(tmp_path), where.encode(), b"p", b"CT \xe9")
        os.makedirs(folder)
        for path in write(tmp_path / "made", edit=without("SeriesInstanceUID", "StudyInstanceUID")):
            os.rename(path, os.path.join(folder, os.fsencode(path.name)))
        found.append(one_stack(tmp_path / where).key)
    assert found[0] == found[1]


# --- numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "before", "after", "reason"),
    [
        ("PixelSpacing", b"12.0\\12.0 ", b"12,0\\12,0 ", "missing-geometry"),
        ("PixelSpacing", b"12.0\\12.0 ", b"          ", "missing-geometry"),
        ("PixelSpacing", b"12.0\\12.0 ", b"0.0\\12.0  ", "missing-geometry"),
        ("PixelSpacing", b"12.0\\12.0 ", b"nan\\12.0  ", "missing-geometry"),
        ("RescaleSlope", b"RS\x04\x001.0 ", b"RS\x04\x00one ", "missing-rescale"),
        (
            "ImageOrientationPatient",
            b"1.0\\0.0\\0.0\\0.0\\1.0\\0.0 ",
            b"1.0\\0.0\\0.0\\0.0\\1.0     ",
            "missing-geometry",
        ),
        (
            "ImageOrientationPatient",
            b"1.0\\0.0\\0.0\\0.0\\1.0\\0.0 ",
            b"inf\\0.0\\0.0\\0.0\\1.0\\0.0 ",
            "missing-geometry",
        ),
    ],
)
def test_decimal_strings_that_are_none_are_refused_and_not_guessed(
    keyword: str, before: bytes, after: bytes, reason: str, tmp_path: Path
) -> None:
    for path in write(tmp_path / "in" / "p"):
        value = str(pydicom.dcmread(path, stop_before_pixels=True)[keyword].value)
        assert value
        if keyword == "RescaleSlope":
            before, after = b"DS" + before[2:], b"DS" + after[2:]
        replace_value(path, before, after)
    [entry] = entries(tmp_path / "in")
    assert (entry.outcome, entry.reason) == ("failed", reason)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"-1024.0 ", b"  -1024 "),
        (b"-1024.0 ", b"-1.024E3"),
        (b"-1024.0 ", b"-1024\0  "),
        (b"-1024.0 ", b"-1024\0\0\0"),
        (b"-1024.0 ", b"-1024.00"),
    ],
)
def test_decimal_strings_with_odd_padding_or_exponents_are_numbers(
    before: bytes, after: bytes, tmp_path: Path
) -> None:
    for path in write(tmp_path / "in" / "p"):
        replace_value(path, before, after)
    assert one_stack(tmp_path / "in").slices.intercept.tolist() == [-1024.0] * 4


def test_numbers_longer_than_the_standard_allows_are_read(tmp_path: Path) -> None:
    def edit(index: int, ds: Dataset) -> None:
        with pydicom.config.disable_value_validation():
            ds.ImagePositionPatient = [f"{-120.5:.18f}", f"{-130.25:.18f}", f"{5.0 * index + 1 / 3:.18f}"]

    with pydicom.config.disable_value_validation():
        write(tmp_path / "in" / "p", edit=edit)
    position = one_stack(tmp_path / "in").slices.position_lps_mm
    np.testing.assert_allclose(np.sort(position[:, 2]), 5.0 * np.arange(4) + 1 / 3, atol=1e-12)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("slices", [{0, 1, 2, 3}, {2}])
def test_a_rescale_that_is_absent_or_empty_is_refused(keyword: str, slices: set[int], tmp_path: Path) -> None:
    for name, change in (("absent", without(keyword)), ("empty", setting(**{keyword: None}))):
        write(tmp_path / name / "p", edit=only(slices, change))
        [entry] = entries(tmp_path / name)
        assert (entry.outcome, entry.reason) == ("failed", "missing-rescale")
        assert f"{len(slices)} of 4" in str(entry.detail)


@pytest.mark.parametrize(
    ("value", "written"), [("HU", True), ("HU ", True), (None, True), ("US", False), ("OD", False)]
)
def test_rescale_type_is_hu_or_absent(value: str | None, written: bool, tmp_path: Path) -> None:
    edit = without("RescaleType") if value is None else setting(RescaleType=value)
    write(tmp_path / "in" / "p", edit=edit)
    [entry] = entries(tmp_path / "in")
    assert (entry.outcome, entry.reason) == (("written", None) if written else ("failed", "missing-rescale"))


def test_rescale_belongs_to_its_slice(tmp_path: Path) -> None:
    intercepts = (-1024.0, -2040.0, -1024.0, -1000.5)
    write(tmp_path / "in" / "p", intercept=intercepts)
    stack = one_stack(tmp_path / "in")
    by_number = dict(zip(stack.slices.instance_number.tolist(), stack.slices.intercept.tolist(), strict=True))
    assert by_number == dict(enumerate(intercepts, start=1))


# --- functional groups ----------------------------------------------------------------------------------


def enhanced(folder: Path, edit: Callable[[Dataset], object] | None = None, **options: Any) -> Path:
    acquisition = small_acquisition(**{"count": 4, "rows": 20, **options})
    written = write_enhanced(folder, HEAD, acquisition, patient_id="P1")
    path = folder / written.path
    if edit is not None:
        ds = pydicom.dcmread(path)
        edit(ds)
        ds.save_as(path)
    return path


def test_geometry_and_rescale_come_from_the_functional_groups(tmp_path: Path) -> None:
    acquisition = Acquisition.regular(
        count=4, rows=20, columns=24, pixel_spacing_mm=(12.0, 10.0), thickness_mm=4.0, orientation="coronal"
    )
    write_enhanced(tmp_path / "in", HEAD, acquisition)
    stack = one_stack(tmp_path / "in")
    assert stack.key.orientation == acquisition.orientation
    assert stack.key.pixel_spacing_mm == (12.0, 10.0)
    assert stack.slices.frame.tolist() == [0, 1, 2, 3]
    assert stack.slices.thickness_mm.tolist() == [4.0] * 4
    assert stack.slices.slope.tolist() == [1.0] * 4
    assert stack.slices.intercept.tolist() == [-1024.0] * 4
    np.testing.assert_allclose(stack.slices.position_lps_mm, acquisition.positions_lps_mm, atol=1e-6)


def test_frames_of_a_localizer_are_no_volume(tmp_path: Path) -> None:
    def scout(ds: Dataset) -> None:
        frame_type = Dataset()
        frame_type.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
        ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        ds.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = Sequence([frame_type])

    enhanced(tmp_path / "in", scout)
    [entry] = entries(tmp_path / "in")
    assert (entry.outcome, entry.reason) == ("excluded", "localizer")


def test_the_group_of_a_frame_goes_before_the_shared_one(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        [shared] = ds.SharedFunctionalGroupsSequence
        own, rescale = ds.PerFrameFunctionalGroupsSequence[2], Dataset()
        rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = "-2040", "1", "HU"
        own.PixelValueTransformationSequence = [rescale]
        assert shared.PixelValueTransformationSequence[0].RescaleIntercept == -1024

    enhanced(tmp_path / "in", edit)
    assert one_stack(tmp_path / "in").slices.intercept.tolist() == [-1024.0, -1024, -2040, -1024]


def test_rescale_that_the_functional_groups_lack_is_refused(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence

    enhanced(tmp_path / "in", edit)
    [entry] = entries(tmp_path / "in")
    assert (entry.outcome, entry.reason) == ("failed", "missing-rescale")


def test_a_rescale_type_in_the_functional_groups_counts(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "US"

    enhanced(tmp_path / "in", edit)
    [entry] = entries(tmp_path / "in")
    assert (entry.outcome, entry.reason) == ("failed", "missing-rescale")


def test_frames_of_two_time_points_in_one_file_are_two_stacks(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        frames = ds.PerFrameFunctionalGroupsSequence
        for k, item in enumerate(frames):
            item.FrameContentSequence[0].TemporalPositionIndex = 1 + k // 4
            place = frames[k % 4].PlanePositionSequence[0].ImagePositionPatient
            item.PlanePositionSequence[0].ImagePositionPatient = list(place)

    enhanced(tmp_path / "in", edit, count=8)
    found = entries(tmp_path / "in")
    assert [(entry.outcome, entry.slices) for entry in found] == [("written", 4)] * 2
    assert re.fullmatch(rf"{found[0].series_key}-[0-9a-f]{{8}}", found[1].series_key)


def test_frames_of_two_orientations_in_one_file_are_two_stacks(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
        for k, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
            plane = Dataset()
            plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0] if k < 5 else [1, 0, 0, 0, 0, -1]
            item.PlaneOrientationSequence = [plane]
            item.PlanePositionSequence[0].ImagePositionPatient = [0, 5 * k, 5 * k]

    enhanced(tmp_path / "in", edit, count=9)
    assert sorted(len(stack.slices) for stack in scan(tmp_path / "in").stacks) == [4, 5]


# --- what lies between the images -----------------------------------------------------------------------


def test_objects_without_pixels_between_the_images_change_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path / "in" / "p")
    before = entries(tmp_path / "in")
    ds = pydicom.dcmread(paths[0])
    del ds.PixelData
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.11.1")
    ds.Modality, ds.SOPInstanceUID, ds.SeriesInstanceUID = "PR", synthetic_uid("state"), synthetic_uid("states")
    ds.save_as(tmp_path / "in" / "p" / "PR000001")
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    directory.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    directory.file_meta.MediaStorageSOPInstanceUID = UID(synthetic_uid("directory"))
    directory.FileSetID, directory.DirectoryRecordSequence = "DISK", []
    directory.save_as(tmp_path / "in" / "DICOMDIR", enforce_file_format=True)
    after = entries(tmp_path / "in")
    assert [entry for entry in after if entry.outcome == "written"] == before
    assert {entry.outcome for entry in after} == {"written", "excluded"}


def test_a_presentation_state_in_the_series_of_its_images_changes_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path / "in" / "p")
    before = entries(tmp_path / "in")
    ds = pydicom.dcmread(paths[0])
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.11.1")
    ds.Modality, ds.SOPInstanceUID = "PR", synthetic_uid("state")
    ds.save_as(tmp_path / "in" / "p" / "PR000001")
    assert [entry for entry in entries(tmp_path / "in") if entry.outcome == "written"] == before


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_identifiers_that_are_too_long_are_kept_apart():
    """They agree in their first 64 characters, which is all that the source map can hold."""
    from etl.scan.identity import MAX_UID_CHARACTERS, uid

    found = []
    for last in "12":
        ds = Dataset()
        with pydicom.config.disable_value_validation():
            ds.SeriesInstanceUID = "1." * 35 + last
        found.append(uid(ds, "SeriesInstanceUID"))
    assert len(set(found)) == 2
    assert all(len(one) <= MAX_UID_CHARACTERS and one.startswith("2.25.") for one in found)
