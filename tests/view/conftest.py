"""A small cohort, written by hand, and the viewer of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from handmade_store import Series, head, write_store
from ledger_lines import LEDGER

from etl.read.patients import open_store
from etl.view.app import App
from etl.view.verdict_file import VerdictFile

GE = {"Manufacturer": "GE", "ConvolutionKernel": "BONE", "SliceThickness": 1.25}
SIEMENS = {"Manufacturer": "SIEMENS", "ConvolutionKernel": ["H31s", "3"], "SliceThickness": 5.0}


@pytest.fixture(scope="session")
def series() -> list[Series]:
    validity = np.ones((9, 10, 11), np.uint8)
    validity[:2] = 0
    return [
        Series(head((9, 10, 11)), "P1", "0002-aaaaaaaa", dicom=GE, warnings=["gantry-tilt"], validity=validity),
        Series(head((6, 8, 7)), "P1", "0003-bbbbbbbb", is_default=False, dicom=SIEMENS),
        Series(head((5, 12, 7)), "<b>P2</b>", "0002-cccccccc", dicom=SIEMENS, warnings=["missing-slice"]),
        Series(head((12, 6, 6)), "P3", "0004-dddddddd"),
    ]


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, series: list[Series]) -> Path:
    """The store, written once: to copy it is twenty times as fast."""
    path = write_store(tmp_path_factory.mktemp("viewed") / "cohort.zarr", series)
    zarr.create_array(path / series[0].node / "labels/lesion/0", data=np.ones((9, 10, 11), np.uint8))
    return path


@pytest.fixture
def store(tmp_path: Path, original: Path) -> Path:
    return shutil.copytree(original, tmp_path / "cohort.zarr")


@pytest.fixture
def app(store: Path):
    with VerdictFile(store.with_name("cohort.zarr.verdicts.csv")) as verdicts:
        yield App(open_store(store), ledger=LEDGER, verdicts=verdicts)
