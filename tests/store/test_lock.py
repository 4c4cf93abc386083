"""One run at a time: a lock that lasts as long as its run and no longer."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from kills import kill_group, start, wait_for_published, workers_of
from series import small_series

from etl.errors import StoreError, UsageError
from etl.store.lock import STALE_AFTER_S, StoreLock

QUICK = ("--spacing-mm", "8", "--workers", "0", "-q")
HOLD = """
import sys, time
from etl.store.lock import StoreLock
with StoreLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "s.zarr")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def dicom(tmp_path):
    small_series(tmp_path / "dicom" / "p0", "P0")
    return tmp_path / "dicom"


def locks(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(".s.zarr.lock."))


def lock_of(folder, number, *, host, pid, age_s):
    path = folder / f".s.zarr.lock.{number}"
    path.write_text(json.dumps({"host": host, "pid": pid}))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_second_run_on_the_same_store_is_refused_in_one_line_and_changes_nothing(
    ct_etl, holder, dicom, tmp_path
):
    done = ct_etl("run", dicom, tmp_path / "s.zarr", *QUICK)
    assert done.status == 2, done.why
    [line] = done.stderr.splitlines()
    assert str(holder.pid) in line
    assert "another run" in line
    assert {p.name for p in tmp_path.iterdir()} == {"dicom", ".s.zarr.lock.1"}


def test_another_store_beside_it_is_not_refused(in_process, holder, dicom, tmp_path):
    assert holder.poll() is None
    assert in_process("run", dicom, tmp_path / "t.zarr", *QUICK).status == 0


def test_a_dry_run_needs_no_lock(in_process, holder, dicom, tmp_path):
    assert holder.poll() is None
    assert in_process("run", dicom, tmp_path / "s.zarr", *QUICK, "--dry-run").status == 0


def test_a_run_leaves_no_lock_behind(in_process, dicom, tmp_path):
    assert in_process("run", dicom, tmp_path / "s.zarr", *QUICK).status == 0
    assert locks(tmp_path) == []


def test_a_lock_left_by_kill_9_does_not_block_the_next_run(in_process, holder, dicom, tmp_path):
    holder.kill()
    holder.wait()
    assert locks(tmp_path) == [".s.zarr.lock.1"]
    done = in_process("run", dicom, tmp_path / "s.zarr", *QUICK)
    assert done.status == 0, done.why
    assert locks(tmp_path) == []


@pytest.mark.slow
def test_of_two_runs_started_together_one_writes_and_one_exits_2(tmp_path):
    for n in range(8):
        small_series(tmp_path / "dicom" / f"p{n}", f"P{n}", rows=96, count=30)
    options = ("--spacing-mm", "1.5", "-q")
    logs = [tmp_path / f"log{n}" for n in range(2)]
    runs = [start("run", tmp_path / "dicom", tmp_path / "s.zarr", *options, "--workers", "1", log=f) for f in logs]
    try:
        statuses = [run.wait(120) for run in runs]
    finally:
        for run in runs:
            kill_group(run)
    assert sorted(statuses) == [0, 2], [f.read_text() for f in logs]
    [line] = logs[statuses.index(2)].read_text().splitlines()
    assert "another run" in line


def test_a_lock_of_another_machine_holds_while_it_is_fresh(tmp_path):
    lock_of(tmp_path, 1, host="elsewhere", pid=1, age_s=STALE_AFTER_S - 20)
    with pytest.raises(UsageError, match="process 1 on elsewhere"), StoreLock(str(tmp_path / "s.zarr")):
        pass
    assert locks(tmp_path) == [".s.zarr.lock.1"]


def test_a_lock_of_another_machine_that_went_stale_is_taken_over(tmp_path):
    lock_of(tmp_path, 7, host="elsewhere", pid=1, age_s=STALE_AFTER_S + 20)
    with StoreLock(str(tmp_path / "s.zarr")):
        assert locks(tmp_path) == [".s.zarr.lock.8"]
    assert locks(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"host": 3, "pid": "x"}', b"\xff\xfe"])
def test_a_lock_with_no_readable_content_holds_while_fresh_and_no_longer(tmp_path, content):
    path = tmp_path / ".s.zarr.lock.1"
    path.write_bytes(content)
    with pytest.raises(UsageError), StoreLock(str(tmp_path / "s.zarr")):
        pass
    os.utime(path, (time.time() - STALE_AFTER_S - 1,) * 2)
    with StoreLock(str(tmp_path / "s.zarr")):
        assert locks(tmp_path) == [".s.zarr.lock.2"]


def test_of_many_that_try_at_once_over_a_stale_lock_one_wins(tmp_path):
    """Threads with a barrier, again and again: two winners would be two runs in one store."""
    store = str(tmp_path / "s.zarr")
    for _ in range(20):
        lock_of(tmp_path, 3, host="elsewhere", pid=1, age_s=STALE_AFTER_S + 1)
        outcome, go, over = [], threading.Barrier(8), threading.Barrier(8)

        def attempt(go=go, over=over, outcome=outcome):
            go.wait(10)
            try:
                with StoreLock(store):
                    outcome.append("held")
                    over.wait(10)
            except UsageError:
                outcome.append("refused")
                over.wait(10)

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(outcome) == ["held"] + ["refused"] * 7
        assert locks(tmp_path) == []


def check_for(lock, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lock.check()
        time.sleep(0.01)


def test_a_run_that_stood_still_notices_that_another_took_over(tmp_path, monkeypatch):
    monkeypatch.setattr("etl.store.lock.HEARTBEAT_S", 0.02)
    with StoreLock(str(tmp_path / "s.zarr")) as lock:
        lock.check()
        lock_of(tmp_path, 2, host="elsewhere", pid=1, age_s=0)
        (tmp_path / ".s.zarr.lock.1").unlink()
        with pytest.raises(StoreError, match="took over"):
            check_for(lock, 5)


def test_a_held_lock_stays_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr("etl.store.lock.HEARTBEAT_S", 0.02)
    with StoreLock(str(tmp_path / "s.zarr")):
        path = tmp_path / ".s.zarr.lock.1"
        os.utime(path, (0, 0))
        end = time.monotonic() + 5
        while path.stat().st_mtime < 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert time.time() - path.stat().st_mtime < 5


def test_the_lock_names_this_process(tmp_path):
    with StoreLock(str(tmp_path / "s.zarr")):
        written = json.loads((tmp_path / ".s.zarr.lock.1").read_text())
        assert written == {"host": socket.gethostname(), "pid": os.getpid(), "user": getpass.getuser()}


@pytest.mark.slow
def test_a_killed_driver_with_workers_does_not_block_the_next_run(ct_etl, tmp_path):
    for n in range(6):
        small_series(tmp_path / "dicom" / f"p{n}", f"P{n}", rows=96, count=30)
    options = ("--spacing-mm", "1.5", "-q")
    process = start(
        "run", tmp_path / "dicom", tmp_path / "s.zarr", *options, "--workers", "2", log=tmp_path / "log"
    )
    try:
        wait_for_published(tmp_path / "s.zarr", 1, process)
        assert len(workers_of(process.pid)) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        done = ct_etl("run", tmp_path / "dicom", tmp_path / "s.zarr", *options, "--workers", "0")
    finally:
        kill_group(process)
    assert done.status == 0, done.why
