"""From scanned headers to tasks and settled entries; the truth is what the phantom was told to write."""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from functools import partial

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairwise import each_once
from series import scan, small_series

from etl.config import build_config, load_preset
from etl.errors import UsageError
from etl.phantom.head import HeadPhantom
from etl.plan.plan import make_plan
from etl.scan.scan import ScanResult

IMPLICIT = "1.2.840.10008.1.2"


def config(**options):
    return build_config(load_preset("head-ct"), options)


def plan_of(*inputs, **options):
    return make_plan(scan(*inputs), config(**options))


write = partial(small_series, count=10, rows=12)


def only_entry(plan):
    [entry] = [*plan.settled, *(task.entry for task in plan.tasks)]
    return entry


def outline(plan):
    """Everything of a plan but where the files are."""
    tasks = [
        (t.entry, t.source_digest, t.config_digest, t.stack.slices.sop_instance_uid.tolist(), t.bytes_in)
        for t in plan.tasks
    ]
    settled = sorted(repr(entry) for entry in plan.settled)
    return sorted(tasks, key=lambda t: t[0].series_key), settled, plan.default_series


# --- order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "spacing_mm"),
    each_once(["axial", "coronal", "sagittal", (1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0), "axial"], [5.0, -5.0]),
    ids=str,
)
def test_slices_of_a_task_are_in_spatial_order(tmp_path, orientation, spacing_mm):
    write(tmp_path / "p", orientation=orientation, spacing_mm=spacing_mm, pixel_spacing_mm=(16, 16))
    [task] = plan_of(tmp_path).tasks
    positions = task.stack.slices.position_lps_mm
    cosines = np.array(task.stack.key.orientation)
    steps = np.diff(positions @ np.cross(cosines[:3], cosines[3:]))
    assert np.allclose(steps, steps[0])
    assert abs(steps[0]) == pytest.approx(5)


def test_instance_numbers_and_file_names_do_not_decide_the_order(tmp_path):
    def all_one(_, dataset):
        dataset.InstanceNumber = 1

    written = write(tmp_path / "p", edit=all_one, file_names=lambda i: f"I{(7 * i) % 10}")
    [task] = plan_of(tmp_path).tasks
    assert [uid.decode() for uid in task.stack.slices.sop_instance_uid] == [w.sop_instance_uid for w in written]


@pytest.fixture(scope="module")
def mixed_scan(tmp_path_factory):
    """Two patients; a series with two stacks, one that fails, one that is too short."""
    folder = tmp_path_factory.mktemp("mixed")
    write(folder / "a" / "1", series_uid="1.2.3")
    write(folder / "a" / "2", series_uid="1.2.3", orientation="coronal", count=9)
    write(folder / "a" / "3", series_number=4, count=3)
    write(folder / "b", patient_id="P2", seed=4, edit=lambda i, ds: i == 2 and delattr(ds, "RescaleSlope"))
    write(folder / "c", patient_id="P2", seed=5, series_number=2, gaps_mm=[5.0] * 6 + [7.0] * 5)
    return scan(folder)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_in_which_files_were_found_does_not_change_the_plan(mixed_scan, random):
    stacks = []
    for stack in mixed_scan.stacks:
        index = list(range(len(stack.slices)))
        random.shuffle(index)
        stacks.append(stack.with_slices(stack.slices.take(index)))
    random.shuffle(stacks)
    shuffled = make_plan(ScanResult(tuple(stacks)), config())
    assert outline(shuffled) == outline(make_plan(mixed_scan, config()))


def test_a_series_over_two_folders_gives_the_plan_of_one(tmp_path):
    write(tmp_path / "one" / "p", file_names=lambda i: f"{i}")
    for i in range(10):
        target = tmp_path / "two" / "ab"[i % 2]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "one" / "p" / f"{i}", target / f"{9 - i}")
    assert outline(plan_of(tmp_path / "two")) == outline(plan_of(tmp_path / "one"))


def test_inputs_that_overlap_are_taken_once(tmp_path):
    write(tmp_path / "all" / "p" / "s")
    plan = plan_of(tmp_path / "all", tmp_path / "all" / "p")
    [task] = plan.tasks
    assert task.entry.slices == 10


def test_a_zip_gives_the_plan_of_the_folder_in_it(tmp_path):
    write(tmp_path / "folder" / "p")
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip" / "p.zip", "w") as archive:
        for path in (tmp_path / "folder" / "p").iterdir():
            archive.write(path, f"study/{path.name}")
    [zipped], [plain] = (plan_of(tmp_path / name).tasks for name in ("zip", "folder"))
    assert zipped.entry == plain.entry
    # A zip keeps checksums, so the digest of its source knows more.
    assert zipped.source_digest != plain.source_digest


def test_a_zip_with_other_pixels_under_the_same_identity_is_another_source(tmp_path):
    digests = []
    for name, bleed in (("one", 1), ("two", 2)):
        write(tmp_path / name / "p", seed=0, phantom=HeadPhantom.for_patient(bleed))
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for path in (tmp_path / name / "p").iterdir():
                archive.write(path, path.name)
        digests.append(plan_of(tmp_path / f"{name}.zip").tasks[0].source_digest)
    assert digests[0] != digests[1]


# --- keys and numbers -----------------------------------------------------------------------------------


def test_the_series_key_is_the_number_and_the_digest_of_the_uid(tmp_path):
    write(tmp_path / "p", series_number=17, series_uid="1.2.840.99.3")
    digest = hashlib.sha256(b"1.2.840.99.3").hexdigest()[:16]
    assert only_entry(plan_of(tmp_path)).series_key == f"0017-{digest}"


def test_stacks_of_a_series_are_numbered_the_longest_first(tmp_path):
    sizes = {"axial": 10, "coronal": 12, "sagittal": 9}
    for orientation, count in sizes.items():
        write(tmp_path / orientation, orientation=orientation, count=count, series_uid="1.2.3")
    tasks = sorted(plan_of(tmp_path).tasks, key=lambda task: task.stack.number)
    assert [task.entry.slices for task in tasks] == [12, 10, 9]
    first, *further = (task.entry.series_key for task in tasks)
    assert all(re.fullmatch(rf"{first}-[0-9a-f]{{8}}", key) for key in further)
    assert len(set(further)) == 2


def test_a_localizer_in_the_series_does_not_take_the_first_number(tmp_path):
    def scout(_, dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write(tmp_path / "a", series_uid="1.2.3", orientation="coronal", count=12, edit=scout)
    write(tmp_path / "b", series_uid="1.2.3")
    plan = plan_of(tmp_path)
    assert [task.stack.number for task in plan.tasks] == [1]
    assert [entry.series_key.count("-") for entry in plan.settled] == [2]


def test_unequal_matrix_sizes_in_one_series_are_separate_stacks(tmp_path):
    write(tmp_path / "a", series_uid="1.2.3")
    write(tmp_path / "b", series_uid="1.2.3", rows=20, columns=20, pixel_spacing_mm=(10, 10), count=11)
    plan = plan_of(tmp_path)
    assert sorted((t.stack.key.rows, t.entry.slices, t.stack.number) for t in plan.tasks) == [
        (12, 10, 2),
        (20, 11, 1),
    ]


def test_patient_ids_that_would_share_a_group_are_refused_before_any_work(tmp_path):
    write(tmp_path / "a", patient_id="Case-7")
    write(tmp_path / "b", patient_id="CASE-7", seed=1)
    with pytest.raises(UsageError, match=r"'CASE-7' and 'Case-7'"):
        plan_of(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_missing_patient_id_is_the_folders_or_the_zips_name_with_a_warning(tmp_path, zipped):
    def anonymous(_, dataset):
        dataset.PatientID = ""

    if zipped:
        with zipfile.ZipFile(tmp_path / "CQ500CT7.zip", "w") as archive:
            write(archive.writestr, edit=anonymous)
    else:
        write(tmp_path / "CQ500CT7" / "s", edit=anonymous)
    entry = only_entry(plan_of(tmp_path))
    assert (entry.patient_id, entry.patient_key, entry.outcome) == ("CQ500CT7", "CQ500CT7", "written")
    assert "no-patient-id" in entry.warnings


# --- what cannot become a volume ------------------------------------------------------------------------


def drop(*keywords, where=None):
    def edit(index, dataset):
        if where is None or index == where:
            for keyword in keywords:
                delattr(dataset, keyword)

    return edit


def put(**values):
    def edit(index, dataset):
        for keyword, value in values.items():
            setattr(dataset, keyword, value(index, dataset) if callable(value) else value)

    return edit


@pytest.mark.parametrize(
    ("edit", "reason", "named"),
    [
        (drop("RescaleSlope"), "missing-rescale", "(0028,1053)"),
        (drop("RescaleIntercept", where=6), "missing-rescale", "1 of 10"),
        (put(RescaleType="US"), "missing-rescale", "US"),
        (drop("ImagePositionPatient", where=3), "missing-geometry", "(0020,0032)"),
        (drop("ImageOrientationPatient"), "missing-geometry", "(0020,0037)"),
        (drop("PixelSpacing"), "missing-geometry", "(0028,0030)"),
        (put(PixelSpacing=[0, 1]), "missing-geometry", "(0028,0030)"),
        (put(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "missing-geometry", "(0020,0037)"),
        (put(BitsStored=20), "inconsistent-slices", "20"),
        (put(RescaleSlope=0), "missing-rescale", "10 of 10"),
        (put(Rows=lambda _, ds: ds.Rows // 2), "inconsistent-slices", "10 of 10"),
        (put(BitsAllocated=8, BitsStored=8, HighBit=7), "inconsistent-slices", "10 of 10"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wanted_stack_that_cannot_be_converted_fails_with_its_code_and_numbers(tmp_path, edit, reason, named):
    write(tmp_path / "p", edit=edit)
    plan = plan_of(tmp_path)
    assert plan.tasks == ()
    [entry] = plan.settled
    assert (entry.outcome, entry.reason) == ("failed", reason)
    assert named in entry.detail


def test_truncated_pixel_data_fails_before_anything_is_read(tmp_path):
    write(tmp_path / "p", file_names=lambda i: f"{i}")
    path = tmp_path / "p" / "4"
    path.write_bytes(path.read_bytes()[:-2])
    entry = only_entry(plan_of(tmp_path))
    assert (entry.outcome, entry.reason, entry.slices) == ("failed", "truncated-pixel-data", 10)


def test_an_undecodable_transfer_syntax_is_named(tmp_path):
    write(tmp_path / "p", file_names=lambda i: f"{i}")
    for path in (tmp_path / "p").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.53"
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])  # never decoded: the label decides
        dataset.save_as(path)
    entry = only_entry(plan_of(tmp_path))
    assert (entry.outcome, entry.reason) == ("failed", "unsupported-transfer-syntax")
    assert "1.2.840.10008.1.2.4.53" in entry.detail


@pytest.mark.parametrize(("allowed_mm", "outcome"), [("2.5", "failed"), ("10", "written")])
def test_a_lost_slice_fails_beyond_the_gap_that_is_allowed(tmp_path, allowed_mm, outcome):
    write(tmp_path / "p", file_names=lambda i: f"{i}")
    (tmp_path / "p" / "4").unlink()
    entry = only_entry(plan_of(tmp_path, max_gap_mm=allowed_mm))
    assert entry.outcome == outcome
    if outcome == "failed":
        assert entry.reason == "missing-slices"
        assert "10.000" in entry.detail
    else:
        assert "missing-slice" in entry.warnings


def test_a_file_that_claims_to_be_dicom_and_cannot_be_parsed_is_a_failure(tmp_path):
    write(tmp_path / "Ward7" / "s", file_names=lambda i: f"{i}")
    path = tmp_path / "Ward7" / "s" / "zz"
    path.write_bytes((tmp_path / "Ward7" / "s" / "0").read_bytes()[:200])
    plan = plan_of(tmp_path)
    assert [task.entry.slices for task in plan.tasks] == [10]
    [entry] = plan.settled
    assert (entry.outcome, entry.reason, entry.patient_id) == ("failed", "unreadable", "Ward7")


def test_one_bad_series_leaves_the_others_alone(mixed_scan):
    plan = make_plan(mixed_scan, config())
    assert sorted((t.entry.patient_id, t.entry.slices) for t in plan.tasks) == [("P1", 9), ("P1", 10), ("P2", 12)]
    assert sorted((e.outcome, e.reason) for e in plan.settled) == [
        ("excluded", "too-few-slices"),
        ("failed", "missing-rescale"),
    ]


# --- warnings, default, digests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"gantry_tilt_deg": 20.0}, "gantry-tilt"),
        ({"gantry_tilt_deg": -20.0}, "gantry-tilt"),
        ({"gaps_mm": [4.0] * 5 + [7.0] * 6}, "irregular-spacing"),
        ({}, None),
    ],
)
def test_what_is_unusual_and_comes_out_right_is_a_warning(tmp_path, options, warning):
    write(tmp_path / "p", **options)
    entry = only_entry(plan_of(tmp_path))
    assert entry.outcome == "written"
    assert set(entry.warnings) == ({warning} if warning else set())


def test_every_patient_with_a_task_has_one_default_among_them(mixed_scan):
    plan = make_plan(mixed_scan, config())
    keys = {}
    for task in plan.tasks:
        keys.setdefault(task.entry.patient_id, set()).add(task.entry.series_key)
    assert set(plan.default_series) == set(keys)
    assert all(default in keys[patient] for patient, default in plan.default_series.items())


def test_series_default_keeps_the_default_and_excludes_the_rest_naming_it(mixed_scan):
    everything = make_plan(mixed_scan, config())
    plan = make_plan(mixed_scan, config(series="default"))
    assert plan.default_series == everything.default_series
    assert {t.entry.patient_id: t.entry.series_key for t in plan.tasks} == plan.default_series
    not_selected = [e for e in plan.settled if e.reason == "not-selected"]
    assert len(not_selected) == len(everything.tasks) - len(plan.tasks) == 1
    assert plan.default_series["P1"] in not_selected[0].detail


def test_every_stack_has_exactly_one_entry(mixed_scan):
    for options in ({}, {"series": "default"}, {"slice_count": "10"}, {"min_slices": "11"}):
        plan = make_plan(mixed_scan, config(**options))
        entries = [*plan.settled, *(task.entry for task in plan.tasks)]
        assert len(entries) == len(mixed_scan.stacks)
        assert len({(e.patient_key, e.series_key) for e in entries}) == len(entries)


def test_the_source_digest_follows_the_source_and_not_its_place(tmp_path):
    write(tmp_path / "a" / "p", file_names=lambda i: f"{i}")
    write(tmp_path / "b" / "q" / "r")
    write(tmp_path / "slope" / "p", slope=0.5)
    write(tmp_path / "moved" / "p", center_lps_mm=(0, 0, 1))
    write(tmp_path / "id" / "p", patient_id="P2")
    write(tmp_path / "syntax" / "p", transfer_syntax_uid=IMPLICIT)
    write(tmp_path / "padding" / "p", edit=put(PixelPaddingValue=-2000))
    write(tmp_path / "sign" / "p", edit=put(PixelRepresentation=lambda _, ds: 1 - ds.PixelRepresentation))
    write(tmp_path / "thickness" / "p", edit=put(SliceThickness=3))
    digests = {}
    for folder in sorted(tmp_path.iterdir()):
        [task] = plan_of(folder).tasks
        digests[folder.name] = task.source_digest
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == len(digests) - 1 == 8


def test_the_config_digest_follows_the_recipe_and_nothing_else(tmp_path):
    write(tmp_path / "p")

    def digest(**options):
        [task] = plan_of(tmp_path, **options).tasks
        return task.config_digest

    same = [
        {},
        {"workers": "7"},
        {"min_slices": "5"},
        {"json": True},
        {"run_dir": "/elsewhere"},
        {"series": "default"},
    ]
    other = [
        {"window": "0,100"},
        {"spacing_mm": "2"},
        {"center": "0"},
        {"precision_bits": "12"},
        {"chunk": "8,8,8"},
    ]
    assert len({digest(**options) for options in same}) == 1
    assert len({digest(**options) for options in [{}, *other]}) == 1 + len(other)


def test_bytes_in_are_those_of_the_files(tmp_path):
    write(tmp_path / "p")
    assert only_entry(plan_of(tmp_path)).bytes_in == sum(p.stat().st_size for p in (tmp_path / "p").iterdir())


def test_tasks_are_small_enough_to_send_and_hold_no_pixels(tmp_path):
    import pickle

    write(tmp_path / "p", rows=64, columns=64, pixel_spacing_mm=(3, 3))
    [task] = plan_of(tmp_path).tasks
    assert len(pickle.dumps(task)) < 64 * 64 * 2 * 10 / 4
    assert pickle.loads(pickle.dumps(task)).entry == task.entry
