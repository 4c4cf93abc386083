"""Workers elsewhere that are too small for a series: told before one dies of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etl.phantom.cohort import write_benchmark

MB = 1 << 20


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / f"{arguments[0]}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, cwd=folder)


@pytest.fixture(
    params=[("memory limit", 200), ("resource", 200), ("both", 150), ("neither", None)], ids=lambda p: p[0]
)
def small_worker(request, tmp_path):
    """A scheduler with one worker; gives its address and what the worker has, in MB."""
    kind, has_mb = request.param
    file = tmp_path / "scheduler.json"
    processes = [start(tmp_path, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                       "--scheduler-file", str(file))]  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (file.exists() and file.read_text().rstrip().endswith("}")):
            assert time.monotonic() < end
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        limit = str(200 * MB) if kind in {"memory limit", "both"} else "0"
        resource = {"resource": 200, "both": 150}.get(kind)
        options = ["--resources", f"MEMORY={resource * MB}"] if resource else []
        processes.append(start(tmp_path, "worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
                               "--no-dashboard", "--memory-limit", limit, *options))  # fmt: skip
        yield address, has_mb
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(20)


@pytest.mark.slow
def test_a_series_that_no_worker_has_the_memory_for_is_told_from_the_plan(small_worker, tmp_path, ct_etl):
    address, has_mb = small_worker
    write_benchmark(tmp_path / "dicom", 2, 16, rows=128)
    options = ("--scheduler", address, "--spacing-mm", "0.7", "--json", "-q", "--run-dir", tmp_path / "run")
    done = ct_etl("run", tmp_path / "dicom", tmp_path / "s.zarr", *options)
    entries = done.json["series"]
    assert len(entries) == 2
    if has_mb is None:
        assert done.status == 0, done.why
        return
    assert done.status == 3, done.why
    for entry in entries:
        assert (entry["outcome"], entry["reason"]) == ("failed", "too-large")
        assert f"the largest worker has {has_mb} MB" in entry["detail"]
