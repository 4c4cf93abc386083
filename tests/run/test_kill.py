"""Real processes, real SIGKILL, full disks, hanging files: nothing is lost, no reader meets half a volume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from kills import (
    PATIENTS,
    QUICK,
    VICTIMS,
    Reader,
    broken_volumes,
    contents,
    kill_group,
    kill_once,
    small_series,
    start,
    wait_for_published,
    whatever_is_wrong,
    workers_of,
)

from etl.phantom.cohort import write_benchmark

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Enough series that a kill falls between them, and their store."""
    folder = tmp_path_factory.mktemp("kill")
    write_benchmark(folder / "dicom", PATIENTS, 30, rows=96)
    return folder / "dicom", undisturbed_store(folder / "dicom", folder)


def undisturbed_store(dicom, folder):
    status, said = run_to_end(dicom, folder / "s.zarr", "--workers", "0")
    assert status == 0, said
    return contents(folder / "s.zarr")


def run_to_end(dicom, store, *options, environment=None, timeout_s=100):
    log = store.with_name(f"{store.stem}.{time.monotonic_ns()}.log")
    process = start("run", dicom, store, *QUICK, *options, log=log, environment=environment)
    try:
        return process.wait(timeout_s), log.read_text()
    finally:
        kill_group(process)


def ledger_of(run_dir):
    lines = [json.loads(line) for line in (run_dir / "ledger.jsonl").read_text().splitlines()]
    return lines, json.loads((run_dir / "run.json").read_text())


def assert_the_ledger_is_true(run_dir, store, count, *, late=0):
    """One line a stack, the sums agree, and `written` is what lies in the store.

    `late`: so many may have been published after the run ended, by workers that outlived it.
    """
    lines, totals = ledger_of(run_dir)
    assert len(lines) == totals["scanned"] == count
    assert count == sum(totals[outcome] for outcome in ("written", "unchanged", "excluded", "failed"))
    written = {f"{e['patient_key']}/{e['series_key']}" for e in lines if e["outcome"] in ("written", "unchanged")}
    published = {p.parent.relative_to(store).as_posix() for p in store.glob("*/*/zarr.json")}
    assert written <= published
    assert len(published - written) <= late
    return lines, totals


# --- kills ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_at_any_moment_loses_nothing(cohort, tmp_path, victim):
    """Nor does it hold up the run: the receipts of a killed worker were waited for 97 s once."""
    killed = kill_once(*cohort, tmp_path, victim, np.random.default_rng([7, VICTIMS.index(victim)]))
    assert killed.problems == []
    assert killed.rounds > 0


def test_a_worker_killed_while_it_starts_is_started_again(cohort, tmp_path):
    dicom, undisturbed = cohort
    store = tmp_path / "s.zarr"
    process = start("run", dicom, store, *QUICK, "--workers", "2", log=tmp_path / "log")
    try:
        while not (workers := workers_of(process.pid)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        kill_group(process)
    assert whatever_is_wrong(store, undisturbed) == []


def test_a_kill_at_any_step_on_the_disk_loses_nothing(tmp_path):
    """In a process of its own: it forks, and here are threads."""
    code = f"""
import sys, json
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]!r}
import numpy as np
from kills import crash_points
print(json.dumps(crash_points(Path({str(tmp_path)!r}), 2, np.random.default_rng(5))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    points, problems = json.loads(done.stdout)
    assert points == 8
    assert problems == []


# --- a scheduler ----------------------------------------------------------------------------------------


@contextmanager
def dask_cluster(folder):
    """A scheduler and two workers over TCP; gives the scheduler's process and address."""
    processes = []

    def launch(*arguments):
        with (folder / "dask.log").open("ab") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))

    file = folder / "scheduler.json"
    host = ("--host", "127.0.0.1", "--no-dashboard")
    try:
        launch("scheduler", *host, "--port", "0", "--no-jupyter", "--scheduler-file", str(file))
        for n in range(2):
            options = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--name", f"w{n}")
            launch("worker", "--scheduler-file", str(file), *host, *options)
        end = time.monotonic() + 60
        while not (file.exists() and file.read_text().rstrip().endswith("}")):
            assert time.monotonic() < end, (folder / "dask.log").read_text()
            time.sleep(0.02)
        yield processes[0], json.loads(file.read_text())["address"]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)


def test_a_scheduler_killed_within_a_run_loses_nothing_and_the_ledger_says_what_is_left(cohort, tmp_path):
    dicom, undisturbed = cohort
    store = tmp_path / "s.zarr"
    with dask_cluster(tmp_path) as (scheduler, address), Reader(store) as reader:
        options = ("--scheduler", address, "--run-dir", tmp_path / "first")
        process = start("run", dicom, store, *QUICK, *options, log=tmp_path / "log")
        try:
            wait_for_published(store, 2, process)
            assert process.poll() is None, (tmp_path / "log").read_text()
            scheduler.kill()
            status = process.wait(60)
        finally:
            kill_group(process)
    said = (tmp_path / "log").read_text()
    assert status == 1, said
    assert "Traceback" not in said
    assert "the connection to the scheduler is lost" in said
    assert reader.broken == []
    lines, totals = assert_the_ledger_is_true(tmp_path / "first", store, PATIENTS, late=2)
    assert totals["pending"] == sum("not reached" in (e["detail"] or "") for e in lines) == totals["failed"]
    assert run_to_end(dicom, store, "--workers", "0")[0] == 0
    assert whatever_is_wrong(store, undisturbed) == []


# --- series that harm their worker ----------------------------------------------------------------------

HARM = """
import os, resource, shutil, signal, sys

def watch(event, arguments):
    # Only while series are processed: the store has no root while headers are read.
    if event != "open" or not isinstance(arguments[0], str) or not os.path.exists(ROOT):
        return
    folder, name = os.path.split(arguments[0])
    harm = os.path.basename(folder)
    if harm == "crashes":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    elif harm == "is-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif harm == "takes-all-memory":
        before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), before[1]))
        try:
            bytearray(256 << 20)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    elif harm == "hangs" and not os.path.exists(arguments[0] + ".away"):
        os.rename(arguments[0], arguments[0] + ".away")
        os.mkfifo(arguments[0])  # nobody ever writes into it
    elif harm == "vanishes" and os.path.exists(folder):
        os.rename(folder, os.path.join(os.path.dirname(os.path.dirname(folder)), "vanished"))

ROOT = os.environ["HARM_ROOT"]
if "--multiprocessing-fork" in sys.orig_argv:
    sys.addaudithook(watch)
"""
HARMED = {
    "crashes": "worker-died",
    "is-killed": "worker-died",
    "takes-all-memory": "too-large",
    "hangs": "unreadable",
    "vanishes": "unreadable",
}
UNHARMED = ("neighbor-1", "neighbor-2", "neighbor-3")


@pytest.fixture(scope="module")
def harmed(tmp_path_factory):
    """A run of two workers with one series of each harm among others; then one where nothing happens."""
    work = tmp_path_factory.mktemp("harm")
    dicom, store = work / "dicom", work / "s.zarr"
    for n, name in enumerate([*HARMED, *UNHARMED]):
        small_series(dicom / name, name, seed=n)
    (work / "undisturbed").mkdir()
    undisturbed = undisturbed_store(dicom, work / "undisturbed")
    (work / "site").mkdir()
    (work / "site" / "sitecustomize.py").write_text(HARM)
    path = os.pathsep.join([str(work / "site"), str(Path(__file__).parents[2])])
    environment = {"PYTHONPATH": path, "HARM_ROOT": str(store / "zarr.json")}
    options = ("--workers", "2", "--time-limit-s", "2", "--run-dir", work / "first")
    with Reader(store) as reader:
        status, said = run_to_end(dicom, store, *options, environment=environment)
    return work, status, said, reader, undisturbed


def test_a_series_that_harms_its_worker_costs_that_series_only(harmed):
    work, status, said, reader, _ = harmed
    assert status == 3, said
    assert reader.broken == []
    lines, _ = assert_the_ledger_is_true(work / "first", work / "s.zarr", len(HARMED) + len(UNHARMED))
    found = {e["patient_id"]: e["reason"] if e["outcome"] == "failed" else e["outcome"] for e in lines}
    assert found == {**HARMED, **dict.fromkeys(UNHARMED, "written")}
    assert broken_volumes(work / "s.zarr") == ([], len(UNHARMED))


def test_the_run_after_the_harm_completes_the_store(harmed):
    work, _, _, _, undisturbed = harmed
    dicom = work / "dicom"
    (work / "vanished").rename(dicom / "vanishes")
    for away in (dicom / "hangs").glob("*.away"):
        away.replace(away.with_suffix(""))
    status, said = run_to_end(dicom, work / "s.zarr", "--workers", "0", "--run-dir", work / "second")
    assert status == 0, said
    _, totals = ledger_of(work / "second")
    assert (totals["written"], totals["unchanged"]) == (len(HARMED), len(UNHARMED))
    assert whatever_is_wrong(work / "s.zarr", undisturbed) == []


# --- a full disk ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Give a function that mounts a file system of so many kB, or makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(kilobytes):
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or os.geteuid() != 0:
            pytest.skip("only root may mount a small file system")
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()[:100]}")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", str(place)], timeout=20, check=True)


def test_a_full_disk_stops_the_run_with_a_line_and_room_lets_the_next_complete(cohort, small_disk, tmp_path):
    dicom, undisturbed = cohort
    total_kb = sum(map(len, undisturbed.values())) // 1024
    store = small_disk(total_kb // 2) / "s.zarr"
    options = ("--workers", "2", "--run-dir", tmp_path / "first")
    log = tmp_path / "log"
    with Reader(store) as reader:
        process = start("run", dicom, store, *QUICK, *options, log=log)
        try:
            status = process.wait(60)
        finally:
            kill_group(process)
    assert status == 1, log.read_text()
    assert log.read_text().splitlines() == [
        "ct-etl: the disk takes nothing more (No space left on device); make room, run again"
    ]
    assert reader.broken == []
    lines, totals = assert_the_ledger_is_true(tmp_path / "first", store, PATIENTS)
    assert 0 < totals["written"] < PATIENTS
    assert {e["reason"] for e in lines if e["outcome"] == "failed"} == {"internal-error"}
    small_disk(8 * total_kb)
    again = ("--workers", "0", "--run-dir", tmp_path / "again")
    process = start("run", dicom, store, *QUICK, *again, log=log)
    try:
        assert process.wait(60) == 0, log.read_text()
    finally:
        kill_group(process)
    assert ledger_of(tmp_path / "again")[1]["unchanged"] == totals["written"]
    assert whatever_is_wrong(store, undisturbed) == []


def test_a_disk_that_is_full_before_the_first_series_is_a_line_too(cohort, small_disk, tmp_path):
    store = small_disk(4) / "s.zarr"
    log = tmp_path / "log"
    process = start("run", cohort[0], store, *QUICK, "--workers", "0", log=log)
    try:
        assert process.wait(60) == 1, log.read_text()
    finally:
        kill_group(process)
    refuge, line = log.read_text().splitlines()
    assert "No space left on device" in line
    # The run directory lies on the same disk.
    ledger_of(Path(refuge.rpartition("the ledger is in ")[2]))
