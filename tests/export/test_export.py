"""Volumes and labels as files: what other libraries read of them is what the store holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from handmade_store import Series, write_store
from labeled_stores import add_label
from series import small_series

from etl.errors import UsageError
from etl.export.export import export
from etl.export.image_files import mark_of
from etl.read.patients import Volume, open_store

nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
pytest.importorskip("nrrd", reason="pynrrd is not installed")
sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")

SHAPE = (6, 7, 8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three patients, one with two series; two have labels, in which the same value means different things."""
    rng = np.random.default_rng(0)
    stored = [
        Series(rng.uniform(-900, 900, SHAPE).astype(np.float32), patient, key, is_default=key.startswith("0001"))
        for patient, key in (("P1", "0001-a"), ("P1", "0002-b"), ("P2", "0001-c"), ("P3", "0001-d"))
    ]
    path = write_store(tmp_path / "s.zarr", stored)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2:4, 3:6], mask[4:, 5:, 6:] = 2, 5
    add_label(path, "P1/0001-a", "organs", mask, {2: "liver", 5: "spleen"})
    add_label(path, "P2/0001-c", "organs", mask, {2: "spleen", 5: "kidney"})
    return path


def volumes(store: Path) -> list[Volume]:
    return [volume for patient in open_store(store).values() for volume in patient.values()]


@pytest.mark.parametrize(("form", "ending"), [("nifti", ".nii.gz"), ("nrrd", ".nrrd")])
@pytest.mark.parametrize("hu", [True, False])
def test_a_file_holds_the_voxels_and_lies_where_the_volume_lies(store, tmp_path, form, ending, hu):
    done = export(
        str(store), tmp_path / "out", form=form, hu=hu, labels=["organs"], series="all", workers=0, quiet=True
    )
    assert (done.volumes, done.files_written, done.failed) == (4, 6, {})
    for volume in volumes(store):
        image, wanted = sitk.ReadImage(str(tmp_path / "out" / f"{volume.node}{ending}")), volume.to_sitk(hu=hu)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(wanted))
        for name in ("Origin", "Spacing", "Direction"):
            np.testing.assert_allclose(getattr(image, f"Get{name}")(), getattr(wanted, f"Get{name}")(), atol=1e-5)
        if volume.labels:
            mask = sitk.ReadImage(str(tmp_path / "out" / f"{volume.node}_organs{ending}"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), volume.label_values("organs"))
            assert mask.GetPixelIDTypeAsString() == "8-bit unsigned integer"


@pytest.mark.parametrize("form", ["nifti", "nrrd", "nnunet"])
def test_a_second_export_changes_nothing_and_what_is_lost_or_cut_or_other_is_made_again(
    store, tmp_path, stamps, contents, form
):
    out = tmp_path / "Dataset001_Head"
    options = {"form": form, "labels": ["organs"], "workers": 0, "quiet": True}
    export(str(store), out, **options)
    before = stamps(out)
    images = [path for path in sorted(out.rglob("*")) if path.name.endswith((".nii.gz", ".nrrd"))]
    again = export(str(store), out, **options)
    assert (again.files_written, again.files_kept) == (0, 5)
    assert {n: s for n, s in stamps(out).items() if "." in n and not n.endswith(".json")} == {
        n: s for n, s in before.items() if "." in n and not n.endswith(".json")
    }
    whole = contents(out)
    images[0].unlink()
    images[1].write_bytes(b"")
    images[2].write_bytes(images[3].read_bytes())
    assert export(str(store), out, **options).files_written == 3
    assert contents(out) == whole
    assert export(str(store), out, **{**options, "hu": False}).files_written == 3


def test_a_mark_is_read_from_a_header_alone(store, tmp_path):
    export(str(store), tmp_path / "out", form="nifti", workers=0, quiet=True)
    path = tmp_path / "out" / "P1" / "0001-a.nii.gz"
    assert mark_of(path) == bytes(nib.load(path).header["descrip"].tolist()).decode()
    assert len(mark_of(path)) == 64
    assert mark_of(tmp_path / "none.nii.gz") is None
    (tmp_path / "other.nii.gz").write_bytes(b"\x1f\x8bxx")
    assert mark_of(tmp_path / "other.nii.gz") is None


def test_nnunet_has_consecutive_labels_of_the_same_names_everywhere(store, tmp_path):
    out = tmp_path / "Dataset007_Organs"
    export(str(store), out, form="nnunet", labels=["organs"], workers=0, quiet=True)
    about = json.loads((out / "dataset.json").read_text())
    assert about == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "kidney": 2, "spleen": 3},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    assert sorted(path.name for path in (out / "imagesTr").iterdir()) == [
        "P1__0001-a_0000.nii.gz",
        "P2__0001-c_0000.nii.gz",
    ]
    assert [path.name for path in (out / "imagesTs").iterdir()] == ["P3__0001-d_0000.nii.gz"]
    for case, values in (("P1__0001-a", {0, 1, 3}), ("P2__0001-c", {0, 2, 3})):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "labelsTr" / f"{case}.nii.gz")))
        assert set(np.unique(mask)) == values
    mapping = json.loads((out / "ct_etl_values.json").read_text())
    assert mapping["values"]["P2/0001-c"] == {"2": 3, "5": 2}


def test_a_plain_array_is_numbered_by_its_values(store, tmp_path):
    mask = np.zeros(SHAPE, np.uint16)
    mask[0], mask[1] = 700, 3
    add_label(store, "P3/0001-d", "plain", mask)
    out = tmp_path / "Dataset001_Plain"
    export(str(store), out, form="nnunet", labels=["plain"], workers=0, quiet=True)
    assert json.loads((out / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "label_3": 1,
        "label_700": 2,
    }
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "labelsTr" / "P3__0001-d.nii.gz")))
    np.testing.assert_array_equal(found, np.select([mask == 3, mask == 700], [1, 2]))


def test_a_sheared_volume_fails_alone_where_right_angles_are_needed(tmp_path, in_process):
    small_series(tmp_path / "dicom" / "1", "P1", gantry_tilt_deg=15.0)
    small_series(tmp_path / "dicom" / "2", "P2")
    store = tmp_path / "s.zarr"
    assert in_process("run", tmp_path / "dicom", store, "--native", "--workers", "0", "-q").status == 0
    done = in_process("export", store, tmp_path / "out", "--format", "nrrd", "--workers", "0", "-q", "--json")
    assert done.status == 3
    assert done.json["files_written"] == 1
    [problem] = done.json["failed"].values()
    assert "gantry tilt" in problem
    done = in_process("export", store, tmp_path / "nifti", "--format", "nifti", "--workers", "0", "-q")
    assert (done.status, done.stdout) == (0, "2 volumes: 2 files written, 0 kept\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "nnunet"}, "a folder named DatasetNNN_NAME"),
        ({"form": "nifti", "labels": ["liver"]}, "no volume has 'liver'"),
        ({"form": "nifti", "patients": ["P9"]}, "'P9' among them"),
        ({"form": "mhd"}, "allowed is nifti, nnunet, nrrd"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(store, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        export(str(store), tmp_path / "out", workers=0, quiet=True, **options)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_store(store):
    with pytest.raises(UsageError, match="lies in the store"):
        export(str(store), store / "out", form="nifti", workers=0, quiet=True)


@pytest.mark.slow
def test_workers_write_the_files_that_one_process_writes(store, tmp_path, ct_etl, contents):
    for workers in (0, 2):
        done = ct_etl("export", store, tmp_path / str(workers), "--format", "nifti", "--workers", workers)
        assert done.status == 0, done.why
    assert contents(tmp_path / "0") == contents(tmp_path / "2")
