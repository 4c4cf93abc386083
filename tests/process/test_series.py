"""One series, files to store: what a worker does when the run that sent it is over."""

from __future__ import annotations

from pathlib import Path

import pytest
from series import scan, small_series

from etl.config import Config
from etl.plan.plan import SeriesTask, make_plan
from etl.process.series import process
from etl.store.lock import StoreLock

CONFIG = Config(spacing_mm=(8.0, 8.0, 8.0), min_slices=2)


@pytest.fixture
def task(tmp_path: Path) -> SeriesTask:
    small_series(tmp_path / "dicom" / "p")
    [task] = make_plan(scan(tmp_path / "dicom"), CONFIG).tasks
    return task


def test_a_worker_publishes_while_its_run_holds_the_lock(task: SeriesTask, tmp_path: Path) -> None:
    with StoreLock(str(tmp_path / "s.zarr")) as lock:
        receipt = process(task, CONFIG, str(tmp_path / "s.zarr"), lock.token)
    assert (receipt.entry.outcome, receipt.traceback) == ("written", None)
    assert receipt.entry.bytes_out > 0
    assert (tmp_path / "s.zarr" / task.entry.patient_key / task.entry.series_key / "zarr.json").is_file()


def test_a_worker_that_outlives_its_run_writes_nothing(task: SeriesTask, tmp_path: Path) -> None:
    """The next run may hold the lock by then: the token is that of one run, not of the store."""
    with StoreLock(str(tmp_path / "s.zarr")) as lock:
        token = lock.token
    (tmp_path / ".s.zarr.lock.2").write_text("{}")
    receipt = process(task, CONFIG, str(tmp_path / "s.zarr"), token)
    assert (receipt.entry.outcome, receipt.entry.reason) == ("failed", "unreadable")
    assert "gave up" in str(receipt.entry.detail)
    assert not (tmp_path / "s.zarr").exists()
