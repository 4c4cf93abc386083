"""A run over finished work looks at names and times alone, and only where that proves something."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from series import small_series

import etl.run.input_files
import etl.run.job
import etl.run.run

QUICK = ("--spacing-mm", "8", "--workers", "0", "-q", "--json")


@pytest.fixture
def work(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(etl.run.input_files, "SETTLED_S", 0.0)
    for n in range(2):
        small_series(tmp_path / "dicom" / f"p{n}", f"P{n}", seed=n)
    (tmp_path / "dicom" / "p0" / "notes.txt").write_text("not DICOM")
    time.sleep(0.02)
    assert in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK).status == 0
    return tmp_path


@pytest.fixture
def scans(monkeypatch):
    """Counts the runs that read headers."""
    seen = []
    scan_into = etl.run.job.scan_into

    def counted(*arguments, **options):
        seen.append(1)
        return scan_into(*arguments, **options)

    monkeypatch.setattr(etl.run.job, "scan_into", counted)
    return seen


def again(in_process, work, *options):
    return in_process("run", work / "dicom", work / "s.zarr", *QUICK, *options)


def slices_of(work, patient):
    found = (work / "dicom" / patient).rglob("*")
    return sorted(path for path in found if path.is_file() and path.suffix != ".txt")


def test_finished_work_is_found_so_without_reading_a_header(in_process, work, scans, contents, stamps):
    before = contents(work / "s.zarr"), stamps(work / "s.zarr")
    for _ in range(2):
        done = again(in_process, work)
        assert (done.status, done.json["unchanged"], done.json["scanned"]) == (0, 2, 2)
        assert done.json["ignored_files"] == 1
    assert scans == []
    assert (contents(work / "s.zarr"), stamps(work / "s.zarr")) == before


def test_such_a_run_leaves_a_ledger_and_a_report_like_any_other(in_process, work):
    done = again(in_process, work)
    runs = sorted((work / "s.zarr.runs").iterdir())
    assert len(runs) == 2
    lines = [json.loads(line) for line in (runs[-1] / "ledger.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["unchanged", "unchanged"]
    assert done.json["run_dir"] == str(runs[-1])
    assert "P0" in (runs[-1] / "report.html").read_text()


def edit_in_place(path):
    """Change a byte; size, name and time of modification stay."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "touched": lambda work: os.utime(slices_of(work, "p0")[0]),
    "edited behind the clock's back": lambda work: edit_in_place(slices_of(work, "p0")[0]),
    "renamed": lambda work: slices_of(work, "p0")[0].rename(work / "dicom" / "p0" / "other.dcm"),
    "one more file": lambda work: (work / "dicom" / "p1" / "more.txt").write_text("more"),
    "one more patient": lambda work: small_series(work / "dicom" / "p2", "P2", seed=2),
    "a lost chunk": lambda work: next((work / "s.zarr" / "P0").rglob("volume/c/0/0/0")).unlink(),
    "a lost series": lambda work: next((work / "s.zarr" / "P0").glob("*/zarr.json")).unlink(),
    "another root": lambda work: (work / "s.zarr" / "zarr.json").write_text(
        (work / "s.zarr" / "zarr.json").read_text().replace("mean_hu", "mean_of_hu")
    ),
    "a lost record": lambda work: shutil.rmtree(work / "s.zarr.runs"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_changed_makes_it_look_closely(in_process, work, scans, change):
    change(work)
    time.sleep(0.02)
    done = again(in_process, work)
    assert done.status == 0, done.why
    assert scans == [1]
    assert done.json["failed"] == 0


def test_other_rules_of_choice_are_not_finished_work(in_process, work, scans):
    done = again(in_process, work, "--min-slices", "100")
    assert scans == [1]
    assert done.json["excluded"] == 2


def test_a_failed_series_is_tried_again(in_process, work, scans):
    small_series(work / "dicom" / "p3", "P3", count=9)
    slices_of(work, "p3")[3].unlink()
    assert again(in_process, work).status == 3
    assert again(in_process, work).status == 3
    assert scans == [1, 1]


def test_files_that_are_too_new_prove_nothing(in_process, work, scans, monkeypatch):
    monkeypatch.setattr(etl.run.input_files, "SETTLED_S", 3600.0)
    assert again(in_process, work).json["unchanged"] == 2
    assert scans == [1]


def test_a_damaged_record_is_no_obstacle(in_process, work, scans):
    for path in (work / "s.zarr.runs").rglob("run.json"):
        path.write_text('{"input_digest": ')
    assert again(in_process, work).json["unchanged"] == 2
    assert scans == [1]


def test_a_store_that_another_run_changed_since_is_looked_at(in_process, work, scans, tmp_path):
    """The newest record beside the store is not of the newest run where that kept its own elsewhere."""
    other = tmp_path / "other"
    small_series(other / "p0", "P0", seed=0, count=12)
    assert in_process("run", other, work / "s.zarr", *QUICK, "--run-dir", tmp_path / "elsewhere").status == 0
    done = again(in_process, work)
    assert len(scans) == 2
    assert done.json["failed"] == 0


@pytest.mark.parametrize("stopped_at", ["has_published_pixels", "process"])
def test_pixels_that_changed_are_not_forgotten_where_a_run_was_stopped_before_them(
    in_process, work, monkeypatch, stopped_at
):
    """By its headers the series is the one that the store has."""
    for path in slices_of(work, "p0"):
        content = path.read_bytes()
        path.write_bytes(content[:-64] + bytes(64))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(etl.run.run, stopped_at, interrupted)
    stopped = again(in_process, work)
    assert (stopped.status, stopped.json["pending"]) == (130, 1)
    monkeypatch.undo()
    done = again(in_process, work)
    assert (done.status, done.json["written"], done.json["unchanged"]) == (0, 1, 1)
    assert in_process("verify", work / "s.zarr", "--input", work / "dicom").status == 0
