"""Runs in one process, in those of a local cluster and over TCP: the same bytes; and runs that are stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import zarr

from etl.phantom.cohort import write_benchmark

QUICK = ("--spacing-mm", "6")
PATIENTS = 10


def wait_until(is_true, *, timeout_s, process=None):
    end = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, "the process ended early"
        time.sleep(0.01)


def is_alive(group):
    """Whether a process group has a process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def start_dask(*arguments, cwd):
    command = [sys.executable, "-m", "dask", *arguments]
    with (cwd / f"{arguments[0]}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A scheduler process without workers, listening on a free port of this machine only."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-jupyter")
    process = start_dask("scheduler", *options, "--scheduler-file", str(file), cwd=folder)
    try:
        wait_until(file.exists, timeout_s=60, process=process)
        wait_until(lambda: file.read_text().rstrip().endswith("}"), timeout_s=10, process=process)
        yield folder, json.loads(file.read_text())["address"]
    finally:
        stop(process)


@pytest.fixture(scope="module")
def workers(scheduler):
    """Two worker processes of the scheduler, on TCP ports of their own; gives the scheduler's address."""
    folder, address = scheduler
    options = ("--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
    processes = [start_dask("worker", address, *options, "--name", f"w{n}", cwd=folder) for n in range(2)]
    try:
        yield address
    finally:
        for process in processes:
            stop(process)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Enough series that a run can be stopped in the middle."""
    folder = tmp_path_factory.mktemp("benchmark") / "dicom"
    write_benchmark(folder, PATIENTS, 40, rows=64)
    return folder


@pytest.fixture(scope="module")
def undisturbed(benchmark, ct_etl, tmp_path_factory, contents):
    store = tmp_path_factory.mktemp("undisturbed") / "s.zarr"
    done = ct_etl("run", benchmark, store, "--workers", "0", "-q")
    assert done.status == 0, done.why
    return contents(store)


def test_two_workers_write_the_same_bytes_as_none(ct_etl, cohort_run, tmp_path, contents):
    store = tmp_path / "s.zarr"
    done = ct_etl("run", cohort_run.cohort.folder, store, *QUICK, "--workers", "2")
    assert done.status == 0, done.why
    assert contents(store) == contents(cohort_run.store)
    assert "127.0.0.1" in done.stderr  # the dashboard, on this machine only
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_a_local_cluster_is_quiet_when_asked(ct_etl, cohort, tmp_path):
    done = ct_etl("run", cohort.folder, tmp_path / "s.zarr", *QUICK, "--workers", "2", "-q", "--json")
    assert done.status == 0, done.why
    assert done.stderr == ""
    assert done.json["written"] == len(cohort.wanted)


@pytest.mark.slow
def test_workers_over_tcp_write_the_same_bytes_and_live_on(ct_etl, cohort_run, workers, tmp_path, contents):
    for name in ("first.zarr", "second.zarr"):
        store = tmp_path / name
        done = ct_etl("run", cohort_run.cohort.folder, store, *QUICK, "--scheduler", workers, "--json")
        assert done.status == 0, done.why
        assert done.json["written"] == len(cohort_run.cohort.wanted)
        assert contents(store) == contents(cohort_run.store)
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_failures_come_back_from_workers_as_they_do_without(ct_etl, workers, cohort, tmp_path):
    """Zoom needs equal gaps, so the series in two thicknesses fails; its neighbors do not."""
    runs = {}
    for name, where in (("serial", ["--workers", "0"]), ("tcp", ["--scheduler", workers])):
        options = ("--zoom", "1,.5,.5", "--json", "-q")
        done = ct_etl("run", cohort.folder, tmp_path / f"{name}.zarr", *options, *where)
        assert done.status == 3, done.why
        runs[name] = [{k: v for k, v in e.items() if k != "seconds"} for e in done.json["series"]]
    assert runs["serial"] == runs["tcp"]
    assert [e["reason"] for e in runs["tcp"] if e["outcome"] == "failed"] == ["inconsistent-slices"]


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_one_line_and_exit_2(ct_etl, cohort, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    done = ct_etl("run", cohort.folder, tmp_path / "s.zarr", "--scheduler", address)
    assert done.status == 2, done.why
    assert len(done.stderr.splitlines()) == 1, done.why
    assert address in done.stderr
    assert time.monotonic() - start < 35
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_scheduler_without_workers_is_waited_for_and_then_exit_2(ct_etl, cohort, tmp_path):
    file = tmp_path / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-jupyter")
    process = start_dask("scheduler", *options, "--scheduler-file", str(file), cwd=tmp_path)
    try:
        wait_until(file.exists, timeout_s=60, process=process)
        wait_until(lambda: file.read_text().rstrip().endswith("}"), timeout_s=10, process=process)
        address = json.loads(file.read_text())["address"]
        done = ct_etl("run", cohort.folder, tmp_path / "s.zarr", "--scheduler", address, "--wait-workers", "2")
    finally:
        stop(process)
    assert done.status == 2, done.why
    waiting, refusal = done.stderr.splitlines()
    assert "waiting up to 2 s" in waiting
    assert "no workers" in refusal
    assert not (tmp_path / "s.zarr").exists()


@pytest.fixture(
    scope="module",
    params=[(["--workers", "0"], False), (["--workers", "2"], False), (["--workers", "2"], True)],
    ids=["no workers", "the command alone", "the whole process group"],
)
def stopped(request, benchmark, tmp_path_factory):
    """A run that was stopped by Ctrl-C once its first series was published: the store and what it said."""
    options, whole_group = request.param
    folder = tmp_path_factory.mktemp("stopped")
    store, said = folder / "s.zarr", folder / "stderr"
    command = [sys.executable, "-m", "etl", "run", str(benchmark), str(store), *options]
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: any(store.glob("*/*/zarr.json")) or process.poll() is not None, timeout_s=100)
        assert process.poll() is None, said.read_text()
        # A terminal sends Ctrl-C to all processes of the group, `kill` and notebooks to one.
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        process.wait(60)
        wait_until(lambda: not is_alive(process.pid), timeout_s=20)  # no worker goes on writing
    finally:
        if is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    return store, process.returncode, said.read_text()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_next_run_goes_on(ct_etl, benchmark, undisturbed, stopped, contents):
    store, status, said = stopped
    assert status == 130, said
    finished = {p.parent.relative_to(store).as_posix() for p in store.glob("*/*/zarr.json")}
    assert 1 <= len(finished) < PATIENTS
    _assert_readable(store, finished)
    before = contents(store)
    for name in finished:
        whole = {key: content for key, content in undisturbed.items() if key.startswith(f"{name}/")}
        assert {key: content for key, content in before.items() if key.startswith(f"{name}/")} == whole

    again = ct_etl("run", benchmark, store, "--workers", "0", "--json")
    assert again.status == 0, again.why
    assert again.json["unchanged"] == len(finished)
    assert again.json["written"] == PATIENTS - len(finished)
    assert contents(store) == undisturbed


@pytest.mark.slow
def test_ctrl_c_says_what_became_of_the_work_and_nothing_else(stopped):
    _, _, said = stopped
    assert "finished series stay" in said
    assert "Traceback" not in said, said


def _assert_readable(store, finished):
    for use in (None, False):
        group = zarr.open_group(store, mode="r", use_consolidated=use)
        for name in finished:
            assert group[f"{name}/volume"][:].std() > 0
    from etl import open_store

    listed = {f"{patient.key}/{key}" for patient in open_store(store).values() for key in patient}
    assert listed == finished
