"""Where the record of a run lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl.config import build_config, load_preset
from etl.run.run_dir import new_run_dir, newest_run, runs_folder


def test_stores_that_differ_after_a_dot_have_folders_of_their_own() -> None:
    names = ("ct", "ct.v1", "ct.v2", "ct.zarr", "ct.v1.zarr", ".hidden", "ct.runs")
    assert len({runs_folder(Path("/data") / name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("store", "folder"), [("ct.v1", "ct.v1.runs"), ("ct.zarr", "ct.zarr.runs"), ("ct", "ct.runs")]
)
def test_the_folder_of_runs_has_the_full_name_of_the_store(store: str, folder: str) -> None:
    run_dir = new_run_dir(f"/data/{store}", build_config(load_preset("head-ct"), {}))
    assert run_dir.parent == Path("/data") / folder


def test_the_newest_run_of_a_store_is_never_one_of_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "ct.v1.runs" / "20260101T000000.000000Z").mkdir(parents=True)
    assert newest_run(tmp_path / "ct.v2") == tmp_path / "ct.v2.runs"
