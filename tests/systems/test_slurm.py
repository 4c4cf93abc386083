"""`deploy/slurm/ct-etl.sbatch` on Debian's SLURM: one node, two nodes, a stop before the limit, a dead node."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm import Slurm, missing_programs

from etl.phantom.cohort import write_benchmark

CHECKOUT = Path(__file__).resolve().parents[2]
SERIES = 12
# So many that a run can be stopped in between.
MANY = 30
QUICK = ("--spacing-mm", "4")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if os.getuid() != 0:
        pytest.skip("SLURM's daemons take root")
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}")
    environment = {"VENV": sys.prefix, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)])}
    with Slurm(tmp_path_factory.mktemp("slurm"), CHECKOUT, environment) as slurm:
        yield slurm


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "dicom"
    write_benchmark(folder, SERIES, 8, rows=32)
    return folder


@pytest.fixture(scope="module")
def many_series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "dicom"
    write_benchmark(folder, MANY, 24, rows=64)
    return folder


@pytest.fixture(scope="module")
def undisturbed(series, ct_etl, tmp_path_factory, contents):
    store = tmp_path_factory.mktemp("undisturbed") / "s.zarr"
    done = ct_etl("run", series, store, "--workers", "0", "-q", *QUICK)
    assert done.status == 0, done.why
    return contents(store)


def wait_until(is_true, timeout_s):
    end = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def published(store):
    return list(store.glob("*/*/zarr.json"))


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_writes_the_bytes_of_a_local_run_and_leaves_nothing(
    slurm, series, tmp_path, undisturbed, contents, nodes
):
    store = tmp_path / "s.zarr"
    job = slurm.submit(series, store, *QUICK, nodes=nodes)
    wait_until(lambda: slurm.processes(job) or slurm.field(job, "JobState") not in {"PENDING", "RUNNING"}, 30)
    seen: set[str] = set()
    while slurm.field(job, "JobState") in {"PENDING", "RUNNING"}:
        for line in slurm.processes(job).values():
            if " worker " in line and "dask" in line:
                seen.add(line.split("--host ")[1].split()[0])
        time.sleep(0.5)
    assert slurm.wait(job) == 0, slurm.log(job)
    assert seen == {f"127.0.0.{number + 2}" for number in range(nodes)}
    assert contents(store) == undisturbed
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.rglob("*") if path.is_dir()} == {0o777 & ~umask}
    # Certificates are of one job, and go with it.
    assert list((slurm.folder / "shared").iterdir()) == []
    assert slurm.processes(job) == {}


def test_failed_series_give_the_job_the_status_of_the_run(slurm, cohort, tmp_path):
    job = slurm.submit(cohort.folder, tmp_path / "s.zarr", "--zoom", "1,.5,.5")
    assert slurm.wait(job) == 3, slurm.log(job)


def test_the_signal_before_the_limit_stops_the_run_and_the_next_job_goes_on(slurm, many_series, tmp_path, ct_etl):
    store = tmp_path / "s.zarr"
    job = slurm.submit(many_series, store)
    wait_until(lambda: published(store), 90)
    # What --signal=B:TERM@120 sends two minutes before the limit.
    slurm.call("scancel", "--batch", "--signal=TERM", str(job))
    start = time.monotonic()
    assert slurm.wait(job) == 143, slurm.log(job)
    assert time.monotonic() - start < 60
    said = slurm.log(job)
    assert "were not reached" in said
    assert "Traceback" not in said
    assert slurm.processes(job) == {}
    finished = len(published(store))
    assert 1 <= finished < MANY
    again = slurm.submit(many_series, store, "--json", "-q")
    assert slurm.wait(again) == 0, slurm.log(again)
    assert len(published(store)) == MANY
    assert f'"unchanged": {finished}' in slurm.log(again)


@pytest.mark.timeout(600)
def test_a_requeued_job_waits_for_the_lock_of_the_node_that_died(slurm, many_series, tmp_path):
    store = tmp_path / "s.zarr"
    job = slurm.submit(many_series, store)
    wait_until(lambda: published(store), 90)
    # All at once, as where a node loses power: nobody cleans up.
    for process in slurm.processes(job):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: slurm.field(job, "JobState") not in {"RUNNING", "COMPLETING"}, 60)
    [lock] = tmp_path.glob(".s.zarr.lock.*")
    slurm.call("scontrol", "requeue", str(job))
    # Slurm lets two minutes pass, in which the lock would go stale; not every site's Slurm does.
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    while slurm.field(job, "JobState") != "RUNNING":
        os.utime(lock)
        time.sleep(1)
    assert slurm.wait(job, timeout_s=280) == 0, slurm.log(job)
    assert "waiting for the lock" in slurm.log(job)
    assert len(published(store)) == MANY
    assert list((slurm.folder / "shared").iterdir()) == []


def test_the_script_asks_slurm_for_a_signal_ahead_of_the_limit(slurm, series, tmp_path):
    job = slurm.submit(series, tmp_path / "s.zarr", *QUICK, "--dry-run")
    assert slurm.wait(job) == 0, slurm.log(job)
    script = (CHECKOUT / "deploy/slurm/ct-etl.sbatch").read_text()
    assert "#SBATCH --signal=B:TERM@120" in script
    assert slurm.field(job, "Requeue") == "1"


def test_the_page_on_dask_jobqueue_is_true(slurm, many_series, tmp_path):
    """Its one block of Python, run as the page says, on one core a job; all that it starts ends with it."""
    pytest.importorskip("dask_jobqueue")
    page = (CHECKOUT / "deploy" / "jobqueue.md").read_text("utf-8")
    [block] = re.findall(r"(?ms)^```python\n(.*?)^```$", page)
    (tmp_path / "submit.py").write_text(block)
    tls = tmp_path / "tls"
    subprocess.run([CHECKOUT / "deploy" / "make-certificates.sh", tls], check=True, capture_output=True)
    script = '. "$CT_ETL_HOME/deploy/environment.sh"; exec "$@"'
    command = [
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "submit.py",
        str(many_series),
        str(tmp_path / "s.zarr"),
        "--json",
    ]
    environment = {
        **slurm.environment,
        "TLS_DIR": str(tls),
        "CT_ETL_DEPLOY": str(CHECKOUT / "deploy"),
        "HOST": "127.0.0.1",
        "MOST_WORKERS": "2",
        "JOB_OPTIONS": "--mem=700M",
    }
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(published(tmp_path / "s.zarr")) == MANY
    assert "Traceback" not in done.stderr
    wait_until(lambda: not slurm.call("squeue", "-h").strip(), 60)
