"""A damaged mask file is refused by name, whatever the library for it raises."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from drawn import ball, contours_of, image_planes, write_rtstruct, write_seg
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from etl.codes import LabelCode
from etl.labels.mask_file import read_mask_file
from etl.labels.source_mask import LabelError
from etl.labels.survey import find_masks, read_mask, survey

nibabel = pytest.importorskip("nibabel", reason="ct-etl[labels] is not installed")
nrrd = pytest.importorskip("nrrd", reason="ct-etl[labels] is not installed")

NAMES = ["m.nii", "m.nii.gz", "m.nrrd"]
VALUES = np.random.default_rng(3).integers(0, 3, (12, 11, 10)).astype(np.uint8)


def written(path):
    if path.name == "m.nrrd":
        header = {"space": "lps", "space directions": np.eye(3), "space origin": [0, 0, 0]}
        nrrd.write(str(path), VALUES, header)
    else:
        nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), path)
    return path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_file_cut_off_anywhere_is_refused(tmp_path, name):
    whole = written(tmp_path / name)
    np.testing.assert_array_equal(read_mask_file(tmp_path / name).values, VALUES)
    for length in np.linspace(0, len(whole) * 0.95, 25).astype(int):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(LabelError) as refused:
            read_mask_file(tmp_path / name)
        assert refused.value.code == LabelCode.UNREADABLE_MASK


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_changed_raise_nothing_else(tmp_path, name):
    whole, random = written(tmp_path / name), np.random.default_rng(7)
    refused = []
    for _ in range(60):
        content = np.frombuffer(whole, np.uint8).copy()
        start = random.integers(0, len(content) - 20)
        content[start : start + 20] = random.integers(0, 256, 20)
        (tmp_path / name).write_bytes(content.tobytes())
        try:
            read_mask_file(tmp_path / name)
        except LabelError as error:
            refused.append(error.code)
    # Without compression only the header can be found to be wrong.
    assert refused or name == "m.nii"
    assert set(refused) <= {LabelCode.UNREADABLE_MASK}


@pytest.mark.parametrize("kind", ["seg", "deflated seg", "rtstruct"])
def test_a_damaged_dicom_mask_never_ends_the_run(scan, tmp_path, kind):
    path, shape = tmp_path / "m.dcm", ball("ball", (0, 0, 0), 20)
    if kind == "rtstruct":
        write_rtstruct(path, scan.slices, [("ball", contours_of(shape, image_planes(scan.slices)))])
    else:
        write_seg(path, scan.slices, [shape])
    if kind == "deflated seg":
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    [source] = find_masks([str(tmp_path)]).sources
    whole, random = path.read_bytes(), np.random.default_rng(5)
    refused = 0
    for number in range(120):
        content = np.frombuffer(whole, np.uint8).copy()
        start = random.integers(200, len(content) - 20)
        if number % 3 == 0:
            content = content[:start]
        else:
            content[start : start + 4] = random.integers(0, 256, 4)
        path.write_bytes(content.tobytes())
        find_masks([str(tmp_path)])
        survey(source)
        try:
            read_mask(source)
        except LabelError:
            refused += 1
    assert refused >= 40


def test_dicom_that_cannot_be_read_is_told_by_name_and_what_holds_no_mask_is_counted(scan, tmp_path, in_process):
    """In a folder too, where it was passed over: it may be a mask."""
    folder = tmp_path / "masks"
    folder.mkdir()
    whole = write_seg(folder / "whole.dcm", scan.slices, [ball("ball", (0, 0, 0), 20)]).read_bytes()
    mark = whole[:132]
    (folder / "junk.dcm").write_bytes(mark + b"\xff" * 40)
    (folder / "no-more.dcm").write_bytes(mark)
    (folder / "cut.dcm").write_bytes(whole[:400])
    (folder / "lost.dcm").symlink_to("nowhere")
    (folder / "note.txt").write_text("mine")
    scan.slices[0].save_as(folder / "slice.dcm")
    os.mkfifo(folder / "pipe")
    options = ("--workers", "0", "-q", "--run-dir", tmp_path / "record")
    done = in_process("label", scan.store, folder, *options)
    assert done.status == 3, done.why
    entries = [json.loads(line) for line in (tmp_path / "record/ledger.jsonl").read_text().splitlines()]
    found = {Path(entry["source"]).name: (entry["outcome"], entry["reason"]) for entry in entries}
    unreadable = ("failed", "unreadable-mask")
    names = ("cut.dcm", "junk.dcm", "lost.dcm", "no-more.dcm")
    assert found == {**dict.fromkeys(names, unreadable), "whole.dcm": ("written", None)}
    assert all(f"failed  {name}" in done.stdout for name in names)
    assert "5 masks: 1 written, 0 unchanged, 4 failed; 2 files hold no mask" in done.stdout
    assert json.loads((tmp_path / "record/run.json").read_text())["ignored_files"] == 2
    done = in_process("label", scan.store, folder / "junk.dcm", *options)
    assert (done.status, "unreadable-mask" in done.stdout) == (3, True)


def test_a_dicomdir_holds_no_mask(tmp_path):
    """It has no SOP Class UID in its data set (DICOM PS3.10 8.6)."""
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.FileSetID = "ANY"
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    found = find_masks([str(tmp_path)])
    assert (found.sources, found.ignored_files) == ((), 1)
