"""Runs after the first: what is skipped, what is noticed, and what is never touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from kills import Reader, broken_volumes, start
from series import small_series, small_zip

import etl
from etl.run.input_files import SETTLED_S

QUICK = ("--spacing-mm", "8", "--workers", "0", "-q")
PARTIAL = "zarr.0123456789abcdef0123456789abcdef.partial"


@pytest.fixture(scope="module")
def first(tmp_path_factory, ct_etl):
    """Two patients in folders, one in a zip, and their store; copied by each test."""
    folder = tmp_path_factory.mktemp("first")
    for n in range(2):
        small_series(folder / "dicom" / f"p{n}", f"P{n}", seed=n)
    small_zip(folder / "dicom" / "p2.zip", "P2", seed=2)
    done = ct_etl("run", folder / "dicom", folder / "s.zarr", *QUICK)
    assert done.status == 0, done.why
    return folder


@pytest.fixture
def work(first, tmp_path):
    shutil.copytree(first / "dicom", tmp_path / "dicom")
    shutil.copytree(first / "s.zarr", tmp_path / "s.zarr")
    return tmp_path


def brighter(_, dataset):
    """Other pixels under the same names, UIDs, geometry and lengths."""
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<i2") + 50).astype("<i2").tobytes()


def outcomes(done):
    return {e["patient_id"]: e["outcome"] for e in done.json["series"]}


def series_of(store, patient):
    [path] = [p for p in (store / patient).iterdir() if p.is_dir()]
    return path


def run(in_process, work, *options):
    done = in_process("run", work / "dicom", work / "s.zarr", *QUICK, "--json", *options)
    assert done.status == 0, done.why
    return done


# --- what is skipped ------------------------------------------------------------------------------------


def test_a_second_run_changes_no_file_and_no_time(in_process, work, stamps, contents):
    before = stamps(work / "s.zarr"), contents(work / "s.zarr")
    assert set(outcomes(run(in_process, work)).values()) == {"unchanged"}
    assert (stamps(work / "s.zarr"), contents(work / "s.zarr")) == before


def bytes_read(log):
    """Sum what read calls on DICOM files returned, as strace saw it."""
    total = 0
    for line in Path(log).read_text(errors="replace").splitlines():
        if "/dicom/" in line and " = " in line:
            answer = line.rpartition(" = ")[2].split()[0]
            total += int(answer) if answer.isdigit() else 0
    return total


def test_a_second_run_reads_no_pixels(tmp_path):
    """Counted by strace: every byte that read calls return from files below the input."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    rows, count = 512, 9
    small_series(tmp_path / "dicom" / "p0", "P0", rows=rows, count=count)
    # Files that were written just now are compared once more.
    time.sleep(SETTLED_S + 0.1)
    pixel_bytes, read = rows * rows * 2 * count, []
    for n in range(2):
        log = tmp_path / f"trace{n}"
        calls = "trace=read,pread64,readv,mmap"
        command = [strace, "-f", "-y", "-qq", "-s", "0", "-e", calls, "-o", str(log)]
        command += [sys.executable, "-m", "etl", "run", str(tmp_path / "dicom"), str(tmp_path / "s.zarr"), *QUICK]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if n == 0 and "ptrace" in done.stderr.lower():
            pytest.skip(f"strace may not trace here: {done.stderr.strip()[:100]}")
        assert done.returncode == 0, done.stderr
        read.append(bytes_read(log))
    assert read[0] > pixel_bytes
    assert read[1] < pixel_bytes / 10


def test_other_times_and_places_of_the_same_files_are_not_a_change(in_process, work):
    (work / "dicom").rename(work / "moved")
    (work / "dicom").mkdir()
    for path in (work / "moved").iterdir():
        path.rename(work / "dicom" / path.name)
    for path in (work / "dicom").rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert set(outcomes(run(in_process, work)).values()) == {"unchanged"}


def test_warnings_that_only_the_pixels_gave_stay_in_the_ledger(in_process, tmp_path):
    """A constant series has no air peak, which headers do not tell."""

    def blank(_, dataset):
        dataset.PixelData = bytes(len(dataset.PixelData))

    small_series(tmp_path / "dicom" / "p0", "P0", edit=blank)
    first = run(in_process, tmp_path).json["series"][0]
    small_series(tmp_path / "dicom" / "p1", "P1", seed=1)
    again = {entry["patient_id"]: entry for entry in run(in_process, tmp_path).json["series"]}
    assert (again["P0"]["outcome"], again["P1"]["outcome"]) == ("unchanged", "written")
    assert "constant-slice" in first["warnings"]
    assert again["P0"]["warnings"] == first["warnings"]


@pytest.mark.parametrize("order", [("plain", "contrast"), ("contrast", "plain")])
def test_the_default_series_does_not_depend_on_which_run_came_last(in_process, tmp_path, order):
    def contrast(_, dataset):
        dataset.ContrastBolusAgent, dataset.SeriesNumber = "Iodine", 7

    edits = {"plain": None, "contrast": contrast}
    for name in order:
        shutil.rmtree(tmp_path / "dicom", ignore_errors=True)
        small_series(tmp_path / "dicom" / "p", "P", seed=len(name), edit=edits[name])
        run(in_process, tmp_path)
    assert len(etl.open_store(tmp_path / "s.zarr")["P"]) == 2
    assert etl.open_store(tmp_path / "s.zarr")["P"].default.key.startswith("0001-")


def test_a_patient_whose_group_differs_in_case_alone_from_one_there_is_refused(in_process, work, contents):
    before = contents(work / "s.zarr")
    small_series(work / "other" / "p", "p0", seed=9)
    done = in_process("run", work / "other", work / "s.zarr", *QUICK)
    assert done.status == 2, done.why
    assert "'p0'" in done.stderr
    assert "'P0'" in done.stderr
    assert contents(work / "s.zarr") == before


# --- what is noticed -----------------------------------------------------------------------------------


def expect_new(in_process, work, contents, patient, truth=None):
    """Run again; that patient is written anew, the others not, and the store is that of a first run."""
    expected = {"P0": "unchanged", "P1": "unchanged", "P2": "unchanged", patient: "written"}
    assert outcomes(run(in_process, work)) == expected
    if truth is None:
        truth = work / "fresh.zarr"
        done = in_process("run", work / "dicom", truth, *QUICK)
        assert done.status == 0, done.why
    assert contents(work / "s.zarr") == contents(truth)


def test_a_new_slice_is_noticed(in_process, work, contents):
    names = {one.path: one.position_lps_mm[2] for one in small_series(lambda *_: None, "P1", seed=1)}
    last = work / "dicom" / "p1" / max(names, key=names.get)
    last.rename(work / "aside")
    assert outcomes(run(in_process, work, "--replace", "--min-slices", "5"))["P1"] == "written"
    (work / "aside").rename(last)
    expect_new(in_process, work, contents, "P1")


def test_a_lost_slice_is_noticed(in_process, work, contents):
    names = {one.path: one.position_lps_mm[2] for one in small_series(lambda *_: None, "P1", seed=1)}
    (work / "dicom" / "p1" / max(names, key=names.get)).unlink()
    options = ("--json", "--min-slices", "5")
    before = contents(work / "s.zarr")
    done = in_process("run", work / "dicom", work / "s.zarr", *QUICK, *options)
    [line] = [line for line in done.json["series"] if line["patient_id"] == "P1"]
    assert (done.status, line["outcome"], line["reason"]) == (3, "failed", "fewer-slices")
    assert "lacks 1" in line["detail"]
    assert contents(work / "s.zarr") == before
    done = in_process("run", work / "dicom", work / "s.zarr", *QUICK, *options, "--replace")
    assert outcomes(done)["P1"] == "written"
    assert done.json["unchanged"] == 2


def test_a_replaced_zip_of_the_same_names_and_sizes_is_noticed(in_process, work, contents):
    before = zipfile.ZipFile(work / "dicom" / "p2.zip").infolist()
    small_zip(work / "dicom" / "p2.zip", "P2", seed=2, edit=brighter)
    after = zipfile.ZipFile(work / "dicom" / "p2.zip").infolist()
    assert [(i.filename, i.file_size) for i in before] == [(i.filename, i.file_size) for i in after]
    assert [i.CRC for i in before] != [i.CRC for i in after]
    expect_new(in_process, work, contents, "P2")


@pytest.mark.parametrize(
    "key",
    [
        "volume/c/0/0/0",
        "volume/zarr.json",
        "hu_histogram/c/0",
        "source/sop_instance_uid/c/0/0",
        "source/instance_number/zarr.json",
        "zarr.json",
    ],
)
def test_a_removed_key_is_noticed(in_process, first, work, contents, key):
    path = series_of(work / "s.zarr", "P1") / key
    path.unlink()
    expect_new(in_process, work, contents, "P1", first / "s.zarr")


@pytest.mark.parametrize("folder", ["volume", "source", "hu_histogram"])
def test_a_removed_folder_is_noticed(in_process, first, work, contents, folder):
    shutil.rmtree(series_of(work / "s.zarr", "P1") / folder)
    expect_new(in_process, work, contents, "P1", first / "s.zarr")


def test_an_empty_chunk_as_a_power_cut_leaves_it_is_noticed(in_process, first, work, contents):
    (series_of(work / "s.zarr", "P1") / "volume/c/0/0/0").write_bytes(b"")
    expect_new(in_process, work, contents, "P1", first / "s.zarr")


@pytest.mark.parametrize("content", [b"", b"\0" * 900], ids=["empty", "zeros"])
def test_empty_series_metadata_as_a_power_cut_leaves_it_is_written_anew(
    in_process, first, work, contents, content
):
    (series_of(work / "s.zarr", "P1") / "zarr.json").write_bytes(content)
    expect_new(in_process, work, contents, "P1", first / "s.zarr")


def test_an_entry_of_another_source_under_the_same_key_is_noticed(in_process, first, work, contents):
    target = series_of(work / "s.zarr", "P1")
    text = (target / "zarr.json").read_text()
    digest = text.split('"source_digest": "')[1][:64]
    (target / "zarr.json").write_text(text.replace(digest, "0" * 64))
    expect_new(in_process, work, contents, "P1", first / "s.zarr")


def test_a_series_that_only_the_folder_has_and_no_metadata_is_written_anew(in_process, first, work, contents):
    for path in series_of(work / "s.zarr", "P1").rglob("zarr.json"):
        path.unlink()
    expect_new(in_process, work, contents, "P1", first / "s.zarr")


# --- leftovers of crashes -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "P1"])
def test_a_half_written_file_that_a_crash_left_does_not_stay(in_process, ct_etl, work, contents, place):
    before = contents(work / "s.zarr")
    (work / "s.zarr" / place / PARTIAL).write_bytes(b'{"zarr_for')
    run(in_process, work)
    verified = in_process("verify", work / "s.zarr")
    assert verified.status == 0, verified.why
    assert contents(work / "s.zarr") == before


def test_a_first_run_killed_while_it_wrote_the_root_does_not_block_the_next(in_process, work, contents):
    before = contents(work / "s.zarr")
    shutil.rmtree(work / "s.zarr")
    (work / "s.zarr").mkdir()
    (work / "s.zarr" / PARTIAL).write_bytes(b'{"zarr_for')
    run(in_process, work)
    assert contents(work / "s.zarr") == before


def test_an_overwrite_killed_while_it_removed_leaves_nothing_beside_the_store_after_the_next(in_process, work):
    removed = work / ".s.zarr.0123456789abcdef0123456789abcdef.removed"
    (work / "s.zarr").rename(removed)
    run(in_process, work)
    assert not removed.exists()


# --- configuration --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--spacing-mm", "9"), {"spacing_mm"}),
        (("--center", "volume", "--precision-bits", "10"), {"center", "precision_bits"}),
        (("--chunk", "4,8,8"), {"chunk"}),
    ],
)
def test_another_configuration_is_refused_naming_the_keys_and_touching_nothing(
    in_process, work, stamps, options, named
):
    before = stamps(work)
    done = in_process("run", work / "dicom", work / "s.zarr", *QUICK, *options)
    assert done.status == 2, done.why
    assert all(f"{key}: " in done.stderr for key in named)
    others = {"spacing_mm", "zoom", "native", "window", "center", "precision_bits", "max_gap_mm", "chunk"} - named
    assert not any(f"{key}: " in done.stderr for key in others)
    assert stamps(work) == before


@pytest.mark.parametrize("options", [("--workers", "2"), ("--max-file-mb", "9"), ("--time-limit-s", "60")])
def test_what_does_not_change_a_volume_is_no_other_configuration(in_process, work, options):
    assert set(outcomes(run(in_process, work, *options)).values()) == {"unchanged"}


def test_overwrite_starts_anew(in_process, work, contents):
    done = run(in_process, work, "--spacing-mm", "9", "--overwrite")
    assert set(outcomes(done).values()) == {"written"}
    fresh = in_process("run", work / "dicom", work / "fresh.zarr", *QUICK, "--spacing-mm", "9")
    assert fresh.status == 0, fresh.why
    assert contents(work / "s.zarr") == contents(work / "fresh.zarr")


def test_overwrite_of_a_folder_that_is_no_store_is_refused(in_process, work, contents):
    (work / "mine").mkdir()
    (work / "mine" / "thesis.txt").write_text("years of work")
    done = in_process("run", work / "dicom", work / "mine", *QUICK, "--overwrite")
    assert done.status == 2, done.why
    assert contents(work / "mine") == {"thesis.txt": b"years of work"}


def test_a_run_without_the_input_of_a_patient_keeps_the_patient(in_process, work, contents):
    before = contents(work / "s.zarr")
    shutil.rmtree(work / "dicom" / "p0")
    assert outcomes(run(in_process, work)) == {"P1": "unchanged", "P2": "unchanged"}
    assert contents(work / "s.zarr") == before


# --- what others put into a store -----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["@eaDir", "P1/@eaDir", "P1/{series}/@eaDir"])
def test_a_folder_of_another_program_in_the_store_stops_no_run_and_stays(in_process, work, place):
    series = series_of(work / "s.zarr", "P1").name
    foreign = work / "s.zarr" / place.format(series=series)
    foreign.mkdir()
    (foreign / "thumbnail").write_bytes(b"theirs")
    run(in_process, work)
    assert (foreign / "thumbnail").read_bytes() == b"theirs"


def test_a_damaged_series_does_not_keep_others_from_being_added(in_process, work):
    """A flipped bit is for `verify` to find; a run that does not touch the series must still finish."""
    chunk = series_of(work / "s.zarr", "P1") / "hu_histogram" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 16
    chunk.write_bytes(content)
    small_series(work / "dicom" / "p3", "P3", seed=3)
    done = in_process("run", work / "dicom", work / "s.zarr", *QUICK, "--json")
    assert done.status in (0, 3), done.why
    assert outcomes(done)["P3"] == "written"


# --- readers --------------------------------------------------------------------------------------------


def test_patients_are_added_while_a_reader_polls(work):
    for n in range(3, 9):
        small_series(work / "dicom" / f"p{n}", f"P{n}", seed=n, rows=48)
    with Reader(work / "s.zarr") as reader:
        process = start("run", work / "dicom", work / "s.zarr", *QUICK, log=work / "log")
        status = process.wait(60)
    assert status == 0, (work / "log").read_text()
    assert reader.broken == []
    assert reader.rounds >= 3
    assert broken_volumes(work / "s.zarr") == ([], 9)


def test_a_series_is_replaced_while_a_reader_polls(work):
    """Taken back first, written anew then: gone for a moment, never a mixture."""
    shutil.rmtree(work / "dicom" / "p1")
    small_series(work / "dicom" / "p1", "P1", seed=1, edit=lambda _, ds: setattr(ds, "RescaleIntercept", -900))
    with Reader(work / "s.zarr") as reader:
        process = start("run", work / "dicom", work / "s.zarr", *QUICK, log=work / "log")
        status = process.wait(60)
    assert status == 0, (work / "log").read_text()
    assert reader.broken == []
    assert reader.volumes >= 3


def test_a_reader_that_opened_the_store_goes_on_reading_while_patients_are_added(in_process, work):
    group = zarr.open_group(work / "s.zarr", mode="r")
    name = f"P0/{series_of(work / 's.zarr', 'P0').name}/volume"
    before = group[name][...]
    small_series(work / "dicom" / "p3", "P3", seed=3)
    run(in_process, work)
    assert np.array_equal(group[name][...], before)
    assert "P3" in dict(zarr.open_group(work / "s.zarr", mode="r").groups())
