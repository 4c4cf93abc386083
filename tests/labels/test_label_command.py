"""`ct-etl label`: what is found, refused, resumed, made anew and verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import zarr
from drawn import (
    ball,
    box,
    circle,
    contours_of,
    dice,
    label_of,
    painted,
    slices_of,
    truth_on,
    upright,
    write_rtstruct,
    write_seg,
)
from pydicom import dcmread
from sequences import KilledError

import etl
from etl.errors import StoreError

QUIET = ("--workers", "0", "-q", "--json")
BALL = ball("ball", (0, 0, 0), 20)
OTHER = ball("other", (15, 0, 0), 20)


@pytest.fixture
def label(in_process, scan):
    def run(*arguments, status=0):
        done = in_process("label", scan.store, *arguments, *QUIET)
        assert done.status == status, done.why
        return done.json["masks"]

    return run


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_every_kind_of_segmentation_gives_the_same_structure(label, scan, tmp_path, kind):
    more = {"max_fractional_value": 200} if kind == "FRACTIONAL" else {}
    label(write_seg(tmp_path / "seg.dcm", scan.slices, [BALL], kind, **more))
    found = label_of(scan.volume, "seg") == 1
    assert dice(found, truth_on(scan.volume, BALL)) > 0.96


def test_half_a_fraction_is_the_edge(label, scan, tmp_path):
    slope = np.clip(points_x(scan) / 20 + 0.5, 0, 1)[..., None].astype(np.float32)
    label(write_seg(tmp_path / "seg.dcm", scan.slices, [BALL], "FRACTIONAL", slope, max_fractional_value=250))
    volume = scan.volume
    x_mm = volume.affine_lps[0, 3] + np.arange(volume.shape[2])
    inside = (label_of(volume, "seg") == 1)[20, 40]
    assert inside[x_mm > 0.1].all()
    assert not inside[x_mm < -0.1].any()


def points_x(scan):
    from drawn import points_of

    return np.stack([points_of(one)[..., 0] for one in scan.slices])


def test_segments_that_overlap_come_into_arrays_of_their_own(label, scan, tmp_path):
    (entry,) = label(write_seg(tmp_path / "seg.dcm", scan.slices, [BALL, OTHER], omit_empty_frames=False))
    assert entry["labels"] == ["seg", "seg-2"]
    assert scan.volume.labels == ("seg", "seg-2")
    for name, value, shape in (("seg", 1, BALL), ("seg-2", 2, OTHER)):
        found = label_of(scan.volume, name)
        assert set(np.unique(found)) == {0, value}
        assert dice(found == value, truth_on(scan.volume, shape)) > 0.97
        assert list(scan.volume.label_table(name)) == [value]


def keyhole(z):
    """A ring as one contour: around, in by a channel without width, around the hole, and out again."""
    outer, inner = circle(np.zeros(2), 20.3), circle(np.zeros(2), 10.3)
    ring = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
    return np.column_stack([ring, np.full(len(ring), z)])


def test_a_hole_is_one_by_keyhole_and_by_a_second_contour(label, scan, tmp_path):
    ring = ball("ring", (0, 0, 0), 20.3, 10.3)
    z_mm = [z for z in scan.z_mm if abs(z) < 9]
    pair = [(kind, np.column_stack([o, np.full(len(o), z)])) for z in z_mm for kind, o in both_circles()]
    names = []
    for name, contours in (("key", [("CLOSED_PLANAR", keyhole(z)) for z in z_mm]), ("xor", pair)):
        label(write_rtstruct(tmp_path / f"{name}.dcm", scan.slices, [("ring", contours)]), "--name", name)
        names.append(label_of(scan.volume, name))
    np.testing.assert_array_equal(*names)
    volume = scan.volume
    k = int(np.argmin(np.abs(volume.affine_lps[2, 3] + np.arange(volume.shape[0]))))
    truth = truth_on(volume, ring)[k]
    assert names[0][k].sum() == pytest.approx(np.pi * (20.3**2 - 10.3**2), rel=0.01)
    assert dice(names[0][k] == 1, truth) > 0.99


def both_circles():
    return [("CLOSED_PLANAR", circle(np.zeros(2), radius)) for radius in (20.3, 10.3)]


def test_contours_between_the_slices_and_several_of_them_on_one(label, scan, tmp_path):
    shapes = [box("left", (5.2, -9.7, -12), (20.2, 9.7, 12)), box("right", (-20.2, -9.7, -12), (-5.2, 9.7, 12))]
    between = list(np.arange(-11.25, 12, 2.5))
    contours = [contour for shape in shapes for contour in contours_of(shape, upright(between))]
    label(write_rtstruct(tmp_path / "rt.dcm", scan.slices, [("both", contours)]))
    truth = truth_on(scan.volume, shapes[0]) | truth_on(scan.volume, shapes[1])
    assert dice(label_of(scan.volume, "rtstruct") == 1, truth) > 0.97


def test_points_are_ignored_and_counted_and_contours_out_of_plane_refused(label, scan, tmp_path):
    points = [("POINT", np.array([[0.0, 0.0, 0.0]])), *contours_of(BALL, upright(scan.z_mm))]
    (entry,) = label(write_rtstruct(tmp_path / "a.dcm", scan.slices, [("with a point", points)]))
    assert entry["warnings"] == ["contours-ignored"]
    bent = [(kind, one + [[0, 0, 2.0 * (n % 2)] for n in range(len(one))]) for kind, one in points[1:]]
    (entry,) = label(write_rtstruct(tmp_path / "b.dcm", scan.slices, [("bent", bent)]), status=3)
    assert (entry["outcome"], entry["reason"]) == ("failed", "out-of-plane")


@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
def test_an_nrrd_lies_where_its_space_says(label, scan, tmp_path, space):
    signs = np.array([-1, -1, 1]) if space.startswith("right") else np.ones(3)
    points = np.stack(np.indices((60, 60, 60)), axis=-1) - 29.5
    header = {"space": space, "space directions": np.diag(signs), "space origin": -29.5 * signs}
    header |= {"Segment0_LabelValue": "1", "Segment0_Name": "the ball"}
    shifted = ball("ball", (8, -5, 3), 15)
    nrrd.write(str(tmp_path / "P.seg.nrrd"), shifted.inside(points).astype(np.uint8), header)
    label(tmp_path / "P.seg.nrrd")
    assert dice(label_of(scan.volume, "mask") == 1, truth_on(scan.volume, shifted)) > 0.97
    assert scan.volume.label_table("mask")[1]["name"] == "the ball"


def nifti(path, shift_mm=0.0, value=1):
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -20 + shift_mm
    nibabel.save(nibabel.Nifti1Image(np.full((40, 40, 40), value, np.uint8), affine), path)
    return path


def test_what_cannot_be_placed_is_refused_by_name(label, scan, tmp_path):
    stranger = dcmread(write_seg(tmp_path / "seg.dcm", scan.slices, [BALL]))
    stranger.FrameOfReferenceUID = "1.2.3"
    stranger.save_as(tmp_path / "space.dcm")
    stranger.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.4"
    for row in stranger.ReferencedSeriesSequence[0].ReferencedInstanceSequence:
        row.ReferencedSOPInstanceUID = "1.2.5"
    for frame in stranger.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence
    stranger.save_as(tmp_path / "series.dcm")
    (tmp_path / "P.nii.gz").write_bytes(b"no nifti")
    nifti(tmp_path / "nobody.nii.gz")
    nifti(tmp_path / f"{scan.volume.key}.nii.gz", shift_mm=500)
    (tmp_path / "seg.dcm").unlink()
    found = {Path(entry["source"]).name: entry for entry in label(tmp_path, status=3)}
    assert {name: entry["reason"] for name, entry in found.items()} == {
        "space.dcm": "other-frame-of-reference",
        "series.dcm": "no-such-series",
        "P.nii.gz": "unreadable-mask",
        "nobody.nii.gz": "no-such-series",
        f"{scan.volume.key}.nii.gz": "outside-volume",
    }
    assert all(entry["outcome"] == "failed" and entry["detail"] for entry in found.values())
    assert scan.volume.labels == ()


def test_a_series_is_found_by_its_instances_and_by_its_frame_of_reference(label, scan, tmp_path):
    seg = dcmread(write_seg(tmp_path / "seg.dcm", scan.slices, [BALL]))
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.4"
    seg.save_as(tmp_path / "seg.dcm")
    assert label(tmp_path / "seg.dcm")[0]["node"] == scan.volume.node
    del seg.ReferencedSeriesSequence
    for frame in seg.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence
    seg.save_as(tmp_path / "space.dcm")
    assert label(tmp_path / "space.dcm", "--name", "space")[0]["node"] == scan.volume.node


def test_a_table_says_which_file_is_whose_and_its_name(label, scan, tmp_path):
    nifti(tmp_path / "a.nii.gz")
    (tmp_path / "map.csv").write_text("file,patient_id,name\na.nii.gz,P,liver\n")
    (entry,) = label(tmp_path / "a.nii.gz", "--map", tmp_path / "map.csv")
    assert (entry["outcome"], entry["labels"]) == ("written", ["liver"])


def test_a_second_time_nothing_is_written_and_a_changed_mask_takes_its_own_place(label, scan, tmp_path, stamps):
    path = nifti(tmp_path / "P.nii.gz")
    assert label(path)[0]["outcome"] == "written"
    before = stamps(scan.store / scan.volume.node)
    assert label(path)[0]["outcome"] == "unchanged"
    assert stamps(scan.store / scan.volume.node) == before
    nifti(path, value=7)
    assert label(path)[0]["labels"] == ["mask"]
    assert set(np.unique(label_of(scan.volume, "mask"))) == {0, 7}


def test_two_masks_of_one_name_stand_side_by_side_in_any_order(label, scan, tmp_path, contents):
    paths = [write_seg(tmp_path / f"{n}.dcm", scan.slices, [shape]) for n, shape in enumerate((BALL, OTHER))]
    label(*paths)
    first = contents(scan.store)
    names = scan.volume.labels
    assert names[0] == "seg"
    assert len(names) == 2
    assert len(names[1]) == len("seg-12345678")
    shutil.rmtree(scan.store / scan.volume.node / "labels")
    for path in reversed(paths):
        path.rename(path.with_name(f"{9 - int(path.stem)}.dcm"))
    label(tmp_path / "9.dcm", tmp_path / "8.dcm")
    assert contents(scan.store) == first


def test_a_thin_structure_that_is_lost_is_told(label, scan, tmp_path):
    values = np.zeros((90, 90, 90), np.uint8)
    values[:, :, 45] = 1
    affine = np.diag([1.0, 1.0, 0.2, 1.0])
    affine[:3, 3] = (-45, -45, -9 + 0.31)
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "P.nii.gz")
    entries = label(tmp_path / "P.nii.gz", status=3)
    assert entries[0]["reason"] == "outside-volume"
    values[:, :, 40:46] = 1
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "P.nii.gz")
    (entry,) = label(tmp_path / "P.nii.gz")
    (segment,) = entry["segments"]
    assert segment["ml_before"] == pytest.approx(90 * 90 * 1.2 / 1000)
    is_lost = segment["ml_after"] < 0.95 * segment["ml_before"]
    assert entry["warnings"] == (["label-volume-changed"] if is_lost else [])
    assert is_lost


@pytest.mark.slow
def test_workers_change_no_byte(in_process, scan_named, tmp_path, contents):
    one = scan_named("straight")
    paths = [write_seg(tmp_path / f"{n}.dcm", one.slices, [shape]) for n, shape in enumerate((BALL, OTHER))]
    found = []
    for workers in ("0", "2"):
        shutil.copytree(one.store, tmp_path / f"{workers}.zarr")
        done = in_process("label", tmp_path / f"{workers}.zarr", *paths, "--workers", workers, "-q", "--json")
        assert done.status == 0, done.why
        found.append(contents(tmp_path / f"{workers}.zarr"))
    assert found[0] == found[1]


def test_labels_are_verified_and_what_is_damaged_is_made_again(label, scan, tmp_path, in_process):
    path = write_seg(tmp_path / "seg.dcm", scan.slices, [BALL])
    label(path)
    done = in_process("verify", scan.store, "--input", path)
    assert done.status == 0, done.why
    assert "1 labels compared with the input" in done.stdout
    shard = scan.store / scan.volume.node / "labels/seg/0/c/0/0/0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    done = in_process("verify", scan.store, "--repair")
    assert done.status == 3
    assert "labels/seg: its bytes or attributes are not those that were written" in done.stdout
    assert scan.volume.labels == ()
    assert label(path)[0]["outcome"] == "written"
    assert shard.read_bytes() == whole
    assert in_process("verify", scan.store).status == 0


def test_zarr_finds_labels_by_the_consolidated_metadata(label, scan, tmp_path):
    label(write_seg(tmp_path / "seg.dcm", scan.slices, [BALL]))
    group = zarr.open_consolidated(scan.store)
    assert group[f"{scan.volume.node}/labels/seg/0"].shape == scan.volume.shape


def test_a_label_survives_a_rewrite_and_is_not_handed_out_on_another_grid(label, scan, tmp_path, in_process):
    path = write_seg(tmp_path / "seg.dcm", scan.slices, [BALL])
    label(path)
    node = scan.store / scan.volume.node / "zarr.json"
    about = json.loads(node.read_text())
    about["attributes"]["ct_etl"]["geometry"]["affine_lps"][0][3] += 5.0
    node.write_text(json.dumps(about))
    (scan.store / "zarr.json").write_text(json.dumps(without_consolidated(scan.store)))
    with pytest.raises(StoreError, match="lies on another grid"):
        scan.volume.label("seg")
    assert label(path)[0]["outcome"] == "written"
    assert dice(label_of(scan.volume, "seg") == 1, truth_on(scan.volume, BALL)) > 0.97


def without_consolidated(store):
    root = json.loads((store / "zarr.json").read_text())
    root.pop("consolidated_metadata")
    return root


def test_run_puts_labels_onto_the_volumes_that_it_wrote(scan_named, in_process, tmp_path):
    one = scan_named("straight")
    dicom = one.store.parent / "dicom"
    path = write_seg(tmp_path / "seg.dcm", slices_of(dicom), [BALL])
    options = ("--spacing-mm", "2", "--workers", "0", "-q", "--json", "--labels", path)
    for outcome in ("written", "unchanged"):
        done = in_process("run", dicom, tmp_path / "s.zarr", *options)
        assert done.status == 0, done.why
        assert [entry["outcome"] for entry in done.json["masks"]] == [outcome]
        lines = Path(done.json["run_dir"], "labels.jsonl").read_text().splitlines()
        assert [json.loads(line)["outcome"] for line in lines] == [outcome]
    volume = etl.open_store(tmp_path / "s.zarr")["P"].default
    assert dice(label_of(volume, "seg") == 1, truth_on(volume, BALL)) > 0.97


def test_a_deidentified_store_takes_labels_with_its_key_and_keeps_no_name(scan_named, in_process, tmp_path):
    one = scan_named("straight")
    key = tmp_path / "key"
    key.write_bytes(bytes(range(40, 80)))
    key.chmod(0o600)
    store, dicom = tmp_path / "s.zarr", one.store.parent / "dicom"
    seg = dcmread(write_seg(tmp_path / "seg.dcm", one.slices, [BALL]))
    seg.PatientName = "Miller^Anna"
    seg.SegmentSequence[0].SegmentLabel = "tumor of Miller"
    seg.save_as(tmp_path / "seg.dcm")
    done = in_process("run", dicom, store, "--spacing-mm", "2", "--deidentify", key, "--workers", "0", "-q")
    assert done.status == 0, done.why
    assert in_process("label", store, tmp_path / "seg.dcm", *QUIET).status == 2
    done = in_process("label", store, tmp_path / "seg.dcm", "--deidentify", key, *QUIET)
    assert done.status == 0, done.why
    (patient,) = etl.open_store(store).values()
    assert patient.default.label_table("seg")[1]["name"] == "segment 1"
    text = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"Miller" not in text
    assert str(seg.SOPInstanceUID).encode() not in text
    assert painted(one.slices, [BALL]).any()


def test_a_file_that_is_no_mask_and_a_store_that_is_none_are_usage_errors(scan, in_process, tmp_path):
    (tmp_path / "x.txt").write_text("x")
    done = in_process("label", scan.store, tmp_path / "x.txt", *QUIET)
    assert (done.status, "is no mask" in done.stderr) == (2, True)
    done = in_process("label", tmp_path / "nothing", nifti(tmp_path / "P.nii.gz"), *QUIET)
    assert (done.status, "no ct-etl store" in done.stderr) == (2, True)


def test_a_library_that_is_missing_is_named_with_what_installs_it(scan, in_process, tmp_path, monkeypatch):
    import sys

    path = nifti(tmp_path / "P.nii.gz")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    done = in_process("label", scan.store, path, *QUIET)
    assert (done.status, "pip install 'ct-etl[labels]'" in done.stderr) == (2, True)


def test_the_phantoms_masks_come_onto_its_volumes_and_its_readings_differ(in_process, tmp_path):
    import csv

    from etl.phantom.cohort import write_cohort
    from etl.phantom.labels import write_labels

    cohort = write_cohort(tmp_path / "dicom", patients=2, rows=64, thin_slices=50, series_per_patient=2)
    paths = write_labels(tmp_path / "labels", cohort)
    again = write_labels(tmp_path / "again", cohort)
    assert [one.read_bytes() for one in paths] == [one.read_bytes() for one in again]
    options = ("--spacing-mm", "2", "--workers", "0", "-q", "--json", "--labels", tmp_path / "labels")
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *options)
    assert done.status == 0, done.why
    assert [entry["outcome"] for entry in done.json["masks"]] == ["written"] * 6
    for series in cohort:
        volumes = etl.open_store(tmp_path / "s.zarr")[series.patient_id].values()
        (volume,) = (v for v in volumes if v.attributes["series_instance_uid"] == series.series_instance_uid)
        (bleed,) = (one for one in series.phantom.structures if one.name == "bleed")
        points = (
            np.stack(np.indices(volume.shape), axis=-1) @ volume.affine_lps[:3, :3].T + volume.affine_lps[:3, 3]
        )
        for name in volume.labels:
            assert dice(label_of(volume, name) == 1, bleed.radius(points) <= 1) > 0.9, (series.kind, name)
    rows = list(csv.DictReader((tmp_path / "labels/reads.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["PHANTOM-0001", "PHANTOM-0002"]
    assert {row["R1:ICH"] for row in rows} == {"1"}


def test_a_source_keeps_its_name_when_the_first_of_that_name_is_gone(label, scan, tmp_path, in_process):
    """It had two labels then, and the first source got a name apart when it came back."""
    paths = [write_seg(tmp_path / f"{n}.dcm", scan.slices, [shape]) for n, shape in enumerate((BALL, OTHER))]
    by_name = {entry["labels"][0]: entry["source"] for entry in label(*paths)}
    (other,) = by_name.keys() - {"seg"}
    shard = scan.store / scan.volume.node / "labels/seg/0/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert in_process("verify", scan.store, "--repair").status == 3
    assert scan.volume.labels == (other,)
    (entry,) = label(by_name[other])
    assert (entry["outcome"], entry["labels"]) == ("unchanged", [other])
    assert label(by_name["seg"])[0]["labels"] == ["seg"]
    assert scan.volume.labels == ("seg", other)


def test_another_label_of_one_source_stays_whatever_its_name_begins_with(label, scan, tmp_path):
    path = write_seg(tmp_path / "seg.dcm", scan.slices, [BALL])
    label(path, "--name", "organ-old")
    label(path, "--name", "organ")
    assert scan.volume.labels == ("organ", "organ-old")


def test_a_label_that_lost_an_array_is_made_again(label, scan, tmp_path):
    path = write_seg(tmp_path / "seg.dcm", scan.slices, [BALL])
    label(path)
    for key in ("zarr.json", "c/0/0/0"):
        (scan.store / scan.volume.node / "labels/seg/0" / key).unlink()
        assert label(path)[0]["outcome"] == "written"
    assert dice(label_of(scan.volume, "seg") == 1, truth_on(scan.volume, BALL)) > 0.97


def test_a_label_whose_replacement_was_ready_is_finished_by_the_next_label(label, scan, tmp_path, monkeypatch):
    mask = nifti(tmp_path / "P.nii.gz")
    label(mask)
    nifti(mask, value=7)

    def die(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("etl.store.replacing.take_back", die)
        with pytest.raises(KilledError):
            label(mask)
    assert len(list(tmp_path.glob(".s.zarr.*.ready"))) == 1
    assert set(np.unique(label_of(scan.volume, "mask"))) == {0, 1}
    assert label(mask)[0]["outcome"] == "unchanged"
    assert set(np.unique(label_of(scan.volume, "mask"))) == {0, 7}
    assert not list(tmp_path.glob(".s.zarr.*.ready"))
