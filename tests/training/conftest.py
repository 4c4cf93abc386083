"""Stores written by hand whose voxels tell where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from handmade_store import Series, write_store


def ramp(shape: tuple[int, int, int], first: int = 0) -> np.ndarray:
    """HU that tell every voxel from every other: the stored value gives the index away."""
    return np.arange(first, first + np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is an optional extra")


@pytest.fixture(scope="module")
def stored() -> list[Series]:
    return [
        Series(ramp((9, 10, 11)), "P1", "0002-aaaaaaaa", dicom={"KVP": 120}),
        Series(ramp((6, 8, 5), 1000), "P1", "0003-bbbbbbbb", is_default=False),
        Series(ramp((5, 20, 7), 500), "P2", "0002-cccccccc", dicom={"KVP": 80}),
    ]


@pytest.fixture(scope="module")
def store_path(tmp_path_factory, stored) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "s.zarr", stored)


@pytest.fixture(scope="module")
def labeled_path(tmp_path_factory, stored) -> Path:
    """The same store with two labels a series: where a voxel's HU is above 600, and its index along x."""
    path = write_store(tmp_path_factory.mktemp("stores") / "labeled.zarr", stored)
    for one in stored:
        labels = zarr.open_group(path / one.node).create_group("labels")
        bright = (one.hu > 600).astype(np.uint8)
        columns = np.broadcast_to(np.arange(one.hu.shape[2], dtype=np.uint8), one.hu.shape)
        for name, values in (("bright", bright), ("column", columns)):
            labels.create_array(name, data=np.ascontiguousarray(values), chunks=(4, 4, 4))
    return path
