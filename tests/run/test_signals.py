"""How a run ends: signals, time limits, closed streams, places that are no folders."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import kill_group
from tiny_ct import QUICK, ROOT, day, lines, nodes, told, write_series

# A series waits here, so that a signal meets the run in the middle of it.
SLOW = """
import os, sys, time
from pathlib import Path
import etl.process.series, etl.run.job, etl.run.run
from etl.cli import main

def slowly(function, mark):
    def call(*given, **options):
        Path(mark).touch()
        if function.__name__ in sys.argv[2]:
            for _ in range(600):
                time.sleep(0.05)
        return function(*given, **options)
    return call

etl.run.job.scan_into = slowly(etl.run.job.scan_into, sys.argv[1] + ".scan_into")
etl.run.run.process = slowly(etl.run.run.process, sys.argv[1] + ".process")
main(sys.argv[3:])
"""


@pytest.fixture
def store(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def dicom(tmp_path):
    write_series(tmp_path / "dicom")
    return tmp_path / "dicom"


def start(tmp_path, dicom, store, stage):
    command = [sys.executable, "-c", SLOW, str(tmp_path / "mark"), stage, "run", str(dicom), str(store), *QUICK]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 60
    while not (tmp_path / f"mark.{stage}").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    return process


# --- 14: signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["scan_into", "process"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)], ids=str
)
def test_a_signal_ends_a_run_with_ledger_and_status_and_leaves_nothing_over(
    in_process, tmp_path, dicom, store, number, status, stage, contents
):
    write_series(tmp_path / "older", "Q", series=f"{ROOT}.2")
    day(in_process, tmp_path / "older", store)
    before = contents(store / "Q")
    process = start(tmp_path, dicom, store, stage)
    try:
        time.sleep(0.2)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        kill_group(process)
    assert process.returncode == status, stderr
    assert "Traceback" not in stderr
    newest = sorted((tmp_path / "s.zarr.runs").iterdir())[-1]
    totals = json.loads((newest / "run.json").read_text())
    assert totals["interrupted"] is True
    assert totals["pending"] == (1 if stage == "process" else 0)
    assert (newest / "ledger.jsonl").is_file()
    assert list(tmp_path.glob(".s.zarr*")) == []
    assert list(tmp_path.rglob(".pictures-*")) == []
    assert contents(store / "Q") == before
    assert lines(day(in_process, [dicom, tmp_path / "older"], store)) == [("unchanged", None), ("written", None)]
    assert told(in_process, store)[0] == 0


def test_what_a_shell_ignores_stays_ignored(tmp_path, dicom, store):
    """As nohup has it."""
    command = " ".join(map(shlex.quote, [sys.executable, "-c", SLOW, str(tmp_path / "mark"), "none", "run"]))
    line = f"trap '' HUP; exec {command} {shlex.quote(str(dicom))} {shlex.quote(str(store))} {' '.join(QUICK)}"
    process = subprocess.Popen(["sh", "-c", line], start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "mark.scan_into").exists() and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    finally:
        kill_group(process)


def test_pictures_of_a_killed_run_are_swept(in_process, dicom, store):
    left = store.with_name("s.zarr.runs") / "20000101T000000.000000Z" / ".pictures-abc"
    left.mkdir(parents=True)
    (left / "0.jpg").write_bytes(b"")
    assert day(in_process, dicom, store).status == 0
    assert not left.exists()


# --- 14: streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| head -1", "2>&1 | head -1", "| true", "> /dev/full"]
)
@pytest.mark.parametrize("options", ["", "--json"])
def test_a_closed_stream_changes_neither_store_nor_status(
    in_process, tmp_path, dicom, store, contents, end, options
):
    write_series(dicom / "bad", ks=range(30, 32), hu=5, series=f"{ROOT}.5")
    (dicom / "bad" / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 99)
    whole = tmp_path / "whole.zarr"
    assert day(in_process, dicom, whole).status == 3
    command = f"{sys.executable} -m etl run {dicom} {store} --native --workers 0 --min-slices 4 {options}"
    line = f"({command}; echo $? > {tmp_path}/status) {end}"
    if ">" in end and "|" not in end:
        line = f"{command} {end}; echo $? > {tmp_path}/status"
    subprocess.run(["sh", "-c", line], capture_output=True, timeout=120, check=False)
    assert (tmp_path / "status").read_text().strip() == "3"
    assert contents(store) == contents(whole)


# --- 13: a time limit while publishing ----------------------------------------------------------------------


@pytest.mark.parametrize("slow_call", [1, 3, 8, 15])
def test_nothing_appears_in_a_store_after_a_run_that_gave_up_while_publishing(
    in_process, dicom, store, monkeypatch, contents, slow_call
):
    fsync, calls = os.fsync, []

    def slow(descriptor):
        calls.append(1)
        if len(calls) > 2 + slow_call:
            time.sleep(0.4)
        fsync(descriptor)

    monkeypatch.setattr("etl.store.durable.os.fsync", slow)
    done = day(in_process, dicom, store, "--time-limit-s", "0.3")
    assert (done.status, lines(done)) == (3, [("failed", "unreadable")]), done.why
    after = contents(store)
    assert nodes(store) == []
    time.sleep(2.5)
    found = contents(store)
    assert nodes(store) == []
    assert set(found) <= set(after), set(found) - set(after)
    monkeypatch.undo()
    assert lines(day(in_process, dicom, store)) == [("written", None)]
    assert told(in_process, store)[0] == 0


# --- 15: places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["s3://bucket", "gs:///x", "file:///{0}/x.zarr", "FILE://{0}/x", "https://h/x.zarr", "s3:/b/x"],
)
@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--overwrite",)])
def test_a_url_as_store_is_refused_and_makes_no_folder(ct_etl, in_process, tmp_path, place, options, monkeypatch):
    write_series(tmp_path / "dicom")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    place = place.format(tmp_path / "work")
    done = in_process("run", tmp_path / "dicom", place, *QUICK, *options)
    assert done.status == 2, done.why
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("command", ["verify", "report", "info"])
def test_a_url_is_refused_by_the_other_commands_too(in_process, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_process(command, f"file://{tmp_path}/x.zarr").status in (1, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_expanded_in_every_path(in_process, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    write_series(home / "dicom")
    done = day(in_process, "~/dicom", "~/s.zarr", "--run-dir", "~/record")
    assert (done.status, lines(done)) == (0, [("written", None)])
    assert (home / "s.zarr" / "zarr.json").is_file()
    assert (home / "record" / "ledger.jsonl").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert told(in_process, "~/s.zarr", "--input", "~/dicom")[0] == 0
    assert in_process("info", "~/s.zarr").status == 0
    assert in_process("report", "~/s.zarr", "--run-dir", "~/record").status == 0
    assert in_process("scan", "~/dicom").status == 0
    assert Path(home / "s.zarr").is_dir()
