from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxes import STACKS, two_boxes
from labeled_stores import add_label
from series import small_series

from etl.read.patients import Volume, open_store


@pytest.fixture
def stored(tmp_path: Path, in_process: Callable[..., Any]) -> Callable[..., Volume]:
    """Write a series below ``dicom`` and bring it into ``s.zarr``."""

    def store(*options: str, **stack: Any) -> Volume:
        small_series(tmp_path / "dicom", rows=40, **stack)
        done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", "--workers", "0", "-q", *options)
        assert done.status == 0, done.why
        return open_store(tmp_path / "s.zarr")["P1"].default

    return store


@pytest.fixture(params=STACKS)
def volume(request: pytest.FixtureRequest, tmp_path: Path, stored: Callable[..., Volume]) -> Volume:
    """A volume with a label of two structures; its DICOM lies in ``dicom``."""
    options, stack = STACKS[request.param]
    made = stored(*options, count=14, **stack)
    add_label(tmp_path / "s.zarr", made.node, "organs", two_boxes(made.shape), {1: "left", 2: "right"})
    return made
